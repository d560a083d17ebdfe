"""Payment cards, bank accounts and the addresses of crypto-currencies."""

from __future__ import annotations

import re

from trainer.data.pii.checksums import BASE58, BECH32, base58check, bech32, digits_of, luhn, mod_97
from trainer.data.pii.keccak import keccak_256
from trainer.data.pii.rule import Match, PiiRule, context

CARD = re.compile(r"(?<![A-Za-z0-9_.+-])\d(?:[ \u00a0-]?\d){11,18}(?![A-Za-z0-9_@]|[.,-]\d)")
CARD_GROUPS = re.compile(
    r"\d+|\d{4}([ -\u00a0])\d{4}\1\d{4}(?:\1\d{1,7})?(?:\1\d{1,3})?|\d{4}([ -\u00a0])\d{6}\2\d{4,5}"
)
"""Digits in one piece, in fours, or as American Express and Diners print them."""

FOUR_BEFORE = re.compile(r"(?<!\d)\d{4}[ \u00a0-]$")
FOUR_AFTER = re.compile(r"[ \u00a0-]\d{4}(?!\d)")

CARD_CONTEXT = context(
    r"cards?|cc|credit|debit|visa|master ?card|maestro|amex|american express|discover|diners|jcb|unionpay|pan"
    r"|kreditkarte|carte|tarjeta|carta",
)

# First and last prefix, and the lengths.
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
"""Issuer ranges (Source: ISO/IEC 7812, as the networks publish them). The WEAK ones hold too many other numbers, so
that they need the word `card`."""


def _issued(digits: str, issuers: tuple[tuple[str, str, set[int]], ...]) -> bool:
    return any(first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in issuers)


class CardDetector:
    """Card numbers: issuer, length, grouping and Luhn's check digit."""

    def find(self, text: str) -> list[Match]:
        return [
            Match(*match.span(), "card")
            for match in CARD.finditer(text)
            if CARD_GROUPS.fullmatch(match[0])
            and not is_in_a_row_of_numbers(text, *match.span())
            and self._is_card(text, *match.span())
        ]

    def _is_card(self, text: str, start: int, end: int) -> bool:
        digits = "".join(map(str, digits_of(text[start:end])))
        if not luhn([int(digit) for digit in digits]) or len(set(digits)) == 1:
            return False
        if _issued(digits, STRONG_ISSUERS):
            return not CARD_CONTEXT.speaks_against(text, start)
        return _issued(digits, WEAK_ISSUERS) and CARD_CONTEXT.speaks_for(text, start, end)


def is_in_a_row_of_numbers(text: str, start: int, end: int) -> bool:
    """Tell whether more groups of four digits stand before or after: a table of readings, not a card."""
    return FOUR_BEFORE.search(text[max(0, start - 6) : start]) is not None or FOUR_AFTER.match(text, end) is not None


IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"(\D\D)(\d\d)",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29ES24FI18FK18FO18"
        "FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27"
        "MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27"
        "SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20YE30",
    )
}
"""Characters of an IBAN by country. Source: SWIFT, IBAN registry, release 99."""

# The look behind comes after four characters: at the start it would cost a step for every character of the text.
IBAN = re.compile(r"[A-Za-z]{2}\d{2}(?<![A-Za-z0-9].{4})(?:[ \u00a0-]?[A-Za-z0-9]){11,30}")


class IbanDetector:
    """Bank accounts: the country's length and the remainder by 97."""

    def find(self, text: str) -> list[Match]:
        found = []
        for match in IBAN.finditer(text):
            end = iban_end(text, match.start(), match.end())
            if end is not None:
                found.append(Match(match.start(), end, "iban"))
        return found


def is_iban_char(char: str) -> bool:
    """Tell whether a character is one of an account: a Chinese one may follow without a space."""
    return char.isascii() and char.isalnum()


def iban_end(text: str, start: int, limit: int) -> int | None:
    """Return where the IBAN at `start` ends, or None where there is none: words may follow it without a break."""
    length = IBAN_LENGTHS.get(text[start : start + 2].upper(), 0)
    chars: list[str] = []
    end = start
    while end < limit and len(chars) < length:
        if is_iban_char(text[end]):
            chars.append(text[end])
        end += 1
    value = "".join(chars).upper()
    if not length or len(value) < length or is_iban_char(text[end : end + 1]) or value[2:4] in ("00", "01", "99"):
        return None
    return end if value.isascii() and mod_97(value[4:] + value[:4]) == 1 else None


LEGACY_COIN = re.compile(rf"(?<![A-Za-z0-9_/=+])[13mn2LMDrT][{BASE58}]{{25,34}}(?![A-Za-z0-9_/=+])")
SEGWIT_COIN = re.compile(
    rf"(?<![A-Za-z0-9_])(?:(?:bc|tb|ltc)1[{BECH32}]{{25,71}}|(?:BC|TB|LTC)1[{BECH32.upper()}]{{25,71}})(?![A-Za-z0-9_])"
)
ETHEREUM = re.compile(r"(?<![A-Za-z0-9_])0x[0-9a-fA-F]{40}(?![A-Za-z0-9_])")
CRYPTO_CONTEXT = context(
    r"eth|ether|ethereum|wallet|address|account|send|sent|deposit|crypto", "commit|hash|contract|transaction|tx"
)

# Version bytes: bitcoin, its test net, litecoin, dogecoin and tron.
COIN_VERSIONS = frozenset({0x00, 0x05, 0x6F, 0xC4, 0x30, 0x32, 0x1E, 0x16, 0x41})


def is_base58_address(value: str) -> bool:
    """Tell whether a base58 string is an address of 20 bytes with a known version and a right checksum."""
    payload = base58check(value)
    return payload is not None and len(payload) == 21 and payload[0] in COIN_VERSIONS


def is_segwit_address(value: str) -> bool:
    """Tell whether a bech32 address has a right checksum."""
    prefix, _, data = value.lower().partition("1")
    return bech32(prefix, data)


def is_ethereum_address(value: str) -> bool:
    """Tell whether the case of 40 hexadecimal digits is the checksum of an address.

    Source: EIP-55.
    """
    digits = value[2:]
    digest = keccak_256(digits.lower().encode()).hex()
    return all(
        char == (char.upper() if int(nibble, 16) >= 8 else char.lower())
        for char, nibble in zip(digits, digest, strict=False)
    )


def is_plain_ethereum_address(value: str) -> bool:
    """Tell whether 40 hexadecimal digits in one case may be an address; many hashes look the same."""
    digits = value[2:]
    return digits in (digits.lower(), digits.upper()) and len(set(digits.lower())) >= 6


CRYPTO_RULES = (
    PiiRule("crypto", LEGACY_COIN, is_base58_address),
    PiiRule("crypto", SEGWIT_COIN, is_segwit_address),
    PiiRule("crypto", ETHEREUM, is_ethereum_address),
    PiiRule("crypto", ETHEREUM, is_plain_ethereum_address, CRYPTO_CONTEXT, needs_context=True),
)
