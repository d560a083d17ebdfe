"""Addresses of machines, and passwords inside URLs."""

from __future__ import annotations

import ipaddress
import re

from trainer.data.pii.rule import Match, PiiRule, context

IPV4 = re.compile(
    r"(?<![A-Za-z0-9_.])(?<![A-Za-z][/-])\d{1,3}(?:\.\d{1,3}){3}(?![A-Za-z0-9_]|\.[A-Za-z0-9_]|-[A-Za-z0-9_])"
)
IPV6 = re.compile(
    r"(?<![A-Za-z0-9_:.])(?:[0-9A-Fa-f]{1,4}:){2,7}[0-9A-Fa-f:.]{0,40}|(?<![A-Za-z0-9_:.])::(?:[0-9A-Fa-f]{1,4}:?){1,7}"
)
MAC = re.compile(
    r"(?<![A-Za-z0-9_:-])(?:[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2})"
    r"(?![A-Za-z0-9_:-])"
)
URL_CREDENTIALS = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,30}://(?P<value>[^\s/:@'\"<>`$\\{}]{0,100}:[^\s/@'\"<>`$\\{}]{1,200})@[\w.\[-]"
)
"""`user:password` before the host; a variable such as `${PASSWORD}` is none."""

PLACEHOLDERS = frozenset(
    (
        "password",
        "pass",
        "passwd",
        "pwd",
        "secret",
        "token",
        "xxx",
        "xxxx",
        "changeme",
        "your_password",
        "your-password",
        "yourpassword",
        "key",
    )
)

IP_CONTEXT = context(
    r"ips?|ipv4|address(?:es)?|hosts?|servers?|ping|ssh|dns|subnet|gateway|router|vpn|proxy|port|login|logged in"
    r"|connect(?:ed|ion)?|client|from",
    r"v|ver|versions?|release[ds]?|build|firmware|drivers?|sections?|chapter|clause|paragraph|oid|upgrade[ds]?|updated?|patch"
    r"|revision|package|library|sdk|figure|table|step|python|java|chrome|firefox|safari|edge|kernel",
)
SMALL_NUMBER = 31
PRIVATE_TEN = 10
"""First byte of the private range that is written with small numbers."""


def is_mac(value: str) -> bool:
    """Tell whether six bytes are a card's address, not a pattern such as all zeros."""
    return len(set(re.sub(r"\W", "", value).lower())) > 2


def has_password(value: str) -> bool:
    """Tell whether `user:password` holds a password, not a placeholder."""
    password = value.partition(":")[2]
    return password.lower() not in PLACEHOLDERS and len(set(password)) > 2


class IpDetector:
    """IP addresses; four small numbers are a version unless the words around speak of an address."""

    def find(self, text: str) -> list[Match]:
        found = [Match(*match.span(), "ip") for match in IPV4.finditer(text) if self._is_v4(text, *match.span())]
        for match in IPV6.finditer(text):
            value = match[0].rstrip(":.") if not match[0].endswith("::") else match[0]
            if is_v6(value):
                found.append(Match(match.start(), match.start() + len(value), "ip"))
        return found

    def _is_v4(self, text: str, start: int, end: int) -> bool:
        try:
            address = ipaddress.IPv4Address(text[start:end])
        except ValueError:
            return False
        verdict = IP_CONTEXT.verdict(text, start)
        if (
            verdict is None
            and all(byte <= SMALL_NUMBER for byte in address.packed)
            and address.packed[0] != PRIVATE_TEN
        ):
            return False
        return verdict is not False


def is_v6(value: str) -> bool:
    """Tell whether `value` is an IPv6 address; times (`12:30:45`) and short abbreviations are none."""
    if value.count(":") < 7 and "::" not in value:
        return False
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return sum(char != ":" for char in value) >= 5


MAC_RULE = PiiRule("mac", MAC, is_mac)
URL_RULE = PiiRule("url_credentials", URL_CREDENTIALS, has_password)
