"""Find telephone numbers: international ones, national ones in the form of their country, and labelled ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import phonenumbers
from phonenumbers import PhoneNumber

from trainer.data.pii.detectors.phone_words import LABEL_AFTER, NO_PHONE, PHONE_CONTEXT
from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.fold import digits_in
from trainer.data.pii.record import EXTENSION, PiiRecord, fictional_phone, mask_digits
from trainer.recipe.pii import PiiType

_SEPARATOR = r"[ \u00a0.\-‐‑–/()]"
PHONE = re.compile(
    rf"(?<![A-Za-z0-9_@#$€£%=&.<*])(?:\+|00)?(?:\(\+?\d{{1,5}}(?: \d{{1,4}})?\)|\d)(?:{_SEPARATOR}{{0,3}}\d){{6,16}}"
    r"(?P<extension>[ ,]{0,2}(?:x|ext\.?|extension)[ ]?\d{1,6})?(?![A-Za-z0-9_@%$€£]|[.,:/-]\d"
    r"| ?(?:[=*>]|<(?!/?[a-z])))"  # a tag may follow, a comparison may not
)
NANP = re.compile(r"\(\d{3}\) ?\d{3}[-. ]\d{4}|\d{3}([-.])\d{3}\1\d{4}|1[-.]\d{3}[-.]\d{3}[-.]\d{4}")
"""Form of a number of the North American plan. Few other numbers share it."""

DATE = re.compile(r"[12]\d{3}([-/. ])\d{1,2}\1\d{1,2}(?!\d)|\d{1,2}([-/.])\d{1,2}\2\d{4}(?!\d)|(?:19|20)\d{12}$")
ADDRESS_OR_DECIMAL = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|\d+\.\d+")

THOUSANDS = re.compile(r"\d{1,3}(?:[ \u00a0.]\d{3})+|\d\d(?: \d\d)+")
"""`612 345 678` is written like a large number, `12 34 56 78` like scores."""

PRINTED = re.compile(r"(?:\(\d[\d ]*\))?[\d /-]+|\d+(?:\.\d+)+|\(\d+\)[\d.]+")
"""Spaces, hyphens and a slash, or points alone. A mixture is a decimal."""
INSIDE_CODE = re.compile(r"[A-Za-z0-9][-/.‐–]#|#[-/.‐–][A-Za-z0-9]")

ARITHMETIC = re.compile(r"(?!\d{3}-\d{4}$)[1-9]\d*([-/])\d+(?:\1\d+)?")
"""`1600-1360` or `240-120-75`: a sum, a range or a date. `555-0199` is a telephone number."""


@dataclass(frozen=True)
class PhoneDetector:
    """Finds international and North American numbers, and possible numbers beside a word for a telephone.

    To ask for valid numbers everywhere would miss invented ones; to accept possible ones everywhere, flag too many.

    Args:
        regions: countries of national numbers, ISO 3166-1 alpha-2.
    """

    regions: tuple[str, ...]

    def find(self, text: str) -> list[Match]:
        ends = ((match.start(), self._end_of_number(text, match)) for match in PHONE.finditer(text))
        return [Match(start, end, "phone") for start, end in ends if end is not None]

    def _end_of_number(self, text: str, match: re.Match[str]) -> int | None:
        """Return the end of the number, up to two last groups of digits left out; None without a number."""
        start, end = match.span()
        nanp = NANP.match(text, start, end)
        if nanp and text[nanp.end() : nanp.end() + 1] == " " and not match["extension"]:
            end = nanp.end()
        for num_cuts in range(3):
            if self._is_phone(text, start, end, extension=match["extension"] or "", is_cut=num_cuts > 0):
                return end
            cut = max(text.rfind(mark, start, end) for mark in " \u00a0")
            if cut <= start or match["extension"]:
                return None
            end = cut
        return None

    def _is_phone(self, text: str, start: int, end: int, *, extension: str, is_cut: bool) -> bool:
        value = text[start : end - len(extension)]
        num_digits = len(digits_in(value))
        if not 7 <= num_digits <= 15 or DATE.match(value) or ADDRESS_OR_DECIMAL.fullmatch(value):
            return False
        verdict = PHONE_CONTEXT.verdict(text, start)
        if verdict is False:
            return False
        if value.startswith(("+", "00", "(+")):
            return is_international(value, possible=bool(verdict))
        if verdict or LABEL_AFTER.match(text, end):
            return is_written_as_phone(value) and any(is_possible(value, region) for region in self.regions)
        # More digits after it, without a word for a telephone: a list of numbers.
        in_code = INSIDE_CODE.search(text[max(0, start - 2) : start] + "#" + text[end : end + 2]) is not None
        return not is_cut and not in_code and not is_other_number(text, start, end) and self._is_in_national_form(value)

    def _is_in_national_form(self, value: str) -> bool:
        """Tell whether an unlabelled number has the form of its country."""
        if NANP.fullmatch(value):
            return any(is_valid(value, region) for region in ("US", "CA") if region in self.regions)
        groups = [len(group) for group in re.findall(r"\d+", value)]
        if not PRINTED.fullmatch(value) or not 2 <= len(groups) <= 5 or min(groups[1:]) < 2 or groups[0] > 6:
            return False
        regions = [region for region in self.regions if region not in ("US", "CA")]
        if value.startswith(("0", "(")):
            return any(is_national_form(value, region) for region in regions)
        # Without the leading zero or an area code in brackets it may be a sum, a score or a list.
        return not THOUSANDS.fullmatch(value) and any(is_printed_form(value, region) for region in regions)


def is_other_number(text: str, start: int, end: int) -> bool:
    """Tell whether the words around name a part, a price or a place on a map."""
    return NO_PHONE.search(text[max(0, start - 64) : start] + " " + text[end : end + 40]) is not None


def is_national_form(value: str, region: str) -> bool:
    """Tell whether a number that begins with zero or a bracket is assigned in a region."""
    trunk = national_prefix(region)
    if value.startswith("0") and trunk != "0" and region != "IT":
        return False
    return is_valid(value, region)


def is_printed_form(value: str, region: str) -> bool:
    """Tell whether a number without leading zero has exactly the form that libphonenumber prints for its region."""
    number = parse_phone(value, region) if national_prefix(region) in (None, "") or region in ("IT", "ES") else None
    if number is None or len(digits_in(value)) < 9 or not phonenumbers.is_valid_number(number):
        return False
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL) == value


@cache
def national_prefix(region: str) -> str | None:
    """Return the trunk prefix, dialled before a national number: `0` in most of Europe and Asia."""
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    return metadata.national_prefix if metadata is not None else None


def is_written_as_phone(value: str) -> bool:
    """Tell a telephone number from the numbers of a sum, a range or a list."""
    groups = re.findall(r"\d+", value)
    if len(groups) * 2 > len(digits_in(value)) + 1:
        return False
    if ARITHMETIC.fullmatch(value):
        return NANP.fullmatch(value) is not None
    return len(value) >= 9 or any(mark in value for mark in " -./()")


def is_international(value: str, *, possible: bool) -> bool:
    """Tell whether a number with `+` or `00` is assigned or, beside a word for a telephone, `possible`."""
    plain = value.lstrip("(")
    number = parse_phone("+" + plain[2:] if plain.startswith("00") else plain, None)
    if number is None:
        return possible and value.startswith("00")
    return phonenumbers.is_possible_number(number) if possible else phonenumbers.is_valid_number(number)


def is_possible(value: str, region: str) -> bool:
    """Tell whether a national number has a length of the region, with or without its area code."""
    number = parse_phone(value, region)
    if number is None:
        return False
    reason = phonenumbers.is_possible_number_with_reason(number)
    return reason in (phonenumbers.ValidationResult.IS_POSSIBLE, phonenumbers.ValidationResult.IS_POSSIBLE_LOCAL_ONLY)


def is_valid(value: str, region: str) -> bool:
    """Tell whether a national number lies in an assigned range of the region."""
    number = parse_phone(value, region)
    return number is not None and phonenumbers.is_valid_number(number)


def parse_phone(value: str, region: str | None) -> PhoneNumber | None:
    """Return the parsed number, None where libphonenumber cannot parse it."""
    try:
        return phonenumbers.parse(value.replace("(0)", ""), region)
    except phonenumbers.NumberParseException:
        return None


def e164(value: str, regions: Sequence[str]) -> str | None:
    """Return the international spelling of a number (ITU-T E.164), None where no region has such numbers.

    A national number belongs to the first region with it assigned, else to the first with it possible.

    Example:
        >>> e164("(202) 456-1111", ["FR", "US"])
        '+12024561111'
    """
    plain = EXTENSION.split(value, maxsplit=1)[0].lstrip("(")
    if plain.startswith(("+", "00")):
        number = parse_phone("+" + plain.lstrip("+0"), None)
    else:
        tests = ((test, region) for test in (is_valid, is_possible) for region in regions)
        home = next((region for test, region in tests if test(plain, region)), None)
        number = parse_phone(plain, home) if home else None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) if number else None


RECORDS: dict[PiiType, PiiRecord] = {
    "phone": PiiRecord(partial(mask_digits, num_shown=2), fictional_phone, "P002", is_titled=True, rank=101)
}
