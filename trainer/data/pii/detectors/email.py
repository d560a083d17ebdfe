"""Find e-mail addresses, plain, encoded in URLs, and spelled out: `ann [at] corp [dot] com`."""

from __future__ import annotations

import re

from trainer.data.pii.detectors.rule import Match, PiiRule
from trainer.data.pii.record import PiiRecord
from trainer.recipe.pii import PiiType

_LETTER = "A-Za-z0-9À-ɏͰ-ԯ"
"""Letters of scripts with spaces between words. In Chinese, Japanese or Thai the sentence touches the address."""
_LABEL = rf"[{_LETTER}](?:[{_LETTER}_-]{{0,61}}[{_LETTER}])?"
_HOST = rf"(?:{_LABEL}\.){{1,8}}(?:[A-Za-z]{{2,24}}|xn--[a-z0-9-]{{2,59}}|[Ѐ-ӿ]{{2,24}})"

EMAIL = re.compile(
    rf"(?<![{_LETTER}_.+%-])[{_LETTER}_](?:[{_LETTER}_.+%'-]{{0,62}}[{_LETTER}_+-])?@{_HOST}(?![{_LETTER}_@-])"
)
"""RFC 5321's local part without the quoted form, at a host name of several labels.

The last label has letters only: `root@db1` and `pip install x@1.2` are no addresses.
"""

_AT = r"\s?(?:\[at\]|\(at\)|\{at\}|<at>|\[@\]|\(@\)| AT )\s?"
_DOT = r"\s?(?:\[dot\]|\(dot\)|\{dot\}|<dot>|\[\.\]|\(\.\)| DOT |\.)\s?"
SPELLED = re.compile(
    rf"(?<![A-Za-z0-9_.+%-])[A-Za-z0-9][A-Za-z0-9_.+%-]{{0,62}}{_AT}[A-Za-z0-9-]{{1,62}}(?:{_DOT}[A-Za-z0-9-]{{1,62}}){{0,4}}{_DOT}"
    r"[A-Za-z]{2,24}(?![A-Za-z0-9_@-])"
)
PLAIN_WORDS = re.compile(
    r"(?<![A-Za-z0-9_.+%-])[A-Za-z0-9][A-Za-z0-9_.+%-]{0,62} at [A-Za-z0-9-]{1,62}(?: dot [A-Za-z0-9-]{1,62}){0,3}"
    r" dot [A-Za-z]{2,24}(?![A-Za-z0-9_@-])"
)

FILE_ENDINGS = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "map", "py", "json"))
"""Endings of file names such as `icon@2x.png`, which are no top-level domains."""
SERVICES = frozenset(("git", "hg", "svn"))
"""Users of a repository's address: `git@host:org/name`."""
SCP_PATH = re.compile(r":(?:~?/|[\w.-]+/)[\w.-]")


def is_mail_address(value: str) -> bool:
    """Tell an e-mail address, plain or encoded, from the name of a file."""
    local, _, host = value.replace("%40", "@").rpartition("@")
    return ".." not in value and not local.endswith(".") and host.rsplit(".", 1)[-1].lower() not in FILE_ENDINGS


ENCODED = re.compile(
    rf"(?<![{_LETTER}_.+%-])[{_LETTER}_](?:[{_LETTER}_.+-]{{0,62}}[{_LETTER}_+-])?%40{_HOST}(?![{_LETTER}_@-])"
)
"""Addresses inside of URLs: `mailto:ann%40corp.com`."""
BRACKETED_AT = re.compile(r"[\[({<](?:at|@)[\])}>]")


class EmailDetector:
    """Finds e-mail addresses. `git@host` and `user@host:path` are places of repositories and files."""

    def find(self, text: str) -> list[Match]:
        return [
            Match(*match.span(), "email")
            for match in EMAIL.finditer(text)
            if is_mail_address(match[0])
            and match[0].partition("@")[0].lower() not in SERVICES
            and SCP_PATH.match(text, match.end()) is None
        ]


def may_be_spelled(text: str) -> bool:
    """Tell whether a text holds words or brackets in place of the signs of an address."""
    return " AT " in text or " dot " in text or BRACKETED_AT.search(text) is not None


def mask_email(value: str) -> str:
    """Return the first letters and the top-level domain.

    Example:
        >>> mask_email("ann.lee@corp.de")
        'a***@c***.de'
    """
    local, _, host = value.replace("%40", "@").rpartition("@")
    return f"{local[:1]}***@{host[:1]}***.{host.rpartition('.')[2]}"


def example_email(_: str, noise: bytes) -> str:
    """Return an address at a host reserved for examples (RFC 2606)."""
    return f"user.{noise.hex()[:10]}@example.com"


ENCODED_RULE = PiiRule("email", ENCODED, is_mail_address)
SPELLED_RULES = (PiiRule("email", SPELLED), PiiRule("email", PLAIN_WORDS))
RECORDS: dict[PiiType, PiiRecord] = {"email": PiiRecord(mask_email, example_email, "P001", is_titled=True, rank=5)}
