"""Define a rule: a pattern, a check of the value, and the words around it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from trainer.data.character_classes import DIGITS, LETTERS, class_table, classes_of
from trainer.recipe.pii import PiiType

LONG_WORD = b"w" * 18
"""Every key and coin address has a piece of this length."""
WORD_CLASSES = class_table(w=LETTERS + DIGITS + "_-")

BEFORE = 64
"""Characters before a value that are read for context."""
AFTER = 20
"""Characters after a value that are read for context."""


_DIGIT = re.compile(r"\d")


class Match(NamedTuple):
    """One value in a text, as a half-open range of characters."""

    start: int
    end: int
    type: str


class Detector(Protocol):
    """Anything that finds values in a text."""

    def find(self, text: str) -> list[Match]:
        """Return the values in any order. Their ranges may overlap."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """Words near a value. The nearest word before the value decides."""

    pattern: re.Pattern[str]
    """The group `pro` matches words for this kind of value, any other match is a word against it."""

    def speaks_for(self, text: str, start: int, end: int) -> bool:
        """Tell whether the words around `text[start:end]` name this kind of value."""
        verdict = self.verdict(text, start)
        if verdict is not None:
            return verdict
        after = self.pattern.match(text[end : end + AFTER].lstrip(" \t-,(:"))
        return after is not None and after["pro"] is not None

    def speaks_against(self, text: str, start: int) -> bool:
        """Tell whether the words before `text[start:]` name another kind of value."""
        return self.verdict(text, start) is False

    def verdict(self, text: str, start: int) -> bool | None:
        """Return True or False by the last context word before `start`, None without a word.

        A word for another number has no effect if that number stands between: `box 0219, 781 1704`.
        """
        before = text[max(0, start - BEFORE) : start]
        words = list(self.pattern.finditer(before))
        if not words:
            return None
        if words[-1]["pro"] is not None:
            return True
        return None if _DIGIT.search(before, words[-1].end()) else False


THING_NUMBERS = (
    r"orders?|invoices?|tickets?|tracking|parcel|shipment|isbn|issn|serial|sku|upc|ean|part|model|ref|reference|cases?"
    r"|items?|articles?|products?|version|release|build|batch|lot|polic(?:y|ies)|patent|doi|chapter|section|timestamp"
    r"|unix|epoch|commit|checksum|hash|uuid|guid|imei|build|transaction|confirmation|booking|population|pages?"
)
"""Words for a number that belongs to no person."""


LETTER = "[A-Za-z0-9À-ɏͰ-ԯ]"
"""Letters and digits of scripts with spaces between words. In other scripts a value may touch the next word."""


def context(pro: str, against: str = THING_NUMBERS) -> Context:
    """Build the context of a kind of value.

    Args:
        pro: names of this kind of value, joined by `|`.
        against: names of other kinds, joined by `|`.

    Example:
        >>> phone = context("call|tel")
        >>> phone.verdict("call 202", 5), phone.verdict("order 202", 6), phone.verdict("a 202", 2)
        (True, False, None)
    """
    # The placeholder `[PHONE]` stands in place of a number, and is no word about the next one.
    pattern = rf"(?<!{LETTER})(?<!\[)(?:(?P<pro>{pro})|{against})(?!{LETTER})"
    return Context(re.compile(pattern, re.IGNORECASE))


def anything(value: str) -> bool:
    """Accept every value: its pattern is enough."""
    return bool(value)


@dataclass(frozen=True, slots=True)
class PiiRule:
    """A pattern. Its match, or its group `value`, is the value.

    Args:
        type: type of the value.
        pattern: form of the value.
        valid: check of the value, such as a checksum.
        context: words around it.
        needs_context: the context must name the value. Otherwise it must name nothing else.
    """

    type: PiiType
    pattern: re.Pattern[str]
    valid: Callable[[str], bool] = anything
    context: Context | None = None
    needs_context: bool = False

    def find(self, text: str, start: int = 0, end: int = sys.maxsize) -> list[Match]:
        """Return the values in `text[start:end]`. The context may lie outside of that range."""
        group = "value" if "value" in self.pattern.groupindex else 0
        matches = []  # a loop: rules run on every text, and comprehensions for no candidate cost a tenth more
        for candidate in self.pattern.finditer(text, start, end):
            first, last = candidate.span(group)
            if self.valid(text[first:last]) and self._fits(text, first, last):
                matches.append(Match(first, last, self.type))
        return matches

    def _fits(self, text: str, start: int, end: int) -> bool:
        if self.context is None:
            return True
        if self.needs_context:
            return self.context.speaks_for(text, start, end)
        return not self.context.speaks_against(text, start)


class Family(NamedTuple):
    """Detectors behind a cheap test that most texts fail."""

    gate: Callable[[str], object]
    detectors: tuple[Detector, ...]
    min_digits: int = 0
    """A text with fewer digits cannot hold such a value, so that the gate is not called."""


@dataclass(frozen=True, slots=True)
class Holds:
    """A gate: the text holds `part`. A substring search costs a tenth of a pattern's."""

    part: str

    def __call__(self, text: str) -> bool:
        return self.part in text


def words(joined: str) -> tuple[str, ...]:
    """Split a list of words joined by `|`."""
    return tuple(joined.split("|"))


def names_any(text: str, ascii_names: Sequence[str], unicode_names: Sequence[str]) -> bool:
    """Tell whether a text holds one of the lower-case names, in any case."""
    lowered = text.lower()
    for name in ascii_names:  # a loop costs half of what a generator does
        if name in lowered:
            return True
    return not lowered.isascii() and any(name in lowered for name in unicode_names)


def has_long_word(text: str) -> bool:
    """Tell whether there is a run of 18 letters, digits, `_` and `-`."""
    return LONG_WORD in classes_of(text, WORD_CLASSES)
