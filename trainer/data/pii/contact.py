"""E-mail addresses and telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import phonenumbers
from phonenumbers import PhoneNumber

from trainer.data.pii.checksums import digits_of
from trainer.data.pii.rule import OTHER_NUMBERS, Match, Rule, context

EMAIL = re.compile(
    r"(?<![\w.+%-])[\w](?:[\w.+%'-]{0,62}[\w+-])?@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:[^\W\d_]{2,24}|xn--[a-z0-9-]{2,59})"
    r"(?![\w@-])"
)
"""RFC 5321's local part without the quoted form, at a host name of several labels."""

# A user on a host without a domain (`root@db1`) and `pip install x@1.2` are no addresses: the last label is letters.
FILE_ENDINGS = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "map", "py", "json"))
"""Ends of names such as `icon@2x.png`, which are no top-level domains."""

PHONE = re.compile(
    r"(?<![\w@#$€£%=&.<*])(?:\+|00)?(?:\(\+?\d{1,5}\)|\d)(?:[ \u00a0.\-/()]{0,3}\d){6,16}"
    r"(?P<extension>[ ,]{0,2}(?:x|ext\.?|extension)[ ]?\d{1,6})?(?![\w@%$€£]|[.,:/-]\d| ?[=*<>])"
)
NANP = re.compile(r"\(\d{3}\) ?\d{3}[-. ]\d{4}|\d{3}([-.])\d{3}\1\d{4}|1[-.]\d{3}[-.]\d{3}[-.]\d{4}")
"""How a number of the North American plan is written; few other things are."""

DATE = re.compile(
    r"(?:19|20)\d\d([-/. ])\d{1,2}\1\d{1,2}(?!\d)|\d{1,2}([-/.])\d{1,2}\2(?:19|20)\d\d(?!\d)|(?:19|20)\d{12}$"
)
ADDRESS_OR_DECIMAL = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|\d+\.\d+")

ARITHMETIC = re.compile(r"(?!\d{3}-\d{4}$)[1-9]\d*([-/])\d+(?:\1\d+)?")
"""`1600-1360` or `240-120-75`: a sum, a range or a date; `555-0199` is none."""

PHONE_CONTEXT = context(
    r"(?:tele)?phones?|tel|mobiles?|mob|cell|cell ?phone|cellular|fax|handy|telefon[oe]?s?|tél(?:éphone)?|móvil|celular"
    r"|whatsapp|sms|hotline|helpline|landline|pager|voicemail|call(?:ed|ing|s)?|dial|ring|rang|answer(?:ing)?|messages?"
    r"|texted|text me|text|reach|contact|(?:desk|office|home|work)(?= ?:)",
    OTHER_NUMBERS
    + r"|isbn|zip|vin|licen[cs]e|licence|passport|card|iban|ssn|account|acct|routing|p\.?o\.? box|box|costs?"
    r"|prices?|worth|total|sum|id|at the office of|port",
)


LABEL_AFTER = re.compile(r"[ \t(,-]{0,3}(?:office|desk|fax|mobile|cell|home|work|tel|phone)(?!\w)", re.IGNORECASE)
"""How signatures name a number: `555 0199 (mobile)`."""


def is_mail_address(value: str) -> bool:
    """Tell whether the ends of an e-mail address are those of an address, not of a file."""
    local, _, host = value.rpartition("@")
    return ".." not in value and not local.endswith(".") and host.rsplit(".", 1)[-1].lower() not in FILE_ENDINGS


EMAIL_RULE = Rule("email", EMAIL, is_mail_address)


