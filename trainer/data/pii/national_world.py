"""Identity and tax numbers outside Europe, and the documents that only their name tells."""

from __future__ import annotations

import re

from trainer.data.pii.calendar import is_date
from trainer.data.pii.checksums import digits_of, luhn, verhoeff, weighted_sum
from trainer.data.pii.national_europe import identity_rule
from trainer.data.pii.rule import Rule, context

PUBLISHED_SSNS = frozenset({"078051120", "219099999"})
"""Numbers once printed in advertisements. Source: Social Security Administration, history."""


def is_us_ssn(value: str) -> bool:
    """Check the parts of a social security number. Source: SSA, randomization FAQ."""
    digits = "".join(map(str, digits_of(value)))
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return (
        area not in ("000", "666")
        and area < "900"
        and group != "00"
        and serial != "0000"
        and digits not in PUBLISHED_SSNS
    )


def is_us_itin(value: str) -> bool:
    """Check the group of an individual taxpayer number. Source: IRS, Publication 4757."""
    group = int("".join(map(str, digits_of(value)))[3:5])
    return 50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99


def is_br_cpf(value: str) -> bool:
    """Check both control digits of a CPF. Source: Receita Federal."""
    digits = digits_of(value)
    first = weighted_sum(digits[:9], range(10, 1, -1)) * 10 % 11 % 10
    second = weighted_sum(digits[:10], range(11, 1, -1)) * 10 % 11 % 10
    return digits[9:] == [first, second] and len(set(digits)) > 1


def is_in_aadhaar(value: str) -> bool:
    """Check the Verhoeff digit of an Aadhaar number. Source: UIDAI."""
    digits = digits_of(value)
    return digits[0] > 1 and verhoeff(digits) and len(set(digits)) > 1


def is_cn_resident_id(value: str) -> bool:
    """Check date and MOD 11-2 character of a resident identity number. Source: GB 11643-1999."""
    digits = digits_of(value[:17])
    year, month, day = int(value[6:10]), int(value[10:12]), int(value[12:14])
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return (
        1900 <= year <= 2100
        and is_date(year, month, day)
        and "10X98765432"[weighted_sum(digits, weights) % 11] == value[17].upper()
    )


def is_ca_sin(value: str) -> bool:
    """Check Luhn's digit of a social insurance number; none starts with 0 or 8. Source: Service Canada."""
    digits = digits_of(value)
    return digits[0] not in (0, 8) and luhn(digits)


def has_four_digits(value: str) -> bool:
    """Tell whether the number of a document has four digits or more: words are none."""
    return len(digits_of(value)) >= 4


DRIVER_LICENSE = re.compile(
    r"\bdriv(?:er['’]?s?|ing) licen[cs]e(?: (?:number|no\.?|id|#))?(?: is)?\s?[:#=]?\s?"
    r"(?P<value>[A-Z0-9](?:[A-Z0-9 -]{3,17})[A-Z0-9])(?!\w)",
    re.IGNORECASE,
)
PASSPORT = re.compile(
    r"\bpassport(?: (?:number|no\.?|id|#))?(?: is)?\s?[:#=]?\s?(?P<value>[A-Z]{0,3}\d[A-Z0-9]{4,8})(?!\w)",
    re.IGNORECASE,
)

US_RULES = (
    # The dashed form is the number's own; nine digits in a row are anything.
    identity_rule(
        "us_ssn", r"\d{3}-\d{2}-\d{4}|\d{3} \d{2} \d{4}", is_us_ssn, r"ssn|social|security", needs_context=False
    ),
    Rule(
        "us_ssn",
        re.compile(r"(?<![\w.-])\d{9}(?![\w]|[.-]\d)"),
        is_us_ssn,
        context("ssn|social security(?: number)?|social", "ein|routing|account|bsn|zip"),
        needs_context=True,
    ),
    identity_rule("us_itin", r"9\d{2}-\d{2}-\d{4}", is_us_itin, "itin|individual taxpayer", needs_context=False),
)
WORLD_RULES = (
    *US_RULES,
    identity_rule("br_cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}", is_br_cpf, "cpf", needs_context=False),
    Rule("br_cpf", re.compile(r"(?<![\w.-])\d{11}(?![\w]|[.-]\d)"), is_br_cpf, context("cpf"), needs_context=True),
    identity_rule(
        "in_aadhaar", r"\d{4}([ -])\d{4}\1\d{4}|\d{12}", is_in_aadhaar, "aadhaar|aadhar|uidai|uid", needs_context=True
    ),
    identity_rule("in_pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", bool, "pan|permanent account", needs_context=True),
    identity_rule(
        "cn_resident_id", r"[1-8]\d{16}[\dXx]", is_cn_resident_id, "身份证|resident identity", needs_context=False
    ),
    identity_rule("ca_sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", is_ca_sin, "sin|social insurance", needs_context=True),
)
DOCUMENT_RULES = (Rule("driver_license", DRIVER_LICENSE, has_four_digits), Rule("passport", PASSPORT, has_four_digits))


def names_a_document(text: str) -> bool:
    """Tell whether a text speaks of a driving licence or a passport."""
    lowered = text.lower()
    return "licen" in lowered or "passport" in lowered
