"""What is done about values of each type: how they are hidden, what stands in for them, which lint rule tells of them.

Adding a type takes its name in `trainer.recipe.pii`, its record here, and a detector in `trainer.data.pii.rules`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeGuard, assert_never, get_args

from trainer.data.pii.checksums import digits_of
from trainer.recipe.pii import PersonalType, PiiType, SecretType

NAMES = frozenset((*get_args(SecretType), *get_args(PersonalType)))


class Twin(NamedTuple):
    """A stand-in in the form of the value that fails the check of its type."""

    kept: int = 0
    """First characters that stay: country, kind of coin, kind of card."""


@dataclass(frozen=True)
class PiiRecord:
    """What is done about values of one type."""

    mask: Callable[[str], str]
    """Makes a value unreadable, so that no rule finds it again."""
    stand_in: Twin | Callable[[str, bytes], str] | None
    """Pseudonym: a twin, one made of value and noise, or None: a numbered placeholder, since a made-up one would be
    taken for a real one."""
    lint: str
    """Rule that tells of such values in the rows."""
    is_titled: bool = False
    """The title of that rule names the type."""


def record_of(type_: PiiType) -> PiiRecord:  # noqa: C901  one flat case a kind of value
    """Return what is done about values of a type."""
    match type_:
        case "email":
            return PiiRecord(_mask_email, _example_email, "P001", is_titled=True)
        case "phone":
            return PiiRecord(partial(_last_digits, num_shown=2), _fictional_phone, "P002", is_titled=True)
        case "card":
            return PiiRecord(partial(_last_digits, num_shown=4), Twin(kept=1), "P003", is_titled=True)
        case "iban":
            return PiiRecord(partial(_last_digits, num_shown=2), Twin(kept=2), "P004", is_titled=True)
        case "ip":
            return PiiRecord(_all_stars, _reserved_ip, "P005")
        case "mac":
            return PiiRecord(_all_stars, _documentation_mac, "P005")
        case "address":
            return PiiRecord(_three_stars, None, "P007", is_titled=True)
        case "crypto":
            return PiiRecord(_three_stars, Twin(kept=2), "P099")
        case "driver_license" | "passport" | "record_number" | "date_of_birth" | "uk_bank_account":
            return PiiRecord(_all_stars, None, "P006")
        case (
            "us_ssn" | "us_itin" | "us_routing" | "uk_nino" | "uk_nhs" | "ie_pps" | "de_tax_id" | "fr_nir" | "es_dni"
            | "it_codice_fiscale" | "nl_bsn" | "be_national" | "ch_ahv" | "se_personnummer" | "fi_hetu"
            | "no_fodselsnummer" | "pl_pesel" | "dk_cpr" | "pt_nif" | "ro_cnp" | "bg_egn" | "cz_rc" | "gr_amka"
            | "hr_oib" | "ru_inn" | "tr_tckimlik" | "il_id" | "za_id" | "br_cpf" | "br_cnpj" | "ar_cuit" | "cl_rut"
            | "co_nit" | "mx_curp" | "in_aadhaar" | "in_pan" | "pk_cnic" | "cn_resident_id" | "hk_id" | "tw_id"
            | "jp_my_number" | "kr_rrn" | "sg_nric" | "my_nric" | "th_pin" | "au_tfn" | "ca_sin" | "bic" | "vin"
        ):  # fmt: skip
            return PiiRecord(_all_stars, Twin(), "P006")
        case "private_key":
            return PiiRecord(lambda _: "*** private key ***", None, "P100")
        case "api_key":
            return PiiRecord(_mask_key, None, "P100")
        case "jwt" | "credential" | "url_credentials":
            return PiiRecord(_three_stars, None, "P100")
        case _:
            assert_never(type_)


def record_named(name: str) -> PiiRecord:
    """Return the record of a type, ours or of Presidio or a name model, which only report."""
    if is_ours(name):
        return record_of(name)
    of_person = name.lower().endswith((":per", ":person"))
    return PiiRecord(_all_stars, Twin(), "P008" if of_person else "P099")


def is_ours(name: str) -> TypeGuard[PiiType]:
    """Tell whether a type is one that the recipe knows."""
    return name in NAMES


# Masks


def _mask_email(value: str) -> str:
    local, _, host = value.replace("%40", "@").rpartition("@")
    return f"{local[:1]}***@{host[:1]}***.{host.rpartition('.')[2]}"


def _mask_key(value: str) -> str:
    prefix = re.match(r"[A-Za-z]{2,10}[-_]", value)
    return (prefix[0] if prefix else "") + "***"


def _three_stars(_: str) -> str:
    return "***"


def _all_stars(value: str) -> str:
    return re.sub(r"[^\W_]", "*", value)


def _last_digits(value: str, num_shown: int) -> str:
    """Replace every letter and digit but the last `num_shown` digits."""
    hidden = len(digits_of(value)) - num_shown
    shown, seen = [], 0
    for char in value:
        seen += char.isdigit()
        shown.append(char if not char.isalnum() or (char.isdigit() and seen > hidden) else "*")
    return "".join(shown)


# Stand-ins


def _example_email(_: str, noise: bytes) -> str:
    return f"user.{noise.hex()[:10]}@example.com"


def _documentation_mac(value: str, noise: bytes) -> str:
    return _in_form(value, "02005e" + noise.hex()[:6])


def _reserved_ip(value: str, noise: bytes) -> str:
    """Return an address of class E (RFC 1112), or of the documentation range of IPv6 (RFC 3849)."""
    if ":" in value:
        return str(ipaddress.IPv6Address(0x20010DB8 << 96 | int.from_bytes(noise[:12], "big")))
    return str(ipaddress.IPv4Address(0xF0 << 24 | noise[0] % 15 << 24 | int.from_bytes(noise[1:4], "big")))


def _in_form(value: str, chars: str) -> str:
    """Put `chars` in the places of the letters and digits of `value`."""
    rest = iter(chars)
    return "".join((next(rest).upper() if char.isupper() else next(rest)) if char.isalnum() else char for char in value)


def _fictional_phone(value: str, noise: bytes) -> str:
    """Return a number that ends in 555-01XX, in the form of `value`; its country code or leading zero stays.

    There are only a hundred endings for each area, so two numbers may share a stand-in.
    """
    number = re.split(r"[ ,]*(?:x|ext)", value, maxsplit=1, flags=re.IGNORECASE)[0]
    digits = "".join(map(str, digits_of(number)))
    prefix = len(digits) - len(digits.lstrip("0")) + (2 if number.startswith(("+", "00", "(+")) else 0)
    kept = max(0, min(prefix, len(digits) - 7))
    # Drawn from the right, so that the national and the international spelling agree as far as they go.
    drawn = "".join(str(byte % 8 + 2) for byte in noise[: max(0, len(digits) - 7 - kept)])[::-1]
    twin = digits[:kept] + drawn + f"55501{noise[-1] % 100:02}"
    return _in_form(number, twin[-len(digits) :])
