"""Find e-mail addresses, also those that are spelled out: `ann [at] corp [dot] com`."""

from __future__ import annotations

import re

from trainer.data.pii.rule import Match

_LETTER = "A-Za-z0-9À-ɏͰ-ԯ"
"""Letters of scripts that put spaces between words: in Chinese, Japanese or Thai the sentence touches the address."""
_LABEL = rf"[{_LETTER}](?:[{_LETTER}_-]{{0,61}}[{_LETTER}])?"
_HOST = rf"(?:{_LABEL}\.){{1,8}}(?:[A-Za-z]{{2,24}}|xn--[a-z0-9-]{{2,59}}|[Ѐ-ӿ]{{2,24}})"

EMAIL = re.compile(
    rf"(?<![{_LETTER}_.+%-])[{_LETTER}_](?:[{_LETTER}_.+%'-]{{0,62}}[{_LETTER}_+-])?@{_HOST}(?![{_LETTER}_@-])"
)
"""RFC 5321's local part without the quoted form, at a host name of several labels."""

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

# A user on a host without a domain (`root@db1`) and `pip install x@1.2` are no addresses: the last label is letters.
FILE_ENDINGS = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "map", "py", "json"))
"""Ends of names such as `icon@2x.png`, which are no top-level domains."""
SERVICES = frozenset(("git", "hg", "svn"))
"""Users of a repository's address: `git@host:org/name`."""
SCP_PATH = re.compile(r":(?:~?/|[\w.-]+/)[\w.-]")


def is_mail_address(value: str) -> bool:
    """Tell whether the ends of an e-mail address are those of an address, not of a file."""
    local, _, host = value.rpartition("@")
    return ".." not in value and not local.endswith(".") and host.rsplit(".", 1)[-1].lower() not in FILE_ENDINGS


class EmailDetector:
    """E-mail addresses; `git@host` and `user@host:path` are places of repositories and files."""

    type = "email"

    def find(self, text: str) -> list[Match]:
        matches = [
            Match(*found.span(), "email")
            for found in EMAIL.finditer(text)
            if is_mail_address(found[0])
            and found[0].partition("@")[0].lower() not in SERVICES
            and SCP_PATH.match(text, found.end()) is None
        ]
        return matches


ENCODED = re.compile(
    rf"(?<![{_LETTER}_.+%-])[{_LETTER}_](?:[{_LETTER}_.+-]{{0,62}}[{_LETTER}_+-])?%40{_HOST}(?![{_LETTER}_@-])"
)


class EncodedEmailDetector:
    """Addresses inside of URLs: `mailto:ann%40corp.com`."""

    type = "email"

    def find(self, text: str) -> list[Match]:
        return [
            Match(*found.span(), "email") for found in ENCODED.finditer(text) if is_mail_address(_decoded(found[0]))
        ]


def _decoded(value: str) -> str:
    return value.replace("%40", "@")


class SpelledEmailDetector:
    """Addresses with `at` and `dot` in words."""

    type = "email"

    def find(self, text: str) -> list[Match]:
        return [Match(*found.span(), "email") for form in (SPELLED, PLAIN_WORDS) for found in form.finditer(text)]


BRACKETED_AT = re.compile(r"[\[({<](?:at|@)[\])}>]")


def may_be_spelled(text: str) -> bool:
    """Tell whether a text holds one of the words that stand for the signs of an address."""
    return " AT " in text or " dot " in text or BRACKETED_AT.search(text) is not None
