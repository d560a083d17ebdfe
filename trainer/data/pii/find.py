"""Find the values of all types in a text, and resolve overlaps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainer.data.character_classes import CAPITALS, DIGITS, LETTERS, SMALL, class_table, classes_of
from trainer.data.pii.detectors.address import BOX_RULES, STREET_RULES, has_post_code, names_a_box
from trainer.data.pii.detectors.coins import CRYPTO_RULES
from trainer.data.pii.detectors.credentials import CredentialDetector, names_a_secret
from trainer.data.pii.detectors.documents import DOCUMENT_RULES, names_a_document
from trainer.data.pii.detectors.email import ENCODED_RULE, SPELLED_RULES, EmailDetector, may_be_spelled
from trainer.data.pii.detectors.financial import CardDetector, IbanDetector
from trainer.data.pii.detectors.identity import NumericDetector, mixed_rules
from trainer.data.pii.detectors.network import MAC_RULE, URL_RULE, IpDetector
from trainer.data.pii.detectors.phone import PhoneDetector
from trainer.data.pii.detectors.rule import Family, Holds, Match, has_long_word
from trainer.data.pii.detectors.secrets import (
    DISCORD_RULE,
    JWT_RULE,
    PRIVATE_KEY_RULE,
    PUTTY_RULE,
    UNLED_RULES,
    KeyDetector,
)
from trainer.data.pii.fold import folded
from trainer.data.pii.types import record_named

LONG_NUMBER = re.compile(r"\d(?:[ \u00a0.\-/()]{0,3}\d){6}")
"""Seven digits with few separators between: every telephone, card and identity number has them."""
SIX_DIGITS = re.compile(r"\d(?:[ .]?\d){5}")
MIXED = re.compile(r"[A-Z]{5}[A-Z\d]|\d\d[A-Za-z]\d{3}")
MIXED_CLASSES = class_table(A=CAPITALS, a=SMALL, d=DIGITS)
MIXED_FORMS = (b"AAAAAA", b"AAAAAd", b"ddAddd", b"ddaddd")
"""Every identity number of letters and digits has one of these, or six digits."""
DOTTED = re.compile(r"\.\d{1,3}\.\d")

DIGIT, ASCII_DIGITS = re.compile(r"\d"), DIGITS.encode()
SIGN_CLASSES = class_table(w=LETTERS + "+/_-", s=DIGITS + "@")
CAPITAL_CLASSES = class_table(w=CAPITALS)
RUN, CAPITAL_RUN = b"w" * 16, b"w" * 8
SPELLED_SIGNS = (" dot ", " AT ", "[at", "(at", "{at", "<at")


def has_hex_groups(text: str) -> bool:
    """Tell whether `text` may hold the address of a host or of a network card."""
    return text.count(":") > 1 or text.count("-") > 4 or DOTTED.search(text) is not None


def has_mixed_id(text: str) -> bool:
    """Tell whether `text` may hold an identity number of letters and digits."""
    if SIX_DIGITS.search(text):
        return True
    if not text.isascii():
        return MIXED.search(text) is not None
    classes = classes_of(text, MIXED_CLASSES)
    return any(form in classes for form in MIXED_FORMS)


def num_digits(text: str) -> int:
    """Count the digits of a text, of all scripts."""
    if not text.isascii():
        return len(DIGIT.findall(text))
    line = text.encode()
    return len(line) - len(line.translate(None, ASCII_DIGITS))


def may_hold_a_value(text: str) -> bool:
    """Tell whether a text has a digit, an `@`, a long word, many capitals, or the words of a spelled address.

    Every value has one of these. Most texts have none, and cost no more than this test.
    """
    signs = classes_of(text, SIGN_CLASSES)
    if b"s" in signs or RUN in signs or CAPITAL_RUN in classes_of(text, CAPITAL_CLASSES):
        return True
    if not text.isascii() and DIGIT.search(text):
        return True
    for sign in SPELLED_SIGNS:  # noqa: SIM110  a loop costs half of what a generator does
        if sign in text:
            return True
    return False


def families(phone_regions: Sequence[str]) -> tuple[Family, ...]:
    """Build all detectors, grouped by the cheap test before them."""
    numbers = (CardDetector(), IbanDetector(), NumericDetector(), PhoneDetector(tuple(phone_regions)))
    return (
        Family(LONG_NUMBER.search, numbers, min_digits=7),
        Family(has_mixed_id, mixed_rules()),
        Family(names_a_document, DOCUMENT_RULES, min_digits=3),
        Family(Holds("@"), (EmailDetector(),)),
        Family(Holds("%40"), (ENCODED_RULE,)),
        Family(may_be_spelled, SPELLED_RULES),
        Family(Holds("://"), (URL_RULE,)),
        Family(has_hex_groups, (IpDetector(), MAC_RULE)),
        Family(has_long_word, (*CRYPTO_RULES, KeyDetector(), JWT_RULE, DISCORD_RULE)),
        *(Family(Holds(part), (rule,)) for part, rule in UNLED_RULES),
        Family(has_post_code, STREET_RULES, min_digits=2),
        Family(names_a_box, BOX_RULES, min_digits=1),
        Family(Holds("PRIVATE KEY"), (PRIVATE_KEY_RULE,)),
        Family(Holds("PuTTY-User-Key"), (PUTTY_RULE,)),
        Family(names_a_secret, (CredentialDetector(),)),
    )


def find_all(text: str, rules: Sequence[Family]) -> list[Match]:
    """Return the values in `text`, in order and without overlap."""
    text = folded(text)
    if not may_hold_a_value(text):
        return []
    digits = num_digits(text)
    matches = [
        match
        for family in rules
        if digits >= family.min_digits and family.gate(text)
        for detector in family.detectors
        for match in detector.find(text)
    ]
    return settle(matches) if len(matches) > 1 else matches


def settle(matches: Sequence[Match]) -> list[Match]:
    """Resolve overlaps: the type of the lower rank, then the longer match, takes the characters of all.

    No character of a match stays in clear. `password@host.org` inside of a URL is the exception: the host may stay.

    Example:
        >>> settle([Match(0, 9, "phone"), Match(4, 12, "card")])
        [Match(start=0, end=12, type='card')]
    """
    settled: list[Match] = []
    for match in sorted(
        matches, key=lambda match: (record_named(match.type).rank, match.start - match.end, match.start)
    ):
        touching = [peer for peer in settled if peer.start < match.end and match.start < peer.end]
        if not touching:
            settled.append(match)
        elif match.type != "email" or touching[0].type != "url_credentials":
            start = min(match.start, *(peer.start for peer in touching))
            end = max(match.end, *(peer.end for peer in touching))
            settled = [peer for peer in settled if peer not in touching] + [Match(start, end, touching[0].type)]
    return sorted(settled)
