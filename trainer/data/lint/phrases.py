"""Phrases of answers that decline, ask back, name a model or were never filled in.

English for the most part; the openings of refusals in other common languages.
"""

from __future__ import annotations

import re

NOT = r"(?:can(?:'|’)?t|cannot|can not|won(?:'|’)t|am unable to|am not able to)"
HELPING = (
    "help|assist|provide|answer|comply|fulfil|do|support|give|share|create|write|discuss|engage|offer|access|perform"
    "|browse|book|order"
)


class Phrases:
    """A pattern that is only tried on texts that hold one of its cues: a substring costs a hundredth of a search."""

    def __init__(self, cues: str, *patterns: str) -> None:
        self.cues = tuple(cues.split("|"))
        self.pattern = re.compile("|".join(patterns))

    def are_in(self, text: str) -> bool:
        """Search a text in lower case."""
        return any(cue in text for cue in self.cues) and bool(self.pattern.search(text))


BOILERPLATE = Phrases(
    "language model|an ai |an ai,|artificial intel|knowledge cutoff|by openai",
    r"\bas an? (?:ai|artificial intelligence)(?: language)?(?: model| assistant)?\b(?=,| i\b| my\b)",
    r"\bas a (?:large )?language model\b(?=,| i\b| my\b)",
    r"\bmy knowledge cutoff\b",
    r"\bi (?:am|was)[^.\n]{0,40} (?:trained|developed) by openai\b",
)
PLACEHOLDER = Phrases(
    "lorem ipsum|[insert|[your|[add|[enter your|[fill in|[todo|[placeholder|[tbd|<insert|<placeholder"
    "|todo:|tbd:|fixme:",
    r"\blorem ipsum\b",
    r"\[(?:insert|your|add|enter your|fill in|todo|placeholder|tbd)\b[^\]\n]{0,60}\](?!\()",
    r"<(?:insert|placeholder)\b[^>\n]{0,40}>",
    r"(?<![\w#/*'\"-])(?:todo|tbd|fixme):",
)
REFUSAL = Phrases(
    "sorry|afraid|can't|can’t|cannot|can not|won't|won’t|unable|not able|don't|don’t|do not|information"
    "|lo siento|tut mir leid|désolé|mi dispiace|sinto muito|抱歉|对不起|申し訳",
    r"\bi(?:'m| am|’m)? (?:really |very |so )?(?:sorry|afraid)\b[^.\n]{0,40}"
    rf"\b(?:{NOT}|unable|not able|don(?:'|’)?t)\b",
    rf"\bi {NOT} (?:\w+ )?(?:{HELPING})\b",
    r"\bi(?:'m|’m| am) (?:unable|not able) to\b",
    r"\bi (?:don(?:'|’)?t|do not) (?:know\b|have (?:access|enough|any information|the ability|personal))",
    r"\bthere(?:'s| is) (?:not enough|no) information\b",
    r"\b(?:lo siento|es tut mir leid|je suis désolée?|mi dispiace|sinto muito)\b",
    r"抱歉|对不起|申し訳",
)
CLARIFICATION = Phrases(
    "you |please |what |which ",
    r"\b(?:could|can|would) you (?:please |also |kindly )?"
    r"(?:clarify|specify|provide|tell me|give me|share|explain|let me know|confirm)\b",
    r"\bplease (?:provide|specify|clarify|tell me|share|let me know)\b",
    r"\bwhat (?:do you mean|exactly)\b",
    r"\bwhich (?:one|of (?:these|the))\b",
)
NONE_OF_THEM = re.compile(
    r"(?:^|[\W_])(?:none|others?|unknown|oos|ood|unclear|n/?a|fallback)(?:$|[\W_])"
    r"|out[ _-]of[ _-](?:scope|domain)|not[ _-](?:sure|applicable|enough|supported)|no[ _-](?:answer|intent|match)",
    re.IGNORECASE,
)
"""A class for what belongs to no other class."""
