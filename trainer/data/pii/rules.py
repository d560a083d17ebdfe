"""All rules behind their gates, and what happens where two of them see the same characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from trainer.data.character_classes import CAPITALS, DIGITS, LETTERS, SMALL, class_table, classes_of
from trainer.data.pii.address import BOX_RULES, STREET_RULES, has_post_code, names_a_box
from trainer.data.pii.credentials import CredentialDetector, names_a_secret
from trainer.data.pii.documents import DOCUMENT_RULES, names_a_document
from trainer.data.pii.email import EmailDetector, EncodedEmailDetector, SpelledEmailDetector, may_be_spelled
from trainer.data.pii.financial import CRYPTO_RULES, CardDetector, IbanDetector
from trainer.data.pii.fold import folded
from trainer.data.pii.identity import NumericDetector, mixed_rules
from trainer.data.pii.network import MAC_RULE, URL_RULE, IpDetector
from trainer.data.pii.phone import PhoneDetector
from trainer.data.pii.rule import Family, Holds, Match, has_long_word
from trainer.data.pii.secrets import DISCORD_RULE, JWT_RULE, PRIVATE_KEY_RULE, PUTTY_RULE, UNLED_RULES, KeyDetector
from trainer.recipe.pii import PersonalType, SecretType

LONG_NUMBER = re.compile(r"\d(?:[ \u00a0.\-/()]{0,3}\d){6}")
"""Seven digits with at most some separators between: no telephone, card or identity number has fewer."""
SIX_DIGITS = re.compile(r"\d(?:[ .]?\d){5}")
MIXED = re.compile(r"[A-Z]{5}[A-Z\d]|\d\d[A-Za-z]\d{3}")
MIXED_CLASSES = class_table(A=CAPITALS, a=SMALL, d=DIGITS)
MIXED_FORMS = (b"AAAAAA", b"AAAAAd", b"ddAddd", b"ddaddd")
"""One of these, or six digits, is in every identity number of letters and digits."""
DOTTED = re.compile(r"\.\d{1,3}\.\d")

DIGIT, ASCII_DIGITS = re.compile(r"\d"), DIGITS.encode()
SIGN_CLASSES = class_table(w=LETTERS + "+/_-", s=DIGITS + "@")
CAPITAL_CLASSES = class_table(w=CAPITALS)
RUN, CAPITAL_RUN = b"w" * 16, b"w" * 8
SPELLED_SIGNS = (" dot ", " AT ", "[at", "(at", "{at", "<at")

SECRETS: frozenset[str] = frozenset(get_args(SecretType))
TYPES: tuple[str, ...] = (*get_args(SecretType), *get_args(PersonalType))

PRIORITY = {
    name: rank
    for rank, name in enumerate(
        ("private_key", "jwt", "api_key", "url_credentials", "credential", "email", "iban", "card", "crypto", "mac")
    )
} | {"us_ssn": 10, "us_itin": 11, "phone": 101, "address": 102}
"""Whose claim wins on shared characters; types not named come after, then `phone`, `address` and the extras."""


def has_hex_groups(text: str) -> bool:
    """Tell whether `text` may hold an IP or a card's address."""
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
    """Count the digits of a text, those of other scripts too."""
    if not text.isascii():
        return len(DIGIT.findall(text))
    line = text.encode()
    return len(line) - len(line.translate(None, ASCII_DIGITS))


def may_hold_a_value(text: str) -> bool:
    """Tell whether a text has a digit, an `@`, a long word, many capitals, or the words of a spelled address.

    No rule finds anything in one that has none of these: most texts cost this look and no more.
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
    """Build every rule, grouped by the cheap test that must hold before they run."""
    return (
        Family(
            LONG_NUMBER.search,
            (CardDetector(), IbanDetector(), NumericDetector(), PhoneDetector(tuple(phone_regions))),
            min_digits=7,
        ),
        Family(has_mixed_id, mixed_rules()),
        Family(names_a_document, DOCUMENT_RULES, min_digits=3),
        Family(Holds("@"), (EmailDetector(),)),
        Family(Holds("%40"), (EncodedEmailDetector(),)),
        Family(may_be_spelled, (SpelledEmailDetector(),)),
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
    """Return what the rules find in `text`, in order and without overlap."""
    text = folded(text)
    if not may_hold_a_value(text):
        return []
    digits = num_digits(text)
    found: list[Match] = []
    for family in rules:
        if digits >= family.min_digits and family.gate(text):
            for detector in family.detectors:
                found += detector.find(text)
    return settle(found) if len(found) > 1 else found


def _rank(match: Match) -> tuple[int, int, int]:
    usual = 103 if ":" in match.type else 100
    return PRIORITY.get(match.type, usual), match.start - match.end, match.start


def settle(found: Sequence[Match]) -> list[Match]:
    """Resolve overlaps: the stronger type keeps the range, widened over what the weaker one adds.

    Nothing that any rule saw stays behind in clear.
    """
    kept: list[Match] = []
    for match in sorted(found, key=_rank):
        touching = [other for other in kept if other.start < match.end and match.start < other.end]
        if not touching:
            kept.append(match)
            continue
        if match.type == "email" and touching[0].type == "url_credentials":
            # `password@host.org` of a URL: the host may stay.
            continue
        start = min(match.start, *(other.start for other in touching))
        end = max(match.end, *(other.end for other in touching))
        kept = [other for other in kept if other not in touching] + [Match(start, end, touching[0].type)]
    return sorted(kept)
