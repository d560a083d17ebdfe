"""Decide which values may stay: those reserved for examples, and those that the recipe allows."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from trainer.data.pii.fold import digits_in, folded
from trainer.data.pii.record import EXTENSION

EXAMPLE_HOST = re.compile(r"(?:.+\.)?(?:example(?:\.(?:com|net|org|edu))?|test|invalid|localhost)", re.IGNORECASE)
"""Source: RFC 2606 and RFC 6761."""

EXAMPLE_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
        *("0.0.0.0/8", "127.0.0.0/8", "::/127", "169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "ff00::/8"),
        *("240.0.0.0/4", "198.18.0.0/15"),
    )
)
"""Documentation (RFC 5737, 3849, 9637); this network, loopback, link-local, multicast; reserved and benchmarks."""

PUBLIC_RESOLVERS = frozenset(("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "208.67.222.222"))
FICTION_MAC = ("ffffffffffff", "00005e0053", "02005e")
"""Broadcast, the documentation range (RFC 7042), and the range of our own pseudonyms."""

CASE_SENSITIVE = frozenset(("api_key", "jwt", "credential", "private_key", "url_credentials", "crypto"))
"""Types whose values differ when their case differs."""


def normalise(type_: str, value: str) -> str:
    """Return one form for all spellings of a value.

    Example:
        >>> normalise("phone", "+44 (0)20 7946 0958"), normalise("iban", "de89 3704")
        ('442079460958', 'DE893704')
    """
    if type_ in CASE_SENSITIVE:
        return value
    match type_:
        case "email":
            return value.lower()
        case "phone":
            return digits_in(value.replace("(0)", "")).lstrip("0")
        case "ip":
            address = ip_of(value)
            return address.compressed if address else value
        case "address":
            return re.sub(r"[\W_]+", " ", value).upper().strip()
        case _:
            return re.sub(r"[\W_]+", "", value).upper()


def ip_of(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address, or None where an overlap with another value widened or cut it."""
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        return None


def host_of(email: str) -> str:
    """Return the host of an e-mail address, plain or encoded for a URL."""
    return email.replace("%40", "@").rpartition("@")[2].lower()


def is_reserved(type_: str, value: str) -> bool:
    """Tell whether a value is reserved for examples, or names no single machine."""
    match type_:
        case "email":
            return EXAMPLE_HOST.fullmatch(host_of(value)) is not None
        case "phone":
            return is_fictional_phone(value)
        case "ip":
            address = ip_of(value)
            is_example = address is not None and any(address in network for network in EXAMPLE_NETWORKS)
            return is_example or value in PUBLIC_RESOLVERS
        case "mac":
            return re.sub(r"\W", "", value).lower().startswith(FICTION_MAC)
        case _:
            return False


def is_fictional_phone(value: str) -> bool:
    """Tell whether a number is reserved for fiction: 555-0100 to 555-0199, or Ofcom's 07700 900000 to 900999.

    Source: NANPA, 555 line numbers; Ofcom, telephone numbers for use in TV and radio drama programmes.
    """
    digits = normalise("phone", EXTENSION.split(value, maxsplit=1)[0])
    return re.search(r"55501\d\d$|^(?:44)?7700900\d{3}$", digits) is not None


@dataclass(frozen=True)
class Allowed:
    """Decides by the values of the recipe and the reserved ones.

    Args:
        values: `data.pii.allow`; `@host` stands for every address there.
    """

    values: tuple[str, ...]

    def __call__(self, type_: str, value: str) -> bool:
        """Tell whether `value` may stay."""
        value = folded(value)
        return is_reserved(type_, value) or (bool(self.values) and self._is_listed(type_, value))

    def _is_listed(self, type_: str, value: str) -> bool:
        if type_ == "email" and f"@{host_of(value)}" in map(str.lower, self.values):
            return True
        return without_signs(value) in map(without_signs, self.values)


def without_signs(value: str) -> str:
    """Return `value` without case and punctuation, so that `+1 (202) 456-1111` equals `+12024561111`."""
    return re.sub(r"[\W_]+", "", value).lower()
