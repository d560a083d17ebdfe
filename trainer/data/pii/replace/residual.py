"""Find the rest of a secret beside its placeholder. A rule that missed it once would miss it again."""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainer.data.pii.detectors.randomness import ALNUM, is_drawn
from trainer.data.pii.detectors.rule import Match

RUN = r"[A-Za-z0-9+/=_~-]{16,}"
MIN_PIECE = 12
GAP = r"(?:\\[nr]|[\s\"'`=:,.;&|>-]){0,12}"
HEADERS = rf"(?:[A-Za-z-]{{3,20}}: [^\n\\]{{0,200}}{GAP}){{0,4}}"
"""A private key may have headers before its lines."""

IDENTIFIER = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56}|[0-9a-f]{64})",
    re.IGNORECASE,
)
"""UUIDs and digests: often beside keys, and no secrets."""


def remains(text: str, stand_ins: Iterable[str]) -> list[Match]:
    """Return runs of random characters next to a placeholder, at most punctuation or headers between.

    Example:
        >>> remains("[API_KEY]-Qm7Zt1VbN6yXw3LmR0aHsJ5c ok", ["[API_KEY]"])
        [Match(start=10, end=34, type='credential')]
    """
    matches = []
    for stand_in in sorted({word for word in stand_ins if word in text}):
        word = re.escape(stand_in)
        for pattern in (rf"{word}{GAP}{HEADERS}(?P<run>{RUN})", rf"(?P<run>{RUN}){GAP}{word}"):
            matches += [
                Match(*match.span("run"), "credential")
                for match in re.finditer(pattern, text)
                if is_rest(match["run"].strip("=-"))
            ]
    return matches


def is_rest(run: str) -> bool:
    """Tell the rest of a key from a name: its longest piece is random and has a digit."""
    piece = max(ALNUM.findall(run), key=len, default="")
    has_digit = any(char.isdigit() for char in piece)
    return IDENTIFIER.fullmatch(run) is None and len(piece) >= MIN_PIECE and has_digit and is_drawn(piece)
