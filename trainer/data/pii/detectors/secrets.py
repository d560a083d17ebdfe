"""Find keys and tokens by the form of their provider, and private keys by their block."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

import orjson

from trainer.data.pii.detectors.key_forms import DISCORD, LED, UNLED, KeyForm
from trainer.data.pii.detectors.randomness import is_drawn, is_sample
from trainer.data.pii.detectors.rule import Match, PiiRule
from trainer.data.pii.record import PiiRecord, three_stars
from trainer.recipe.pii import PiiType

KEY_NAME = r"(?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?"
_LINE = r"[A-Za-z0-9+/=_-]{16,}"
_BREAK = r"(?:\s|\\[nr])+"

PRIVATE_KEY = re.compile(
    rf"-{{4,5}} ?BEGIN {KEY_NAME} ?-{{4,5}}"
    # To the end of the block, over any headers. A sentence about the marks has no line of a key.
    rf"(?:(?:(?!-{{4,5}} ?(?:BEGIN|END)).){{0,200}}?(?<![A-Za-z0-9+/]){_LINE}(?:(?!-{{4,5}} ?BEGIN).){{0,30000}}?"
    rf"-{{4,5}} ?END {KEY_NAME} ?-{{4,5}}"
    # Without an end: headers, then the lines of a key.
    rf"|(?:{_BREAK}[A-Za-z-]{{3,20}}: [^\n\\]{{0,200}}){{0,6}}(?:{_BREAK}{_LINE})+)",
    re.DOTALL,
)
"""RFC 7468, RFC 1421 (headers of an encrypted key), RFC 9580 (armor of OpenPGP)."""

PUTTY_KEY = re.compile(
    rf"PuTTY-User-Key-File-\d: (?:(?!PuTTY-User).){{20,20000}}?Private-Lines: \d{{1,4}}"
    rf"(?:{_BREAK}(?!Private-)[A-Za-z0-9+/=]{{4,}})+"
    rf"(?:{_BREAK}Private-(?:MAC|Hash): [0-9a-f]{{40,128}})?",
    re.DOTALL,
)
"""PuTTY's documentation, appendix C: PPK file format."""

JWT = re.compile(
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,8000}\.[A-Za-z0-9_-]{16,2000}(?![A-Za-z0-9_-])"
)

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.~:/+=%&?-]{17,}")
"""Candidates for keys, which have 18 characters or more."""
START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]")


def is_jwt(value: str) -> bool:
    """Tell whether the first part of a token decodes to the header of a JSON Web Token.

    Source: RFC 7519.
    """
    first = value.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(header, dict) and "alg" in header


class KeyDetector:
    """Finds keys that begin with fixed text. A look-up by two characters spares most words the patterns."""

    def __init__(self, forms: Sequence[KeyForm] = LED) -> None:
        by_start: dict[str, list[KeyForm]] = {}
        for form in sorted(forms, key=lambda form: -len(form.lead)):
            by_start.setdefault(form.lead[:2], []).append(form)
        self._by_start = {start: _alternatives(group) for start, group in by_start.items()}

    def find(self, text: str) -> list[Match]:
        matches: list[Match] = []
        for word in WORD.finditer(text):
            end = word.start()
            for start in START.finditer(text, word.start(), word.end()):
                alternatives = self._by_start.get(text[start.start() : start.start() + 2])
                if alternatives and start.start() >= end and (match := _key_at(text, start.start(), *alternatives)):
                    matches.append(match)
                    end = match.end
        return matches


def _alternatives(forms: Sequence[KeyForm]) -> tuple[re.Pattern[str], tuple[KeyForm, ...]]:
    """Compile forms with the same start into one pattern. Group i + 1 is the body of form i."""
    bodies = (f"{re.escape(form.lead)}({form.body})(?![A-Za-z0-9])" for form in forms)
    return re.compile("|".join(bodies)), tuple(forms)


def _key_at(text: str, position: int, pattern: re.Pattern[str], forms: tuple[KeyForm, ...]) -> Match | None:
    candidate = pattern.match(text, position)
    if candidate is None or candidate.lastindex is None or not is_drawn(candidate[candidate.lastindex]):
        return None
    form = forms[candidate.lastindex - 1]
    # Inside base64 a short lead of letters and digits is chance.
    if form.lead.isalnum() and position > 0 and text[position - 1] in "+/":
        return None
    return Match(candidate.start(candidate.lastindex) if form.keeps_lead else position, candidate.end(), "api_key")


def _unled_rule(pattern: str) -> PiiRule:
    return PiiRule("api_key", re.compile(rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9_-])"), is_drawn)


def mask_key(value: str) -> str:
    """Return the provider's prefix of a key.

    Example:
        >>> mask_key("ghp_Qm7Zt1VbN6y")
        'ghp_***'
    """
    prefix = re.match(r"[A-Za-z]{2,10}[-_]", value)
    return (prefix[0] if prefix else "") + "***"


def is_key_block(value: str) -> bool:
    """Tell the block of a key from an example: `-----BEGIN ...----- YOUR KEY HERE`."""
    return not is_sample(re.sub(r"-{4,5}[A-Z ]+-{4,5}", "", value)[:400])


PRIVATE_KEY_RULE = PiiRule("private_key", PRIVATE_KEY, is_key_block)
PUTTY_RULE = PiiRule("private_key", PUTTY_KEY)
DISCORD_RULE = _unled_rule(DISCORD)
JWT_RULE = PiiRule("jwt", JWT, is_jwt)
UNLED_RULES = tuple((part, _unled_rule(pattern)) for pattern, part in UNLED)
RECORDS: dict[PiiType, PiiRecord] = {
    "private_key": PiiRecord(lambda _: "*** private key ***", None, "P100", rank=0),
    "jwt": PiiRecord(three_stars, None, "P100", rank=1),
    "api_key": PiiRecord(mask_key, None, "P100", rank=2),
}
