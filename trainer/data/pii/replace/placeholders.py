"""Choose placeholders such as `[EMAIL]` that differ from the special tokens of a chat template."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.types import RECORDS
from trainer.errors import DataError

BRACKETS = (("[", "]"), ("<", ">"), ("{", "}"), ("__", "__"))
"""Forms in the order of trial: some templates have tokens like `[EMAIL]`, others like `<...>`."""


@dataclass(frozen=True)
class Placeholders:
    """Typed placeholders such as `[EMAIL]`.

    Args:
        opening: sign before the name.
        closing: sign after it.
        tokens: pattern of the template's special tokens; None without any.
    """

    opening: str
    closing: str
    tokens: re.Pattern[str] | None

    def word(self, type_: str, suffix: str = "") -> str:
        """Return the placeholder of a type. A suffix tells values apart."""
        return f"{self.opening}{type_.upper()}{'_' + suffix if suffix else ''}{self.closing}"

    def names(self, word: str, types: Iterable[str]) -> bool:
        """Tell whether `word` is the placeholder of one of `types`, with or without a suffix."""
        return any(word.startswith(self.opening + type_.upper()) for type_ in types)

    def outside_tokens(self, text: str, matches: list[Match]) -> list[Match]:
        """Cut the special tokens out of the ranges, so that no replacement touches one."""
        if self.tokens is None or not matches:
            return matches
        spans = [token.span() for token in self.tokens.finditer(text)]
        return [piece for match in matches for piece in _without(match, spans)]


def _without(match: Match, spans: list[tuple[int, int]]) -> list[Match]:
    pieces, start = [], match.start
    for first, last in spans:
        if first < match.end and last > start:
            pieces.append((start, first))
            start = last
    pieces.append((start, match.end))
    return [Match(start, end, match.type) for start, end in pieces if end > start]


def placeholders(special_tokens: Iterable[str]) -> Placeholders:
    """Choose brackets, so that no placeholder contains a special token or is part of one.

    Raises:
        DataError: the template uses every form.
    """
    tokens = sorted((token for token in special_tokens if token), key=lambda token: (-len(token), token))
    pattern = re.compile("|".join(map(re.escape, tokens))) if tokens else None
    for opening, closing in BRACKETS:
        style = Placeholders(opening, closing, pattern)
        words = [style.word(name) for name in RECORDS]
        if not any(token in word or word in token for token in tokens for word in words):
            return style
    raise DataError(
        "the special tokens of the chat template use every form of placeholder that data.pii knows",
        hint="set data.pii.action: mask, which writes no placeholders",
    )
