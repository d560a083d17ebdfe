"""Find faults of form in the strings of a row: encoding, markup, space, special tokens."""

from __future__ import annotations

import re
import unicodedata

from ftfy.badness import is_bad

from trainer.data.clean.special_tokens import SpecialTokens
from trainer.data.clean.text import HIDDEN_MARK, drop_hidden, drop_outer_space
from trainer.data.lint.facts.phrases import any_in
from trainer.data.lint.facts.scripts import FOREIGN, has_letters_apart, has_look_alikes

LEFT_OVER = SpecialTokens()
SPECIAL_CUES = (
    ("<", ("<|", "<｜", "_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>", "</s>", "SYS>>")),
    ("[", ("INST]", "[CLS]", "[SEP]", "[MASK]")),
    ("##", ("###e", "##e", "# e")),
)
"""Tokens of common chat templates that end turns and texts, by a mark in all of them."""
MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    "\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
"""UTF-8 read as Windows-1252: a first byte of two to four, then a following one. ftfy decides."""
MOJIBAKE_BEGIN = re.compile("[\u00c2-\u00f4]")
INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Soft hyphen, zero-width space, word joiner, byte order mark. Joiners of scripts are sound."""
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
HTML = re.compile(
    r"</?(?:p|br|div|span|td|tr|th|table|li|ul|ol|b|i|u|strong|em|h[1-6]|font|img|a)(?:\s[^<>]{0,200})?/?>"
    r"|&(?:nbsp|amp|lt|gt|quot|apos|#\d{2,5}|#x[0-9a-fA-F]{2,4});",
    re.IGNORECASE,
)
ABOUT_MARKUP = re.compile(
    r"\b(?:html|xml|css|markup|tags?|jsx|svg|markdown|web ?page|website)\b|<!doctype", re.IGNORECASE
)
WHITE_SPACE = re.compile(r"\n[ \t]*\n[ \t]*\n[ \t]*\n[ \t]*\n")


def text_flags(texts: list[str]) -> list[str]:
    """Return the rules that the strings of a row break."""
    joined = "\x1f".join(texts)
    flags = []
    if _has_special_token(texts, joined):
        flags.append("F019")
    if not joined.isascii():
        flags += _unicode_flags(joined, texts)
    if ("<" in joined or "&" in joined) and _has_html(joined):
        flags.append("Q006")
    if any(text != drop_outer_space(text) for text in texts) or (
        joined.count("\n") >= 4 and WHITE_SPACE.search(joined)
    ):
        flags.append("Q007")
    if has_letters_apart(joined):
        flags.append("Q021")
    return flags


def _has_special_token(texts: list[str], joined: str) -> bool:
    """Tell whether tokens of a rendering are left over. Tokens in a quotation become plain text."""
    if not any(mark in joined and any_in(cues, joined) for mark, cues in SPECIAL_CUES):
        return False
    return any(LEFT_OVER.is_left_over(text) for text in texts)


def _unicode_flags(joined: str, texts: list[str]) -> list[str]:
    # Each character once: the searches read a hundred letters instead of all.
    letters = "".join(set(joined))
    flags = []
    if "\ufffd" in letters or (MOJIBAKE_BEGIN.search(letters) and _is_mojibake(joined)):
        flags.append("Q004")
    if INVISIBLE.search(letters) or not unicodedata.is_normalized("NFC", joined):
        flags.append("Q005")
    if HIDDEN_MARK.search(letters) and any(text != drop_hidden(text) for text in texts):
        flags.append("Q019")
    if FOREIGN.search(letters) and has_look_alikes(joined):
        flags.append("Q020")
    return flags


def _is_mojibake(text: str) -> bool:
    candidate = MOJIBAKE.search(text)
    return candidate is not None and is_bad(text[max(0, candidate.start() - 40) : candidate.end() + 40])


def _has_html(text: str) -> bool:
    if not HTML.search(text) or ABOUT_MARKUP.search(text):
        return False
    return "`" not in text or HTML.search(CODE.sub("", text)) is not None
