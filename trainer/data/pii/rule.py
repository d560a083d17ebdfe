"""What a rule is: a pattern, a check of the value, and the words around it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from trainer.data.character_classes import DIGITS, LETTERS, class_table, classes_of

LONG_WORD = b"w" * 18
"""No key or coin address has a shorter longest piece."""
WORD_CLASSES = class_table(w=LETTERS + DIGITS + "_-")

BEFORE = 64
"""Characters before a value that are read for context."""
AFTER = 20
"""Characters after a value that are read for context."""


_DIGIT = re.compile(r"\d")


class Match(NamedTuple):
    """One value found in a text, as a half-open range of characters."""

    start: int
    end: int
    type: str


class Detector(Protocol):
    """Anything that finds values in a text."""

    def find(self, text: str) -> list[Match]:
        """Return what is found, in any order; ranges may overlap."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """Words near a value. The nearest word before it decides between `words` and `others`."""

    pattern: re.Pattern[str]

    def speaks_for(self, text: str, start: int, end: int) -> bool:
        """Tell whether the words around `text[start:end]` name this kind of value."""
        verdict = self.verdict(text, start)
        if verdict is not None:
            return verdict
        after = self.pattern.match(text[end : end + AFTER].lstrip(" \t-,(:"))
        return after is not None and after["words"] is not None

    def speaks_against(self, text: str, start: int) -> bool:
        """Tell whether the words before `text[start:]` name another kind of value."""
        return self.verdict(text, start) is False

    def verdict(self, text: str, start: int) -> bool | None:
        """Return True or False as the last context word before `start` says, None without one.

        A word for another number says nothing any more where that number stands between: `box 0219, 781 1704`.
        """
        before = text[max(0, start - BEFORE) : start]
        words = list(self.pattern.finditer(before))
        if not words:
            return None
        if words[-1]["words"] is not None:
            return True
        return None if _DIGIT.search(before, words[-1].end()) else False


OTHER_NUMBERS = (
    r"orders?|invoices?|tickets?|tracking|parcel|shipment|isbn|issn|serial|sku|upc|ean|part|model|ref|reference|cases?"
    r"|items?|articles?|products?|version|release|build|batch|lot|polic(?:y|ies)|patent|doi|chapter|section|timestamp"
    r"|unix|epoch|commit|checksum|hash|uuid|guid|imei|build|transaction|confirmation|booking|population|pages?"
)
"""Words that name a number which belongs to no person."""


LETTER = "[A-Za-z0-9À-ɏͰ-ԯ]"
"""Letters and digits of scripts that put spaces between words; in the others a word may touch the next one."""


def context(words: str, others: str = OTHER_NUMBERS) -> Context:
    """Build the context of a kind of value from two lists of words, each joined by `|`."""
    # `[PHONE]` stands where a number was, and says nothing about the next one.
    pattern = rf"(?<!{LETTER})(?<!\[)(?:(?P<words>{words})|(?P<others>{others}))(?!{LETTER})"
    return Context(re.compile(pattern, re.IGNORECASE))


def anything(value: str) -> bool:
    """Accept a value whose pattern says enough."""
    return bool(value)


@dataclass(frozen=True, slots=True)
class PiiRule:
    """A pattern whose whole match, or its group `value`, is the value.

    Args:
        type: stable name of the type.
        pattern: what the value looks like.
        valid: check of the value, such as a checksum.
        context: the words around it.
        needs_context: without a word of the context nothing is found; else the context can only speak against.
    """

    type: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool] = anything
    context: Context | None = None
    needs_context: bool = False

    def find(self, text: str, start: int = 0, end: int = sys.maxsize) -> list[Match]:
        """Return the values in `text[start:end]`; what stands around that range is still read as context."""
        found = []
        group = "value" if "value" in self.pattern.groupindex else 0
        for match in self.pattern.finditer(text, start, end):
            first, last = match.span(group)
            if self.valid(text[first:last]) and self._fits(text, first, last):
                found.append(Match(first, last, self.type))
        return found

    def _fits(self, text: str, start: int, end: int) -> bool:
        if self.context is None:
            return True
        if self.needs_context:
            return self.context.speaks_for(text, start, end)
        return not self.context.speaks_against(text, start)


class Family(NamedTuple):
    """Detectors behind cheap tests, so that most texts cost only the tests."""

    gate: Callable[[str], object]
    detectors: tuple[Detector, ...]
    min_digits: int = 0
    """A text with fewer digits holds no such value: the gate need not be asked."""


@dataclass(frozen=True, slots=True)
class Holds:
    """A gate: the text holds `part`. A substring search costs a tenth of a pattern's."""

    part: str

    def __call__(self, text: str) -> bool:
        return self.part in text


def names_any(text: str, ascii_names: Sequence[str], other_names: Sequence[str]) -> bool:
    """Tell whether a text holds one of the names, in any case; the others are only tried where they can occur."""
    lowered = text.lower()
    for name in ascii_names:  # a loop costs half of what a generator does
        if name in lowered:
            return True
    return not lowered.isascii() and any(name in lowered for name in other_names)


def has_long_word(text: str) -> bool:
    """Tell whether there is a run of 18 letters, digits, `_` and `-`."""
    return LONG_WORD in classes_of(text, WORD_CLASSES)
