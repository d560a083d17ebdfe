"""Find addresses of machines, and passwords inside URLs."""

from __future__ import annotations

import ipaddress
import re

from trainer.data.pii.detectors.rule import Match, PiiRule, context, words
from trainer.data.pii.record import PiiRecord, in_form, reserved_ip, three_stars
from trainer.recipe.pii import PiiType

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

PLACEHOLDERS = words(
    "password|pass|passwd|pwd|secret|token|xxx|xxxx|changeme|your_password|your-password|yourpassword|key"
)

IP_CONTEXT = context(
    r"ips?|ipv4|address(?:es)?|hosts?|servers?|ping|ssh|dns|subnet|gateway|router|vpn|proxy|port|login|logged in"
    r"|connect(?:ed|ion)?|client|from",
    r"v|ver|versions?|release[ds]?|build|firmware|drivers?|sections?|chapter|clause|paragraph|oid|upgrade[ds]?|updated?|patch"
    r"|revision|package|library|sdk|figure|table|step|python|java|chrome|firefox|safari|edge|kernel",
)
SMALL_NUMBER = 31
"""Numbers up to here occur in versions."""
PRIVATE_TEN = 10
"""First byte of the private range 10.0.0.0/8, whose addresses have small numbers too."""


def is_mac(value: str) -> bool:
    """Tell a card's address from a pattern such as all zeros."""
    return len(set(re.sub(r"\W", "", value).lower())) > 2


def has_password(value: str) -> bool:
    """Tell whether `user:password` holds a password, not a placeholder."""
    password = value.partition(":")[2]
    return password.lower() not in PLACEHOLDERS and len(set(password)) > 2


class IpDetector:
    """Finds IP addresses. Four small numbers are a version unless the words around them name an address."""

    def find(self, text: str) -> list[Match]:
        matches = [Match(*match.span(), "ip") for match in IPV4.finditer(text) if is_v4(text, *match.span())]
        for match in IPV6.finditer(text):
            value = match[0].rstrip(":.") if not match[0].endswith("::") else match[0]
            if is_v6(value):
                matches.append(Match(match.start(), match.start() + len(value), "ip"))
        return matches


def is_v4(text: str, start: int, end: int) -> bool:
    """Tell whether `text[start:end]` is an IPv4 address and no version."""
    try:
        address = ipaddress.IPv4Address(text[start:end])
    except ValueError:
        return False
    verdict = IP_CONTEXT.verdict(text, start)
    if verdict is None:
        return address.packed[0] == PRIVATE_TEN or max(address.packed) > SMALL_NUMBER
    return verdict


def is_v6(value: str) -> bool:
    """Tell whether `value` is an IPv6 address. Times (`12:30:45`) and short abbreviations are not."""
    if value.count(":") < 7 and "::" not in value:
        return False
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return sum(char != ":" for char in value) >= 5


def documentation_mac(value: str, noise: bytes) -> str:
    """Return an address of the locally administered range 02:00:5E, in the form of `value`."""
    return in_form(value, "02005e" + noise.hex()[:6])


MAC_RULE = PiiRule("mac", MAC, is_mac)
URL_RULE = PiiRule("url_credentials", URL_CREDENTIALS, has_password)
RECORDS: dict[PiiType, PiiRecord] = {
    "ip": PiiRecord(stand_in=reserved_ip, lint="P005"),
    "mac": PiiRecord(stand_in=documentation_mac, lint="P005", rank=9),
    "url_credentials": PiiRecord(three_stars, None, "P100", rank=3),
}
