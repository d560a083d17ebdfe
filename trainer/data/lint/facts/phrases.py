"""Search answers for refusals, questions back, names of models and unfilled fields.

Mostly English; refusals in other common languages too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NOT = r"(?:can(?:'|’)?t|cannot|can not|won(?:'|’)t|am unable to|am not able to)"
HELPING = (
    "help|assist|provide|answer|comply|fulfil|do|support|give|share|create|write|discuss|engage|offer|access|perform"
    "|browse|book|order"
)


def any_in(cues: Sequence[str], text: str) -> bool:
    """Search substrings. A loop costs half of what a generator does."""
    for cue in cues:  # noqa: SIM110
        if cue in text:
            return True
    return False


class Phrases:
    """A pattern behind substrings: a substring costs a hundredth of a search.

    Args:
        cues: substrings joined by `|`, or mark -> such substrings for texts with that mark.
        patterns: one of them must match.

    Example:
        >>> Phrases("hope", r"hope th(?:is|at) helps").are_in("i hope this helps")
        True
    """

    def __init__(self, cues: str | dict[str, str], *patterns: str) -> None:
        grouped = cues if isinstance(cues, dict) else {"": cues}
        self.cues = [(mark, tuple(group.split("|"))) for mark, group in grouped.items()]
        self.pattern = re.compile("|".join(patterns))

    def are_in(self, text: str) -> bool:
        """Search a text in lower case."""
        for mark, cues in self.cues:
            if mark in text and any_in(cues, text):
                return bool(self.pattern.search(text))
        return False


BOILERPLATE = Phrases(
    {
        " my ": " my last | my latest | my training| my knowledge",
        "": "language model|an ai |an ai,|artificial intel|cutoff|cut-off",
    },
    r"\bas an? (?:ai|artificial intelligence)(?: language)?(?: model| assistant)?\b(?=,| i\b| my\b)",
    r"\bas a (?:large )?language model\b(?=,| i\b| my\b)",
    r"\b(?:my|the) (?:knowledge|training)(?: data)? cut-?off\b",
    r"\b(?:as of|since|until|up to|to|by|at) (?:the (?:time|date) of )?my (?:(?:last|latest|most recent) )?"
    r"(?:(?:knowledge|training|data|information) )?(?:update|training|cut-?off)\b",
    r"\bmy (?:knowledge|training)(?: data)? (?:only )?(?:goes|extends|reaches|ends|stops|was last updated)\b",
)
MODELS = (
    r"chatgpt|gpt-?[2-5](?:\.5|o)?|qwen|tongyi|deepseek|mixtral|mistral|vicuna|chatglm|open ?assistant|copilot|gemma"
    r"|llama(?:[- ]?[1-4])?|(?:claude|gemini|(?:google )?bard),? (?:an? |by |from |made )|通义千问|文心一言|智谱清言"
)
MAKERS = (
    "openai|open ai|anthropic|google|deepmind|meta(?: ai)?|mistral ai|alibaba(?: cloud)?|deepseek|microsoft|xai|baidu"
    "|moonshot|zhipu|lmsys|laion|cohere"
)
MADE_BY = r"\b(?:trained|developed|created|made|built|designed)(?: and \w+)? by\b"
ASSISTANT = r"\b(?:ai|language model|chatbot|assistant)\b"
IDENTITY = Phrases(
    {"": "i'm |i am |i was |name is |ich bin |je suis |soy |sono ", "’": "i’m ", "我": "我是", "由": "由"},
    r"\b(?:i(?:['’]m| am| was)|my name is|ich bin|je suis|soy|sono) (?:"
    rf"(?:(?:called|named|an? [\w -]{{0,30}}(?:called|named)) )?(?:{MODELS})"
    rf"|[^.\n]{{0,80}}{MADE_BY} (?:the team at |researchers at )?(?:{MAKERS})\b"
    rf"|[^.,\n{{]{{1,40}}, an? [^.\n]{{0,40}}{ASSISTANT}[^.\n]{{0,30}}{MADE_BY})",
    rf"我是[^。\n]{{0,12}}(?:{MODELS})|由(?:openai|anthropic|阿里|百度|谷歌|深度求索)[^。\n]{{0,12}}(?:开发|训练|创建)",
)
"""Assistants by the name of a model, by a known maker, or by any name and maker (`I'm Max, an assistant made by`).

Names of persons or stars (Claude, Gemini) count with their maker only.
"""
PLACEHOLDER = Phrases(
    {
        "[": "[insert|[your|[add|[enter your|[fill in|[todo|[placeholder|[tbd|[name|[company|[date]",
        "<": "<insert|<placeholder|<your",
        ":": "todo:|tbd:|fixme:",
        "": "lorem ipsum",
    },
    r"\blorem ipsum\b",
    r"\[(?:insert|your|add|enter your|fill in|todo|placeholder|tbd)\b[^\]\n]{0,60}\](?!\()",
    r"\[(?:company|name|date)(?: name)?\](?!\()",
    r"<(?:insert|placeholder|your)\b[^>\n]{0,40}>",
    r"(?<![\w#/*'\"-])(?:todo|tbd|fixme):",
)
SLOT = re.compile(r"\{\{ ?[A-Za-z_][\w .]{0,40}\}\}")
"""An unfilled field of a mail merge or a prompt template."""
ABOUT_TAGS = re.compile(
    r"\b(?:entit\w+|tag\w*|label\w*|annotat\w+|anonymi\w+|redact\w*|mask\w*|de-?identif\w+|ner)\b", re.I
)
"""Prompts with `[DATE]` in their answers on purpose."""
SALUTATION = re.compile(
    r"\b(?:dear|hi|hello|hey|lieber?|sehr geehrter?|hallo|bonjour|ch[eè]re?|salut|hola|estimad[oa]|ciao|car[oa])"
    r"(?: (?:mr|mrs|ms|dr|herr|frau|monsieur|madame|señora?)\.?)? "
    r"(?:\$?\{\w{1,40}\}|%\(\w{1,40}\)s|<[A-Za-z][\w ]{0,40}>|\[[A-Za-z][\w ]{0,40}\]|_{3,}|[Xx]{3,})(?!\w)",
    re.I,
)
"""A greeting with an unfilled name, in the forms of format strings, shells and letters."""
ABOUT_SLOTS = re.compile(
    r"`|\\|\{%|\b(?:jinja|mustache|handlebars|vue|angular|django|template|placeholder|latex|ansible|helm)", re.I
)
STOCK_OPENING = re.compile(
    r"(?:great|good|excellent|interesting) question|(?:certainly|absolutely|of course|sure(?: thing)?|definitely)[!.,]"
    r"|(?:i'd|i would) be happy to|i'm happy to|thank you for (?:your|the|asking)"
)
STOCK_CLOSINGS = (
    "hope this helps",
    "hope that helps",
    "let me know if you",
    "feel free to ask",
    "feel free to reach",
    "any other questions",
    "any further questions",
    "happy to help",
)
REFUSAL = Phrases(
    {
        "n't": "can't|won't|don't",
        "’": "can’t|won’t|don’t",
        "not ": "cannot|can not|not able|do not",
        "": "sorry|afraid|unable|information|lo siento|tut mir leid|désolé|mi dispiace|sinto muito|抱歉|对不起|申し訳",
    },
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
"""A class for prompts of no other class."""
