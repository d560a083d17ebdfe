"""Find what a rule left of a secret that it replaced only in part, without asking the rules again."""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainer.data.pii.randomness import ALNUM, is_drawn
from trainer.data.pii.rule import Match

RUN = r"[A-Za-z0-9+/=_~-]{16,}"
MIN_PIECE = 12
GAP = r"(?:\\[nr]|[\s\"'`=:,.;&|>-]){0,12}"
HEADERS = rf"(?:[A-Za-z-]{{3,20}}: [^\n\\]{{0,200}}{GAP}){{0,4}}"
"""A private key may have headers before its lines."""

IDENTIFIER = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56}|[0-9a-f]{64})",
    re.IGNORECASE,
)
"""UUIDs and digests stand beside keys and are none."""


def remains(text: str, stand_ins: Iterable[str]) -> list[Match]:
    """Return drawn runs of characters that touch a stand-in, or have only punctuation or headers between.

    A half-replaced key is such a run: `[PRIVATE_KEY]` with the lines of the key still below it.

    Args:
        text: after the replacement.
        stand_ins: what was put in place of secrets.
    """
    matches = []
    for stand_in in sorted({word for word in stand_ins if word in text}):
        word = re.escape(stand_in)
        for pattern in (rf"{word}{GAP}{HEADERS}(?P<run>{RUN})", rf"(?P<run>{RUN}){GAP}{word}"):
            for found in re.finditer(pattern, text):
                if is_rest(found["run"].strip("=-")):
                    matches.append(Match(*found.span("run"), "credential"))
    return matches


def is_rest(run: str) -> bool:
    """Tell whether a run is the rest of a key: its longest piece is drawn, with a digit. A name is none."""
    piece = max(ALNUM.findall(run), key=len, default="")
    has_digit = any(char.isdigit() for char in piece)
    return IDENTIFIER.fullmatch(run) is None and len(piece) >= MIN_PIECE and has_digit and is_drawn(piece)
