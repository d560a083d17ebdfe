"""Find turns of other speakers, prompt templates and open reasoning inside a turn's text."""

from __future__ import annotations

import re

from trainer.data.lint.facts.phrases import any_in
from trainer.data.records.kinds import Message, Record

ASKER = r"(?:#+ ?|\*\*)?(?:human|user|instruction|question)(?:\*\*)?:"
ANSWERER = r"(?:#+ ?|\*\*)?(?:assistant|ai|bot|response|answer)(?:\*\*)?:"
OTHER_TURN = re.compile(rf"\n[ \t]*{ASKER}.*?\n[ \t]*{ANSWERER}|\n\n(?:### ?)?human:|\n### ?instruction:", re.DOTALL)
ROLE_CUES = ("human:", "user:", "### instruction", "instruction:", "**human", "**user")
OWN_NAME = re.compile(r"\s*(?:### ?|\*\*)?(?:assistant|response|gpt)(?:\*\*)?:")
ABOUT_DIALOGUE = re.compile(
    r"\b(?:dialogue?s?|conversations?|transcripts?|chats?|chatbots?|scripts?|interviews?|role-?play\w*|few-shot|prompts?"
    r"|q&a|faqs?|quiz\w*|special tokens?|templates?)\b"
)
TEMPLATE_TURN = re.compile(
    r"(?<!`)(?:\[inst\]|<\|(?:user|im_start\|>user|start_header_id\|>user)\|?>?|^### ?(?:human|user|instruction):)",
    re.MULTILINE,
)
"""Beginnings of a user's turn in the templates of chat models."""
PROMPT_BEGINS = ("human:", "### human:", "### instruction:", "below is an instruction", "a chat between a curious")
"""Openings of the templates of HH, Alpaca and Vicuna."""
PROMPT_ENDS = ("assistant:", "### response:", "<|assistant|>", "### answer:")
REASONING = re.compile(r"\s*(?:<(think|thinking|thought|reasoning)>|\[THINK\])")
SWITCHES = ("/no_think", "/think")
"""Commands of a prompt for Qwen's hybrid models. Source: the model card of Qwen3."""


def speaks_for_others(prompt: str, lower: str) -> bool:
    """Tell whether an answer (in lower case) continues with turns of both sides, or begins with its role's name."""
    if lower.startswith(("assistant", "response", "#", "*", " ", "\n", "gpt")) and OWN_NAME.match(lower):
        return True
    if ":" not in lower or "\n" not in lower or not any_in(ROLE_CUES, lower) or not OTHER_TURN.search(lower):
        return False
    return not ABOUT_DIALOGUE.search(prompt.lower())


def writes_template(prompt: str, lower: str) -> bool:
    """Tell whether an answer (in lower case) has a user's turn of a chat template, and the prompt not."""
    if not ("[inst]" in lower or "<|" in lower or "###" in lower) or not TEMPLATE_TURN.search(lower):
        return False
    question = prompt.lower()
    return not ABOUT_DIALOGUE.search(question) and not TEMPLATE_TURN.search(question)


def has_own_template(prompt: str) -> bool:
    """Tell whether a prompt is rendered with a template already."""
    end = prompt[-20:].rstrip()
    if end[-1:] in (":", ">") and end.lower().endswith(PROMPT_ENDS):
        return True
    return prompt[:1] in "Hh#BbAa \n" and prompt[:40].lstrip().lower().startswith(PROMPT_BEGINS)


def is_unclosed(answer: str) -> bool:
    """Tell whether an answer opens its reasoning, and does not close it."""
    if answer[:1] not in "<[ \n" or not (opened := REASONING.match(answer)):
        return False
    close = f"</{opened[1]}>" if opened[1] else "[/THINK]"
    return close not in answer[opened.end() :]


def reasons(turn: Message) -> bool:
    """Tell whether an assistant turn has reasoning, in its text or in a key of its own."""
    text = turn["content"]
    is_written = "</think" in text or (text[:1] in "<[ \n" and bool(REASONING.match(text)))
    return is_written or "reasoning_content" in turn or "thinking" in turn


def switches_reasoning(record: Record, prompt: str) -> bool:
    """Tell whether a setting of the template or a command in the prompt switches reasoning on or off."""
    settings = record.get("chat_template_kwargs")
    if settings and ("enable_thinking" in settings or "reasoning_effort" in settings):
        return True
    return "think" in prompt and any_in(SWITCHES, prompt)
