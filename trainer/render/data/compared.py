"""Show two rows beside each other, the words that differ marked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher

from markupsafe import Markup, escape

from trainer.render.numbers import title_of
from trainer.shapes.report import RowPair

MIN_COMMON = 0.3
"""Similarity of two texts below which nothing is marked."""
SPACES = re.compile(r"(\s+)")


@dataclass(frozen=True)
class ComparedRow:
    """One of two rows that are compared."""

    ref: str
    """`source:line`."""
    note: str
    """How it is like the other row."""
    text: Markup
    """Words that the other row does not say are marked."""


def compared_rows(pairs: Iterable[RowPair]) -> list[tuple[ComparedRow, ComparedRow]]:
    """Return pairs of rows as HTML."""
    rows = []
    for pair in pairs:
        text, of_text = mark_differences(pair["text"], pair["of_text"])
        rows.append((ComparedRow(pair["row"], _note(pair), text), ComparedRow(pair["of"], "", of_text)))
    return rows


def mark_differences(left: str, right: str) -> tuple[Markup, Markup]:
    """Return two texts as HTML in which the words that differ are marked; texts with little in common stay plain.

    Example:
        >>> mark_differences("a red car", "a blue car")
        (Markup('a <mark>red</mark> car'), Markup('a <mark>blue</mark> car'))
    """
    left_words, right_words = SPACES.split(left), SPACES.split(right)
    matcher = SequenceMatcher(None, left_words, right_words, autojunk=False)
    if matcher.ratio() < MIN_COMMON:
        return escape(left), escape(right)
    codes = matcher.get_opcodes()
    return (
        Markup("").join(_marked(left_words[begin:end], code != "equal") for code, begin, end, _, _ in codes),
        Markup("").join(_marked(right_words[begin:end], code != "equal") for code, _, _, begin, end in codes),
    )


def _marked(words: list[str], differs: bool) -> Markup:
    text = escape("".join(words))
    return Markup("<mark>") + text + Markup("</mark>") if differs and text.strip() else text


def _note(pair: RowPair) -> str:
    if "reason" in pair:
        return title_of(pair["reason"])
    return f"{pair['similarity']:.0%} alike" if "similarity" in pair else ""
