"""Find telephone numbers: international ones, national ones in the form of their country, and what a text calls one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import phonenumbers
from phonenumbers import PhoneNumber

from trainer.data.pii.checksums import digits_of
from trainer.data.pii.phone_words import LABEL_AFTER, NO_PHONE, PHONE_CONTEXT
from trainer.data.pii.rule import Match

_SEPARATOR = r"[ \u00a0.\-‐‑–/()]"
PHONE = re.compile(
    rf"(?<![A-Za-z0-9_@#$€£%=&.<*])(?:\+|00)?(?:\(\+?\d{{1,5}}(?: \d{{1,4}})?\)|\d)(?:{_SEPARATOR}{{0,3}}\d){{6,16}}"
    r"(?P<extension>[ ,]{0,2}(?:x|ext\.?|extension)[ ]?\d{1,6})?(?![A-Za-z0-9_@%$€£]|[.,:/-]\d"
    r"| ?(?:[=*>]|<(?!/?[a-z])))"  # a tag may follow, a comparison may not
)
NANP = re.compile(r"\(\d{3}\) ?\d{3}[-. ]\d{4}|\d{3}([-.])\d{3}\1\d{4}|1[-.]\d{3}[-.]\d{3}[-.]\d{4}")
"""How a number of the North American plan is written; few other things are."""

DATE = re.compile(r"[12]\d{3}([-/. ])\d{1,2}\1\d{1,2}(?!\d)|\d{1,2}([-/.])\d{1,2}\2\d{4}(?!\d)|(?:19|20)\d{12}$")
ADDRESS_OR_DECIMAL = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|\d+\.\d+")

THOUSANDS = re.compile(r"\d{1,3}(?:[ \u00a0.]\d{3})+|\d\d(?: \d\d)+")
"""`612 345 678` is written like a large number, `12 34 56 78` like scores."""

PRINTED = re.compile(r"(?:\(\d[\d ]*\))?[\d /-]+|\d+(?:\.\d+)+|\(\d+\)[\d.]+")
"""Spaces, hyphens and a slash, or points alone: both together are decimals."""
INSIDE_CODE = re.compile(r"[A-Za-z0-9][-/.‐–]#|#[-/.‐–][A-Za-z0-9]")

ARITHMETIC = re.compile(r"(?!\d{3}-\d{4}$)[1-9]\d*([-/])\d+(?:\1\d+)?")
"""`1600-1360` or `240-120-75`: a sum, a range or a date; `555-0199` is none."""


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
        # More digits after it without a word that says telephone: a list of numbers.
        in_code = INSIDE_CODE.search(text[max(0, start - 2) : start] + "#" + text[end : end + 2]) is not None
        return not is_cut and not in_code and not is_other_number(text, start, end) and self._is_in_national_form(value)

    def _is_in_national_form(self, value: str) -> bool:
        """Tell whether a number stands as its country writes it, where no word calls it a telephone."""
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
    """Tell whether the words before or after name a part, a price or a place on a map."""
    return NO_PHONE.search(text[max(0, start - 64) : start] + " " + text[end : end + 40]) is not None


def is_national_form(value: str, region: str) -> bool:
    """Tell whether a number is assigned in a region and grouped: zero or bracket first, then groups of two or more."""
    trunk = national_prefix(region)
    if value.startswith("0") and trunk != "0" and region != "IT":
        return False
    return is_valid(value, region)


def is_printed_form(value: str, region: str) -> bool:
    """Tell whether a number without leading zero stands exactly as libphonenumber prints it for its region."""
    number = parse_phone(value, region) if national_prefix(region) in (None, "") or region in ("IT", "ES") else None
    if number is None or len(digits_of(value)) < 9 or not phonenumbers.is_valid_number(number):
        return False
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL) == value


@cache
def national_prefix(region: str) -> str | None:
    """Return what is dialled before a national number: `0` in most of Europe and Asia."""
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
    return metadata.national_prefix if metadata is not None else None


def is_written_as_phone(value: str) -> bool:
    """Tell whether the digits stand as a telephone's: not two or three plain numbers of a sum, a range or a list."""
    groups = re.findall(r"\d+", value)
    if len(groups) * 2 > len(digits_of(value)) + 1:
        return False
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
