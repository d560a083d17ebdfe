"""Find identity, tax and account numbers of countries by form, check (mostly of python-stdnum) and words beside them.

A new type is one entry here, and its name in `trainer.recipe.pii`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from stdnum import bic
from stdnum.ar import cuit
from stdnum.au import tfn
from stdnum.be import nn
from stdnum.bg import egn
from stdnum.br import cnpj, cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cl import rut
from stdnum.cn import ric
from stdnum.co import nit
from stdnum.cz import rc
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import nif as es_nif
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.gr import amka
from stdnum.hr import oib
from stdnum.ie import pps
from stdnum.il import idnr as teudat_zehut
from stdnum.in_ import aadhaar, pan
from stdnum.it import codicefiscale
from stdnum.jp import in_ as my_number
from stdnum.kr import rrn
from stdnum.mx import curp
from stdnum.my import nric as my_nric
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pk import cnic
from stdnum.pl import pesel
from stdnum.pt import nif
from stdnum.ro import cnp
from stdnum.ru import inn
from stdnum.se import personnummer
from stdnum.th import pin
from stdnum.tr import tckimlik
from stdnum.us import itin, rtn, ssn
from stdnum.za import idnr as za_idnr

from trainer.data.pii.detectors.rule import Match, PiiRule, context
from trainer.data.pii.fold import digits_in
from trainer.data.pii.record import PiiRecord
from trainer.recipe.pii import PiiType

ANY_ID = (
    r"identity|identit[àé]|identidad|identificación|identification|identifikation\w*|national|citizens?"
    r"|personal (?:id|number|code)|personnummer|resident|tax(?:payer)?|insurance|social security|ssn|documento"
    r"|id (?:no|number)|身份证|身分證|證件|マイナンバー|個人番号|주민|บัตรประชาชน|паспорт|инн|снилс"
)
"""Words that name an identity number in general."""


def is_us_ssn(value: str) -> bool:
    """Check the parts of a social security number; published ones are invalid."""
    return ssn.is_valid(digits_in(value))


def is_es_dni(value: str) -> bool:
    """Check the letter of a DNI or NIE, written with points or without."""
    return es_nif.is_valid(value.replace(".", ""))


def weighted_sum(digits: Iterable[int], weights: Iterable[int]) -> int:
    """Return the sum of digit times weight, over the shorter of both."""
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def is_uk_nino(value: str) -> bool:
    """Check the prefix of a National Insurance number. Source: HMRC, National Insurance Manual NIM39110."""
    prefix = value[:2].upper()
    return (
        prefix[0] not in "DFIQUV"
        and prefix[1] not in "DFIOQUV"
        and prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    )


def is_sg_nric(value: str) -> bool:
    """Check the letter of a Singapore NRIC or FIN. Source: Immigration & Checkpoints Authority, check digit."""
    first, last = value[0].upper(), value[-1].upper()
    total = weighted_sum(map(int, digits_in(value)), (2, 7, 6, 5, 4, 3, 2)) + {"T": 4, "G": 4, "M": 3}.get(first, 0)
    if first == "M":
        return "KLJNPQRTUWX"[10 - total % 11] == last
    return ("JZIHGFEDCBA" if first in "ST" else "XWUTRQPNMLK")[total % 11] == last


def is_hk_id(value: str) -> bool:
    """Check the digit in brackets of a Hong Kong identity card. Source: Immigration Department.

    Each character counts as in base 36, the missing second letter as 36, the check digit A as 10.
    """
    plain = re.sub(r"[\s()]", "", value).upper().rjust(9)
    numbers = [36 if char == " " else int(char, 36) for char in plain]
    return weighted_sum(numbers, range(9, 0, -1)) % 11 == 0


def is_tw_id(value: str) -> bool:
    """Check the last digit of a Taiwan identity number. Source: Ministry of the Interior."""
    code = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(value[0].upper()) + 10
    return weighted_sum(map(int, f"{code}{value[1:]}"), (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1)) % 10 == 0


VIN_VALUES = dict(
    zip("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", [*range(1, 9), *range(1, 6), 7, 9, *range(2, 10), *range(10)], strict=True)
)


def is_vin(value: str) -> bool:
    """Check the ninth character of a vehicle number. Source: 49 CFR 565.15(c); required in North America and China."""
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    total = weighted_sum([VIN_VALUES[char] for char in value], weights)
    return "0123456789X"[total % 11] == value[8] and any(char.isdigit() for char in value) and not value.isdigit()


def is_routing_number(value: str) -> bool:
    """Check the digit of a routing number. One or two different digits are an example."""
    return rtn.is_valid(value) and len(set(value)) > 2


def has_four_digits(value: str) -> bool:
    """Tell the number of a document from a word: it has four digits or more."""
    return len(digits_in(value)) >= 4


class Identity(NamedTuple):
    """One form of one type of number.

    Args:
        type: stable name.
        pattern: form of the number.
        valid: check of the value.
        words: names of it, beside `ANY_ID`.
        needs_context: one of these words must stand near it, because many other numbers have its form.
        record: what is done about its values.
    """

    type: PiiType
    pattern: str
    valid: Callable[[str], bool]
    words: str
    needs_context: bool
    record: PiiRecord = PiiRecord()


US_NUMBER = PiiRecord(rank=10)
"""Its form is more distinct than those of other numbers."""

DISTINCT = (
    Identity("us_ssn", r"\d{3}-\d{2}-\d{4}|\d{3} \d{2} \d{4}", is_us_ssn, r"ssn|social|security", False, US_NUMBER),
    Identity("us_itin", r"9\d{2}-\d{2}-\d{4}", itin.is_valid, "itin|individual taxpayer", False, US_NUMBER),
    Identity("br_cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}", cpf.is_valid, "cpf", False),
    Identity("br_cnpj", r"\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}", cnpj.is_valid, "cnpj", False),
    Identity("cn_resident_id", r"[1-8]\d{16}[\dXx]", ric.is_valid, "身份证|resident identity", False),
    Identity(
        "fr_nir", r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", nir.is_valid, r"nir|insee|sécu", False
    ),
    Identity("ch_ahv", r"756\.?\d{4}\.?\d{4}\.?\d{2}", ahv.is_valid, "ahv|avs|oasi", False),
    Identity("se_personnummer", r"(?:19|20)?\d{6}[-+]\d{4}", personnummer.is_valid, "samordningsnummer", False),
    Identity("kr_rrn", r"\d{6}-\d{7}", rrn.is_valid, "rrn|resident registration|주민등록번호", False),
    Identity("cl_rut", r"\d{1,2}\.\d{3}\.\d{3}-[\dkK]", rut.is_valid, "rut|run", False),
    Identity("pk_cnic", r"[1-7]\d{4}-\d{7}-\d", cnic.is_valid, "cnic", False),
    Identity("cz_rc", r"\d{6}/\d{3,4}", rc.is_valid, r"rodné číslo|rodne cislo|rč", False),
)
"""Numbers with separators or lengths of their own."""

MIXED = (
    Identity("uk_nino", r"(?i:[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D])", is_uk_nino, "nino?|ni|national insurance", False),
    Identity(
        "it_codice_fiscale",
        r"(?i:[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z])",
        codicefiscale.is_valid,
        r"codice|fiscale|cf",
        False,
    ),
    Identity("in_pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", pan.is_valid, "pan|permanent account", True),
    Identity("fi_hetu", r"\d{6}[-+ABCDEFYXWVU]\d{3}[0-9A-FHJ-NPR-Y]", hetu.is_valid, "hetu|henkilötunnus", False),
    Identity("mx_curp", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[A-Z0-9]\d", curp.is_valid, "curp", False),
    Identity("sg_nric", r"[STFGMstfgm]\d{7}[A-Za-z]", is_sg_nric, "nric|fin", False),
    Identity("hk_id", r"[A-Z]{1,2}\d{6} ?\([0-9A]\)", is_hk_id, "hkid|身份證", False),
    Identity("tw_id", r"[A-Z][1289]\d{8}", is_tw_id, "身分證|taiwan", True),
    Identity(
        "es_dni",
        r"(?i:\d{8}[ -]?[A-Z]|[XYZ][ -]?\d{7}[ -]?[A-Z]|\d{2}\.\d{3}\.\d{3}-?[A-Z])",
        is_es_dni,
        "dni|nie|nif",
        True,
    ),
    Identity("ie_pps", r"\d{7}[A-W][A-IW]?", pps.is_valid, "ppsn?", True),
    Identity("vin", r"[A-HJ-NPR-Z0-9]{17}", is_vin, "vin|chassis|vehicle", False),
    Identity("bic", r"[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?", bic.is_valid, "bic|swift", True),
)
"""Numbers of letters and digits."""

PLAIN = (
    Identity("us_ssn", r"\d{9}", is_us_ssn, "ssn|social security(?: number)?|social", True, US_NUMBER),
    Identity("us_routing", r"\d{9}", is_routing_number, "routing|aba|rtn|transit", True),
    Identity("uk_nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", nhs.is_valid, "nhs|patient", True),
    Identity(
        "uk_bank_account",
        r"\d{2}[- ]\d{2}[- ]\d{2}(?:[,;/ ]{1,3}(?:account|acct|a/c)?(?: number| no\.?)?:? ?)\d{8}",
        has_four_digits,
        "sort code|sort|bank|account|transfer",
        True,
        PiiRecord(stand_in=None),
    ),
    Identity("de_tax_id", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", idnr.is_valid, r"steuer\w*(?:-\w+)?|idnr|tin|steuer-id", True),
    Identity("nl_bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}", bsn.is_valid, "bsn|burgerservicenummer|sofi(?:nummer)?", True),
    Identity(
        "be_national",
        r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}|\d{11}",
        nn.is_valid,
        r"rijksregister\w*|registre|insz|niss",
        True,
    ),
    Identity("no_fodselsnummer", r"\d{6} ?\d{5}", fodselsnummer.is_valid, "fødselsnummer|d-nummer", True),
    Identity("dk_cpr", r"\d{6}-?\d{4}", cpr.is_valid, r"cpr(?:-?nummer)?|personnummer", True),
    Identity("pl_pesel", r"\d{11}", pesel.is_valid, "pesel", True),
    Identity("pt_nif", r"\d{3} ?\d{3} ?\d{3}", nif.is_valid, "nif|contribuinte", True),
    Identity("ro_cnp", r"[1-9]\d{12}", cnp.is_valid, "cnp|cod numeric", True),
    Identity("bg_egn", r"\d{10}", egn.is_valid, "egn|егн", True),
    Identity("gr_amka", r"\d{11}", amka.is_valid, "amka|αμκα", True),
    Identity("hr_oib", r"\d{11}", oib.is_valid, "oib", True),
    Identity("ru_inn", r"\d{12}", inn.is_valid, "inn|инн", True),
    Identity("tr_tckimlik", r"[1-9]\d{10}", tckimlik.is_valid, r"t\.?c\.?|kimlik(?: numara\w*| no)?|tckn", True),
    Identity("il_id", r"\d{9}", teudat_zehut.is_valid, "teudat zehut|תעודת זהות|ת\\.ז", True),
    Identity("za_id", r"\d{13}", za_idnr.is_valid, "south african|rsa id|sa id", True),
    Identity("br_cpf", r"\d{11}", cpf.is_valid, "cpf", True),
    Identity("br_cnpj", r"\d{14}", cnpj.is_valid, "cnpj", True),
    Identity("ar_cuit", r"\d{2}-?\d{8}-?\d", cuit.is_valid, "cui[tl]", True),
    Identity("cl_rut", r"\d{7,8}-[\dkK]", rut.is_valid, "rut|run", True),
    Identity("co_nit", r"\d{3}\.?\d{3}\.?\d{3}-?\d", nit.is_valid, "nit|cédula|cedula", True),
    Identity("in_aadhaar", r"\d{4}([ -])\d{4}\1\d{4}|\d{12}", aadhaar.is_valid, "aadhaar|aadhar|uidai|uid|आधार", True),
    Identity("ca_sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}", sin.is_valid, "sin|social insurance", True),
    Identity("au_tfn", r"\d{3} ?\d{3} ?\d{2,3}", tfn.is_valid, "tfn|tax file", True),
    Identity("jp_my_number", r"\d{4}([ -]?)\d{4}\1\d{4}", my_number.is_valid, "my number|マイナンバー|個人番号", True),
    Identity("th_pin", r"\d-?\d{4}-?\d{5}-?\d{2}-?\d", pin.is_valid, "บัตรประชาชน|thai", True),
    Identity("my_nric", r"\d{6}-?\d{2}-?\d{4}", my_nric.is_valid, "mykad|nric|kad pengenalan|no\\.? ic|ic no", True),
)
"""Numbers of digits alone. They need a word beside them."""


def identity_rule(kind: Identity) -> PiiRule:
    """Build the rule of a number. Text of a script without spaces may touch it."""
    edges = rf"(?<![A-Za-z0-9_.-])(?:{kind.pattern})(?![A-Za-z0-9_]|[.-]\d)"
    words = context(f"{kind.words}|{ANY_ID}")
    return PiiRule(kind.type, re.compile(edges), Checked(kind.valid), words, kind.needs_context)


@dataclass(frozen=True, slots=True)
class Checked:
    """Rejects a number where the check fails: python-stdnum raises on places that its tables lack."""

    valid: Callable[[str], bool]

    def __call__(self, value: str) -> bool:
        try:
            return self.valid(value)
        except (LookupError, TypeError, ValueError):
            return False


DIGITS_TOGETHER = re.compile(r"\d(?:\D{0,20}\d){6,}")
"""Candidates for `DISTINCT` and `PLAIN`: seven digits or more, with words such as `account number:` between."""
MAX_AFTER = 3
"""Characters after the last digit that a pattern reads: a check letter and the edge after it."""


class NumericDetector:
    """Finds identity numbers of digits and separators. Its rules compile when it is made, which takes a moment."""

    def __init__(self) -> None:
        self.rules = tuple(map(identity_rule, (*DISTINCT, *PLAIN)))

    def find(self, text: str) -> list[Match]:
        spans = [match.span() for match in DIGITS_TOGETHER.finditer(text)]
        return [
            match for rule in self.rules for start, end in spans for match in rule.find(text, start, end + MAX_AFTER)
        ]


def mixed_rules() -> tuple[PiiRule, ...]:
    """Build the rules of letters and digits."""
    return tuple(map(identity_rule, MIXED))


RECORDS = {number.type: number.record for number in (*DISTINCT, *MIXED, *PLAIN)}
