"""Find the faults of an answer and tell its kind."""

from __future__ import annotations

import re

import orjson

from trainer.data.lint.facts.dialogue import speaks_for_others, writes_template
from trainer.data.lint.facts.phrases import (
    ABOUT_SLOTS,
    ABOUT_TAGS,
    BOILERPLATE,
    CLARIFICATION,
    IDENTITY,
    PLACEHOLDER,
    REFUSAL,
    SALUTATION,
    SLOT,
    STOCK_CLOSINGS,
    STOCK_OPENING,
    any_in,
)
from trainer.data.lint.facts.scripts import is_gibberish
from trainer.data.lint.facts.text import LEFT_OVER

OPENING_CHARS, CLOSING_CHARS = 250, 160
"""Refusals and questions back stand at the beginning of an answer, offers of more help at its end."""
CAPITALS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MIN_BROKEN_CHARS = 60
BEGINNERS = frozenset(
    (
        *("and", "or", "the", "an", "of", "because", "than", "into", "which", "whose", "their", "its", "our", "your"),
        *("my", "und", "oder", "der", "das", "dem", "ein", "eine", "et", "ou", "le", "les", "un", "une", "des", "du"),
        *("el", "los", "las", "del", "que"),
    )
)
"""Words that end no sentence. `die` and `a` have other meanings too."""
MISSING = frozenset(
    {"NaN", "nan", "NAN", "null", "NULL", "Null", "None", "NA", "N/A", "<NA>", "#N/A", "NaT", "(null)", "\\N"}
)
"""Empty cells of spreadsheets, pandas and databases. `none` and `n/a` are words too."""
MISSING_CHARS = 12
SENTENCE_CHARS = 72
FIRST_SENTENCE = re.compile(r"[^.!?\n]{4,64}[.!?](?=\s)")
LAST_SENTENCE = re.compile(r"[.!?\n]\s+([^.!?\n]{8,64}[.!?])\s*\Z")
MIN_PROSE_CHARS = 200
MIN_REPEATED_WORDS = 40
MAX_REPEATED_SHARE = 0.5
MAX_LABEL_CHARS = 60
MAX_REMARK_CHARS = 80
OPEN_REMARK = re.compile(r" \((?:[^\W\d_]+[ ,'’-]*)+\Z")
"""A remark in brackets without its closing bracket."""
MIN_LAST_WORDS = 7
"""Plain words at the end of a last line without a stop. Tables, short items, code and signatures have fewer."""


def answer_flags(prompt: str, answer: str, lower: str) -> list[str]:
    """Return the rules that an answer breaks on its own; `lower` is the answer in lower case."""
    flags = []
    if speaks_for_others(prompt, lower) or (writes_template(prompt, lower) and not LEFT_OVER.is_left_over(answer)):
        flags.append("F024")
    if is_cut(answer) or is_broken_off(answer):
        flags.append("Q008")
    if copies_prompt(prompt, answer):
        flags.append("Q013")
    if repeats_itself(answer):
        flags.append("Q014")
    if BOILERPLATE.are_in(lower):
        flags.append("Q015")
    if (PLACEHOLDER.are_in(lower) and not ABOUT_TAGS.search(prompt)) or has_slot(prompt, answer):
        flags.append("Q016")
    if is_gibberish(answer):
        flags.append("Q024")
    if is_missing_value(answer) or is_missing_value(prompt.rpartition("\n")[2]):
        flags.append("Q029")
    if IDENTITY.are_in(lower):
        flags.append("Q025")
    return flags


def is_missing_value(text: str) -> bool:
    """Tell whether a text is the word for an empty cell."""
    return len(text) < MISSING_CHARS and text.strip() in MISSING


def answer_traits(answer: str, lower: str) -> list[str]:
    """Return the kinds of an answer: refusal, clarification, prose, unfinished, open (long without a stop), stock."""
    traits = []
    opening = lower[:OPENING_CHARS]
    if REFUSAL.are_in(opening):
        traits.append("refusal")
    if answer[-3:].rstrip().endswith(("?", "?)")) and CLARIFICATION.are_in(opening):
        traits.append("clarification")
    if is_prose(answer):
        traits.append("prose")
        if is_unfinished(answer):
            traits.append("unfinished")
    if len(answer) >= MIN_PROSE_CHARS and (answer[-1].isalnum() or answer[-1] in ",;:(-"):
        traits.append("open")
    if len(answer) >= MIN_BROKEN_CHARS and (
        STOCK_OPENING.match(lower) or any_in(STOCK_CLOSINGS, lower[-CLOSING_CHARS:])
    ):
        traits.append("stock")
    return traits