@dataclass(frozen=True)
class PhoneDetector:
    """Numbers in international or North American form, and any possible number that the words around call a phone.

    Valid numbers alone are too few (people invent numbers in examples), possible numbers alone too many.

    Args:
        regions: countries whose national numbers count, two letters each.
    """

    regions: tuple[str, ...]

    def find(self, text: str) -> list[Match]:
        found = []
        for match in PHONE.finditer(text):
            end = self._end_of_number(text, match)
            if end is not None:
                found.append(Match(match.start(), end, "phone"))
        return found

    def _end_of_number(self, text: str, match: re.Match[str]) -> int | None:
        """Return where the number ends, without a separate group of digits that follows it; None if there is none."""
        start, end = match.span()
        whole = NANP.match(text, start, end)
        if whole and text[whole.end() : whole.end() + 1] == " " and not match["extension"]:
            end = whole.end()
        for _ in range(3):
            if self._is_phone(text, start, end, extension=match["extension"] or ""):
                return end
            cut = max(text.rfind(mark, start, end) for mark in " \u00a0")
            if cut <= start or match["extension"]:
                return None
            end = cut
        return None

    def _is_phone(self, text: str, start: int, end: int, *, extension: str) -> bool:
        value = text[start : end - len(extension)]
        num_digits = len(digits_of(value))
        if not 7 <= num_digits <= 15 or DATE.match(value) or ADDRESS_OR_DECIMAL.fullmatch(value):
            return False
        verdict = PHONE_CONTEXT.verdict(text, start)
        if verdict is False:
            return False
        if value.startswith(("+", "00", "(+")):
            return is_international(value, possible=bool(verdict))
        if verdict or LABEL_AFTER.match(text, end):
            return is_written_as_phone(value) and any(is_possible(value, region) for region in self.regions)
        return NANP.fullmatch(value) is not None and any(
            is_valid(value, region) for region in ("US", "CA") if region in self.regions
        )


def is_written_as_phone(value: str) -> bool:
    """Tell whether the digits stand as a telephone's: not two or three plain numbers of a sum or a range."""
    if ARITHMETIC.fullmatch(value):
        return NANP.fullmatch(value) is not None
    return len(value) >= 9 or any(mark in value for mark in " -./()")


def is_international(value: str, *, possible: bool) -> bool:
    """Tell whether a number that starts with `+` or `00` is assigned, or just possible where the context says phone."""
    plain = value.lstrip("(")
    number = parse_phone("+" + plain[2:] if plain.startswith("00") else plain, None)
    if number is None:
        return possible and value.startswith("00")
    return phonenumbers.is_possible_number(number) if possible else phonenumbers.is_valid_number(number)


def is_possible(value: str, region: str) -> bool:
    """Tell whether a national number has a length that the region uses, with or without its area code."""
    number = parse_phone(value, region)
    if number is None:
        return False
    reason = phonenumbers.is_possible_number_with_reason(number)
    return reason in (
        phonenumbers.ValidationResult.IS_POSSIBLE,
        phonenumbers.ValidationResult.IS_POSSIBLE_LOCAL_ONLY,
    )


def is_valid(value: str, region: str) -> bool:
    """Tell whether a national number lies in a range that the region has given out."""
    number = parse_phone(value, region)
    return number is not None and phonenumbers.is_valid_number(number)


def parse_phone(value: str, region: str | None) -> PhoneNumber | None:
    """Return the parsed number, or None where libphonenumber sees none."""
    try:
        return phonenumbers.parse(value.replace("(0)", ""), region)
    except phonenumbers.NumberParseException:
        return None


def e164(value: str, regions: Sequence[str]) -> str | None:
    """Return the one international spelling of a number; None where no region is known to give out such numbers.

    A national number is read as one of the first region where it is assigned, else of the first where it is possible.
    Source: ITU-T E.164.
    """
    plain = re.split(r"[ ,]*(?:x|ext)", value, maxsplit=1, flags=re.IGNORECASE)[0].lstrip("(")
    if plain.startswith(("+", "00")):
        number = parse_phone("+" + plain.lstrip("+0"), None)
    else:
        where = next((region for region in regions if is_valid(plain, region)), None)
        where = where or next((region for region in regions if is_possible(plain, region)), None)
        number = parse_phone(plain, where) if where else None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) if number else None


def contact_detectors(regions: Sequence[str]) -> tuple[PhoneDetector]:
    """Build the detectors of telephone numbers of these countries."""
    return (PhoneDetector(tuple(regions)),)
