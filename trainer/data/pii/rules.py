"""All rules behind their gates, and what happens where two of them see the same characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from trainer.data.pii.address import BOX_RULES, STREET_RULES, has_post_code, names_a_box
from trainer.data.pii.credentials import CredentialDetector, names_a_secret
from trainer.data.pii.documents import DOCUMENT_RULES, names_a_document
from trainer.data.pii.email import SPELLED_GATE, EmailDetector, SpelledEmailDetector
from trainer.data.pii.financial import CRYPTO_RULES, CardDetector, IbanDetector
from trainer.data.pii.identity import mixed_rules, numeric_rules
from trainer.data.pii.network import MAC_RULE, URL_RULE, IpDetector
from trainer.data.pii.phone import PhoneDetector
from trainer.data.pii.rule import Family, Holds, Match, has_long_word
from trainer.data.pii.secrets import DISCORD_RULE, JWT_RULE, PRIVATE_KEY_RULE, PUTTY_RULE, UNLED_RULES, KeyDetector
from trainer.recipe.pii import PersonalType, SecretType

LONG_NUMBER = re.compile(r"\d(?:[ \u00a0.\-/()]{0,3}\d){6}")
"""Seven digits with at most some separators between: no telephone, card or identity number has fewer."""
SIX_DIGITS = re.compile(r"\d(?:[ .]?\d){5}")
SIX_CAPITALS = re.compile(r"[A-Z]{5}[A-Z\d]")
DAY_AND_PLACE = re.compile(r"\d\d[A-Za-z]\d{3}")
"""One of the three is in every identity number of letters and digits; each begins with one class, which is fast."""
DOTTED = re.compile(r"\.\d{1,3}\.\d")

CANDIDATE = re.compile(r"[\d@]|[A-Za-z0-9+/_-]{16}|[A-Z]{8}| dot | AT |[\[({<]at")
"""No rule finds anything in a text that has none of these: most texts cost one look."""

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
    return any(form.search(text) is not None for form in (SIX_DIGITS, SIX_CAPITALS, DAY_AND_PLACE))


def families(phone_regions: Sequence[str]) -> tuple[Family, ...]:
    """Build every rule, grouped by the cheap test that must hold before they run."""
    return (
        Family(
            LONG_NUMBER.search, (CardDetector(), IbanDetector(), *numeric_rules(), PhoneDetector(tuple(phone_regions)))
        ),
        Family(has_mixed_id, mixed_rules()),
        Family(names_a_document, DOCUMENT_RULES),
        Family(Holds("@"), (EmailDetector(),)),
        Family(SPELLED_GATE.search, (SpelledEmailDetector(),)),
        Family(Holds("://"), (URL_RULE,)),
        Family(has_hex_groups, (IpDetector(), MAC_RULE)),
        Family(has_long_word, (*CRYPTO_RULES, KeyDetector(), JWT_RULE, DISCORD_RULE)),
        *(Family(Holds(part), (rule,)) for part, rule in UNLED_RULES),
        Family(has_post_code, STREET_RULES),
        Family(names_a_box, BOX_RULES),
        Family(Holds("PRIVATE KEY"), (PRIVATE_KEY_RULE,)),
        Family(Holds("PuTTY-User-Key"), (PUTTY_RULE,)),
        Family(names_a_secret, (CredentialDetector(),)),
    )


def find_all(text: str, rules: Sequence[Family]) -> list[Match]:
    """Return what the rules find in `text`, in order and without overlap."""
    if CANDIDATE.search(text) is None:
        return []
    found: list[Match] = []
    for family in rules:
        if family.gate(text):
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
