"""Identity and tax numbers of European countries, each with its own check."""

from __future__ import annotations

import re
from collections.abc import Callable

from trainer.data.pii.calendar import is_date, is_short_date
from trainer.data.pii.checksums import digits_of, luhn, mod_11_10, weighted_sum
from trainer.data.pii.rule import Rule, context

ANY_ID = (
    r"identity|identit[àé]|identidad|identification|identifikation\w*|national|citizens?|personal (?:id|number|code)"
    r"|personnummer|resident|tax(?:payer)?|insurance|social security|ssn|documento"
)
"""Words that name an identity number in general."""


def is_uk_nino(value: str) -> bool:
    """Check the prefix and suffix of a National Insurance number.

    Source: HMRC, National Insurance Manual NIM39110.
    """
    prefix = value[:2].upper()
    return (
        prefix[0] not in "DFIQUV"
        and prefix[1] not in "DFIOQUV"
        and prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    )


def is_uk_nhs(value: str) -> bool:
    """Check the modulus 11 digit of an NHS number. Source: NHS Data Dictionary."""
    digits = digits_of(value)
    check = (11 - weighted_sum(digits[:9], range(10, 1, -1)) % 11) % 11
    return check == digits[9] and len(set(digits)) > 1


def is_de_tax_id(value: str) -> bool:
    """Check a Steuer-Identifikationsnummer: one digit twice or thrice among the first ten, and MOD 11,10.

    Source: Bundeszentralamt für Steuern, Pruefziffernberechnung.
    """
    digits = digits_of(value)
    counts = sorted(digits[:10].count(digit) for digit in set(digits[:10]))
    return digits[0] != 0 and counts[-1] in (2, 3) and counts[:-1] == [1] * (len(counts) - 1) and mod_11_10(digits)


def is_fr_nir(value: str) -> bool:
    """Check the month and the 97 key of a numéro de sécurité sociale; Corsica counts as 19 and 18. Source: INSEE."""
    plain = re.sub(r"\s", "", value).upper()
    month = int(plain[3:5])
    number = plain[:13].replace("2A", "19").replace("2B", "18")
    return (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) and 97 - int(number) % 97 == int(plain[13:])


def is_es_dni(value: str) -> bool:
    """Check the letter of a DNI or NIE. Source: Ministerio del Interior."""
    plain = re.sub(r"[\s.-]", "", value).upper()
    number = str("XYZ".find(plain[0])) + plain[1:-1] if plain[0] in "XYZ" else plain[:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == plain[-1]


_ODD_PLACES = (
    1,
    0,
    5,
    7,
    9,
    13,
    15,
    17,
    19,
    21,
    1,
    0,
    5,
    7,
    9,
    13,
    15,
    17,
    19,
    21,
    2,
    4,
    18,
    20,
    11,
    3,
    6,
    8,
    12,
    14,
    16,
    10,
    22,
    25,
    24,
    23,
)
"""Value of 0-9 and A-Z at odd places."""


def is_it_codice_fiscale(value: str) -> bool:
    """Check the last letter of a codice fiscale. Source: Decreto ministeriale 23 December 1976."""
    plain = value.upper()
    odd = sum(_ODD_PLACES[int(char, 36)] for char in plain[:15:2])
    even = sum(int(char) if char.isdigit() else ord(char) - ord("A") for char in plain[1:15:2])
    return chr(ord("A") + (odd + even) % 26) == plain[15]


def is_nl_bsn(value: str) -> bool:
    """Check a burgerservicenummer by the eleven test. Source: Rijksdienst voor Identiteitsgegevens."""
    digits = digits_of(value)
    return len(set(digits)) > 1 and (weighted_sum(digits[:8], range(9, 1, -1)) - digits[8]) % 11 == 0


def is_be_national(value: str) -> bool:
    """Check the 97 key of a rijksregisternummer; a 2 stands before the number of those born from 2000 on."""
    digits = "".join(map(str, digits_of(value)))
    key = int(digits[9:])
    return is_short_date(digits[:6]) and key in (97 - int(digits[:9]) % 97, 97 - int("2" + digits[:9]) % 97)


def is_ch_ahv(value: str) -> bool:
    """Check the EAN-13 digit of an AHV number. Source: Zentrale Ausgleichsstelle."""
    digits = digits_of(value)
    return -weighted_sum(digits[:12], [1, 3] * 6) % 10 == digits[12]


def is_se_personnummer(value: str) -> bool:
    """Check date and Luhn's digit of a personnummer; a samordningsnummer adds 60 to the day. Source: Skatteverket."""
    digits = digits_of(value)[-10:]
    day = digits[4] * 10 + digits[5]
    date = "".join(map(str, digits[:4])) + f"{day - 60 if day > 60 else day:02}"
    return is_short_date(date) and luhn(digits)


def is_fi_hetu(value: str) -> bool:
    """Check date and control character of a henkilötunnus. Source: Digi- ja väestötietovirasto."""
    digits = "".join(map(str, digits_of(value[:10])))
    day, month = int(digits[:2]), int(digits[2:4])
    return is_date(2000, month, day) and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31] == value[-1].upper()