def is_broken_off(answer: str) -> bool:
    """Tell whether the answer ends in a word that begins a phrase: `and the`."""
    if len(answer) < MIN_BROKEN_CHARS or not answer[-1].isalpha():
        return False
    if OPEN_REMARK.search(answer[-MAX_REMARK_CHARS:]):
        return True
    before, _, last = answer.rpartition(" ")
    return last in BEGINNERS and before[-1:].isalpha()


def has_slot(prompt: str, answer: str) -> bool:
    """Tell whether an answer has an empty field of a template, and no talk about templates."""
    if not ("{{" in answer and SLOT.search(answer)) and not SALUTATION.search(answer[:OPENING_CHARS]):
        return False
    return not ABOUT_SLOTS.search(answer) and not ABOUT_SLOTS.search(prompt)


def edge_sentences(answer: str) -> tuple[str, str]:
    """Return the first and the last sentence if they are short, as stock phrases are; "" for others.

    Example:
        >>> edge_sentences("Great question! It opens at nine. I hope this helps.")
        ('Great question!', 'I hope this helps.')
    """
    first = FIRST_SENTENCE.match(answer[:SENTENCE_CHARS])
    last = LAST_SENTENCE.search(answer[-SENTENCE_CHARS:]) if answer[-1] in ".!?" else None
    return first[0] if first else "", last[1] if last else ""


def is_cut(answer: str) -> bool:
    """Tell whether a code fence or a JSON value is never closed."""
    if "```" not in answer and answer[:1] not in "{[":
        return False
    text = answer.rstrip()
    if text.count("```") % 2 and len(re.findall(r"^\s*```", text, re.MULTILINE)) % 2:
        return True
    return text.startswith(("{", "[")) and not text.endswith(("}", "]")) and _is_open_json(text)


def _is_open_json(text: str) -> bool:
    """Tell JSON that breaks off from other text with a bracket at its beginning."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return error.pos >= len(text) - 1 and len(text) > 1
    return False


def is_prose(answer: str) -> bool:
    """Tell sentences from code, tables and short answers by the first 200 characters."""
    if len(answer) < MIN_PROSE_CHARS:
        return False
    head = answer[:MIN_PROSE_CHARS]
    letters, capitals = num_letters(head)
    return letters + head.count(" ") >= 0.85 * MIN_PROSE_CHARS and capitals < 0.2 * letters


def num_letters(text: str) -> tuple[int, int]:
    """Count letters and capitals."""
    if not text.isascii():
        return sum(map(str.isalpha, text)), sum(map(str.isupper, text))
    # Deleting bytes takes a tenth of the time of a loop.
    num_chars = len(text)
    small = text.encode().translate(None, CAPITALS)
    return num_chars - len(small.translate(None, CAPITALS.lower())), num_chars - len(small)


def is_unfinished(answer: str) -> bool:
    """Tell whether prose ends without a stop. An item of a list needs none."""
    last = answer.rstrip()[-300:].rpartition("\n")[2].strip()
    words = last.split()[-MIN_LAST_WORDS:]
    is_item = last[:1] in "-*+•·–" or last[:3].rstrip(".) ").isdigit()
    return len(words) == MIN_LAST_WORDS and not is_item and all(word.rstrip(",").isalpha() for word in words)


def copies_prompt(prompt: str, answer: str) -> bool:
    """Tell whether an answer is the prompt, or begins with all of it. A passage of the prompt may be an answer."""
    if prompt[:1] != answer[:1] and not prompt[:1].isspace() and not answer[:1].isspace():
        return False
    prompt, answer = prompt.strip(), answer.strip()
    return len(prompt) >= 20 and (answer == prompt or (len(prompt) >= 60 and answer.startswith(prompt)))


def repeats_itself(answer: str) -> bool:
    """Tell whether half of the runs of four words are repetitions."""
    words = answer.split()
    # Few different words make few different runs: this count spares most texts the rest.
    if len(words) < MIN_REPEATED_WORDS or len(set(words)) > (1 - MAX_REPEATED_SHARE) * len(words) + 3:
        return False
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(set(runs)) < (1 - MAX_REPEATED_SHARE) * len(runs)


def label_of(answer: str) -> str:
    """Return a short answer of one line, a possible class; "" for a longer one."""
    text = answer.strip()
    return text if len(text) <= MAX_LABEL_CHARS and "\n" not in text else ""
