"""Faults and kinds of an answer."""

from __future__ import annotations

import re
from typing import Any

import orjson

from trainer.data.lint.phrases import BOILERPLATE, CLARIFICATION, PLACEHOLDER, REFUSAL

OPENING_CHARS = 250
"""Declining and asking back stand at the beginning of an answer."""
MIN_PROSE_CHARS = 200
MIN_REPEATED_WORDS = 40
MAX_REPEATED_SHARE = 0.5
MAX_LABEL_CHARS = 60
MIN_LAST_WORDS = 7
"""A last line that ends in so many plain words and no stop; a table, short items, code or a signature does not."""


def answer_flags(prompt: str, answer: str) -> list[str]:
    """Return the rules that an answer breaks by itself."""
    flags = []
    if is_cut(answer):
        flags.append("Q008")
    if _copies(prompt, answer):
        flags.append("Q013")
    if repeats_itself(answer):
        flags.append("Q014")
    lower = answer.lower()
    if BOILERPLATE.are_in(lower):
        flags.append("Q015")
    if PLACEHOLDER.are_in(lower):
        flags.append("Q016")
    return flags


def answer_traits(answer: str) -> list[str]:
    """Return what kind of answer it is: refusal, clarification, prose, unfinished prose, long text without a stop."""
    traits = []
    opening = answer[:OPENING_CHARS].lower()
    if REFUSAL.are_in(opening):
        traits.append("refusal")
    if "?" in answer and answer.rstrip().endswith(("?", "?)")) and CLARIFICATION.are_in(opening):
        traits.append("clarification")
    if is_prose(answer):
        traits.append("prose")
        if is_unfinished(answer):
            traits.append("unfinished")
    if len(answer) >= MIN_PROSE_CHARS and (answer[-1].isalnum() or answer[-1] in ",;:(-"):
        traits.append("open")
    return traits


def is_cut(answer: str) -> bool:
    """Tell an answer that cannot be whole: an open code fence, or JSON that ends before it is closed."""
    text = answer.rstrip()
    if text.count("```") % 2 and len(re.findall(r"^\s*```", text, re.MULTILINE)) % 2:
        return True
    return text.startswith(("{", "[")) and not text.endswith(("}", "]")) and _is_open_json(text)


def _is_open_json(text: str) -> bool:
    """Tell JSON that breaks off from text that merely begins with a bracket."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return error.pos >= len(text) - 1 and len(text) > 1
    return False


def is_prose(answer: str) -> bool:
    """Tell sentences from code, tables and short answers, by the characters of the beginning."""
    if len(answer) < MIN_PROSE_CHARS:
        return False
    head = answer[:MIN_PROSE_CHARS]
    letters, capitals = sum(map(str.isalpha, head)), sum(map(str.isupper, head))
    return letters + head.count(" ") >= 0.85 * MIN_PROSE_CHARS and capitals < 0.2 * letters


def is_unfinished(answer: str) -> bool:
    """Tell prose whose last line runs on without a stop; an item of a list needs none."""
    last = answer.rstrip()[-300:].rpartition("\n")[2].strip()
    words = last.split()[-MIN_LAST_WORDS:]
    is_item = last[:1] in "-*+•·–" or last[:3].rstrip(".) ").isdigit()
    return len(words) == MIN_LAST_WORDS and not is_item and all(word.rstrip(",").isalpha() for word in words)


def _copies(prompt: str, answer: str) -> bool:
    """Tell an answer that is the prompt, or begins with the whole of it; a passage taken from it is an answer."""
    prompt, answer = prompt.strip(), answer.strip()
    return len(prompt) >= 20 and (answer == prompt or (len(prompt) >= 60 and answer.startswith(prompt)))


def repeats_itself(answer: str) -> bool:
    """Tell an answer at least half of whose runs of four words are repetitions, with letters in them."""
    words = answer.split()
    if len(words) < MIN_REPEATED_WORDS:
        return False
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(set(runs)) < (1 - MAX_REPEATED_SHARE) * len(runs)


def json_keys(answer: str) -> str | None:
    """Return the keys of a JSON object in order of the alphabet, "[]" for a JSON list, None for anything else."""
    text = answer.strip()
    if not text.startswith(("{", "[")) or not text.endswith(("}", "]")):
        return None
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return ",".join(sorted(value)) if isinstance(value, dict) else "[]"


def label_of(answer: str) -> str:
    """Return a short answer of one line, which may be a class; "" for a longer one."""
    text = answer.strip()
    return text if len(text) <= MAX_LABEL_CHARS and "\n" not in text else ""
