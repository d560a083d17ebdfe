"""Find payment cards and bank accounts."""

from __future__ import annotations

import re
from functools import partial

from stdnum import iban, luhn

from trainer.data.pii.detectors.rule import Match, context
from trainer.data.pii.fold import digits_in
from trainer.data.pii.record import PiiRecord, Twin, mask_digits
from trainer.recipe.pii import PiiType

CARD = re.compile(r"(?<![A-Za-z0-9_.+-])\d(?:[ \u00a0-]?\d){11,18}(?![A-Za-z0-9_@]|[.,-]\d)")
CARD_GROUPS = re.compile(
    r"\d+|\d{4}([ -\u00a0])\d{4}\1\d{4}(?:\1\d{1,7})?(?:\1\d{1,3})?|\d{4}([ -\u00a0])\d{6}\2\d{4,5}"
)
"""Digits without a break, in fours, or as American Express and Diners print them."""

FOUR_BEFORE = re.compile(r"(?<!\d)\d{4}[ \u00a0-]$")
FOUR_AFTER = re.compile(r"[ \u00a0-]\d{4}(?!\d)")

CARD_CONTEXT = context(
    r"cards?|cc|credit|debit|visa|master ?card|maestro|amex|american express|discover|diners|jcb|unionpay|pan"
    r"|kreditkarte|carte|tarjeta|carta"
)

STRONG_ISSUERS = (
    ("34", "34", {15}),
    ("37", "37", {15}),
    ("4", "4", {16}),
    ("51", "55", {16}),
    ("2221", "2720", {16}),
    ("6011", "6011", {16}),
    ("622126", "622925", {16}),
    ("644", "659", {16}),
    ("3528", "3589", {16}),
    ("300", "305", {14}),
    ("3095", "3095", {14}),
    ("36", "36", {14}),
    ("38", "39", {14}),
    ("2200", "2204", {16}),
)
WEAK_ISSUERS = (
    ("2", "6", set(range(12, 20))),
    ("1800", "1800", {15}),
    ("81", "82", {16, 17, 18, 19}),
    ("9792", "9792", {16}),
)
"""Issuer ranges: first prefix, last prefix, lengths. WEAK ones hold many other numbers, and need the word `card`.

Source: ISO/IEC 7812, as the networks publish the ranges.
"""


def _issued(digits: str, issuers: tuple[tuple[str, str, set[int]], ...]) -> bool:
    return any(first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in issuers)


class CardDetector:
    """Finds card numbers by issuer, length, grouping and Luhn's check digit."""

    def find(self, text: str) -> list[Match]:
        return [
            Match(*match.span(), "card")
            for match in CARD.finditer(text)
            if CARD_GROUPS.fullmatch(match[0])
            and not is_in_a_row_of_numbers(text, *match.span())
            and is_card(text, *match.span())
        ]


def is_card(text: str, start: int, end: int) -> bool:
    """Tell whether the digits of `text[start:end]` are a card number."""
    digits = digits_in(text[start:end])
    if not luhn.is_valid(digits) or len(set(digits)) == 1:
        return False
    if _issued(digits, STRONG_ISSUERS):
        return not CARD_CONTEXT.speaks_against(text, start)
    return _issued(digits, WEAK_ISSUERS) and CARD_CONTEXT.speaks_for(text, start, end)


def is_in_a_row_of_numbers(text: str, start: int, end: int) -> bool:
    """Tell whether more groups of four digits stand before or after: a table of readings, not a card."""
    return FOUR_BEFORE.search(text[max(0, start - 6) : start]) is not None or FOUR_AFTER.match(text, end) is not None


# The look behind comes after four characters: at the start it would cost a step for every character of the text.
IBAN = re.compile(r"[A-Za-z]{2}(?!00|01|99)\d{2}(?<![A-Za-z0-9].{4})(?:[ \u00a0-]?[A-Za-z0-9]){11,30}")
"""ISO 7064 gives check digits from 02 to 98."""


class IbanDetector:
    """Finds bank accounts by the structure of their country and the remainder by 97."""

    def find(self, text: str) -> list[Match]:
        ends = ((match.start(), iban_end(text, *match.span())) for match in IBAN.finditer(text))
        return [Match(start, end, "iban") for start, end in ends if end is not None]


def iban_end(text: str, start: int, limit: int) -> int | None:
    """Return the end of the IBAN at `start`, None without one. Words may follow it without a break.

    Example:
        >>> iban_end("GB82 WEST 1234 5698 7654 32 now", 0, 31)
        27
    """
    for end in range(start + 15, limit + 1):
        if not is_iban_char(text[end : end + 1]) and iban.is_valid(text[start:end], check_country=False):
            return end
    return None


def is_iban_char(char: str) -> bool:
    """Tell whether a character can belong to an IBAN. A Chinese one may follow without a space."""
    return char.isascii() and char.isalnum()


RECORDS: dict[PiiType, PiiRecord] = {
    "iban": PiiRecord(partial(mask_digits, num_shown=2), Twin(num_kept=2), "P004", is_titled=True, rank=6),
    "card": PiiRecord(partial(mask_digits, num_shown=4), Twin(num_kept=1), "P003", is_titled=True, rank=7),
}