def is_no_fodselsnummer(value: str) -> bool:
    """Check both control digits of a fødselsnummer; a D-number adds 40 to the day. Source: Skatteetaten."""
    digits = digits_of(value)
    day = digits[0] * 10 + digits[1]
    first = weighted_sum(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1))
    second = weighted_sum(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1))
    return (
        is_date(2000, digits[2] * 10 + digits[3], day - 40 if day > 40 else day) and not first % 11 and not second % 11
    )


def is_pl_pesel(value: str) -> bool:
    """Check date and control digit of a PESEL; the month carries the century. Source: Ustawa o ewidencji ludności."""
    digits = digits_of(value)
    month = (digits[2] * 10 + digits[3]) % 20
    total = weighted_sum(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1))
    return is_date(2000, month, digits[4] * 10 + digits[5]) and total % 10 == 0


def identity_rule(type_: str, pattern: str, valid: Callable[[str], bool], words: str, *, needs_context: bool) -> Rule:
    """Build the rule of a number that stands alone, with its own words and the general ones as context."""
    edges = rf"(?<![\w.-])(?:{pattern})(?![\w]|[.-]\d)"
    return Rule(type_, re.compile(edges), valid, context(f"{words}|{ANY_ID}"), needs_context)


EUROPEAN_RULES = (
    identity_rule(
        "uk_nino",
        r"(?i:[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D])",
        is_uk_nino,
        "nino?|ni|national insurance",
        needs_context=False,
    ),
    identity_rule("uk_nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", is_uk_nhs, "nhs|patient", needs_context=True),
    identity_rule(
        "de_tax_id",
        r"\d{2} ?\d{3} ?\d{3} ?\d{3}",
        is_de_tax_id,
        r"steuer\w*(?:-\w+)?|idnr|tin|steuer-id",
        needs_context=True,
    ),
    identity_rule(
        "fr_nir",
        r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}",
        is_fr_nir,
        "nir|insee|sécu|sécurité sociale|securite sociale",
        needs_context=False,
    ),
    identity_rule(
        "es_dni",
        r"(?i:\d{8}[ -]?[A-Z]|[XYZ][ -]?\d{7}[ -]?[A-Z]|\d{2}\.\d{3}\.\d{3}-?[A-Z])",
        is_es_dni,
        "dni|nie|nif",
        needs_context=True,
    ),
    identity_rule(
        "it_codice_fiscale",
        r"(?i:[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z])",
        is_it_codice_fiscale,
        r"codice|fiscale|cf",
        needs_context=False,
    ),
    identity_rule(
        "nl_bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}", is_nl_bsn, "bsn|burgerservicenummer|sofi(?:nummer)?", needs_context=True
    ),
    identity_rule(
        "be_national",
        r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}|\d{11}",
        is_be_national,
        r"rijksregister\w*|registre national|insz|niss",
        needs_context=True,
    ),
    identity_rule("ch_ahv", r"756\.?\d{4}\.?\d{4}\.?\d{2}", is_ch_ahv, "ahv|avs|oasi", needs_context=False),
    identity_rule(
        "se_personnummer",
        r"(?:19|20)?\d{6}[-+]\d{4}",
        is_se_personnummer,
        "personnummer|samordningsnummer",
        needs_context=False,
    ),
    identity_rule(
        "fi_hetu", r"\d{6}[-+ABCDEFYXWVU]\d{3}[0-9A-FHJ-NPR-Y]", is_fi_hetu, "hetu|henkilötunnus", needs_context=False
    ),
    identity_rule(
        "no_fodselsnummer",
        r"\d{6} ?\d{5}",
        is_no_fodselsnummer,
        "fødselsnummer|personnummer|d-nummer",
        needs_context=True,
    ),
    identity_rule("pl_pesel", r"\d{11}", is_pl_pesel, "pesel", needs_context=True),
)
