"""Check the values of JSON Schema's `format`, all of the vocabulary, without further packages.

Source: JSON Schema validation, draft 2020-12, section 7, and `byte` of OpenAPI. Other names are not checked.
"""

from __future__ import annotations

import base64
import importlib
import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import date, time
from functools import cache
from typing import Protocol
from urllib.parse import urlsplit

_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"(\d\d:\d\d:)(\d\d)(\.\d+)?(?:[Zz]|[+-](\d\d):(\d\d))", re.ASCII)
_DURATION = re.compile(
    r"P(?=[\dT])(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+(?:[.,]\d+)?S)?)?)", re.ASCII
)
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*|\"(?:[^\"\\\r\n]|\\.)*\"")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_URI = re.compile(r"(?:[A-Za-z0-9._~:/?#@!$&'()*+,;=\[\]-]|%[0-9A-Fa-f]{2})*")
_IRI_REFUSES = re.compile(r"[\x00-\x20\x7f<>\"\\^`{|}]|%(?![0-9A-Fa-f]{2})")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_TEMPLATE = re.compile(r"(?:[^{}\s\"<>\\^`|]|\{[+#./;?&=,!@|]?[\w.%]+(?::\d{1,4}|\*)?(?:,[\w.%]+(?::\d{1,4}|\*)?)*\})*")
_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*")


def _date(text: str) -> bool:
    return bool(_DATE.fullmatch(text)) and date.fromisoformat(text) is not None


def _time(text: str) -> bool:
    match = _TIME.fullmatch(text)
    if match is None or int(match[4] or 0) > 23 or int(match[5] or 0) > 59:
        return False
    is_leap = match[2] == "60"  # a leap second, which the library does not know
    return time.fromisoformat(match[1] + ("59" if is_leap else match[2])) is not None


def _date_time(text: str) -> bool:
    return text[10:11] in ("T", "t") and _date(text[:10]) and _time(text[11:])


def _duration(text: str) -> bool:
    return bool(_DURATION.fullmatch(text))


def _hostname(text: str) -> bool:
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def _idn_hostname(text: str) -> bool:
    return _hostname(importlib.import_module("idna").encode(text, uts46=True).decode())


def _email(text: str, hostname: Callable[[str], bool] = _hostname, local: Callable[[str], bool] | None = None) -> bool:
    name, at, host = text.rpartition("@")
    is_local = local(name) if local else bool(_LOCAL.fullmatch(name))
    if not at or not is_local or len(name.encode()) > 64:
        return False
    if host.startswith("[") and host.endswith("]"):
        return ipaddress.ip_address(host[1:-1].removeprefix("IPv6:")) is not None
    return hostname(host)


def _idn_email(text: str) -> bool:
    return _email(text, _idn_hostname, lambda name: bool(name) and not re.search(r"[\s@<>]", name))


def _uri_reference(text: str) -> bool:
    if not _URI.fullmatch(text) or text.count("#") > 1:
        return False
    parts = urlsplit(text)
    return parts.port is None or parts.port >= 0  # asking for the port checks it


def _iri_reference(text: str) -> bool:
    return not _IRI_REFUSES.search(text) and text.count("#") <= 1 and urlsplit(text) is not None


def _absolute(check: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: bool(_SCHEME.match(text)) and check(text)


def _relative_pointer(text: str) -> bool:
    match = re.fullmatch(r"(?:0|[1-9]\d*)(#|.*)", text, re.DOTALL | re.ASCII)
    return match is not None and (match[1] == "#" or bool(_POINTER.fullmatch(match[1])))


_FAULTS = (ValueError, OverflowError, RecursionError, re.error)
_CHECKS: dict[str, Callable[[str], bool]] = {
    "date": _date,
    "time": _time,
    "date-time": _date_time,
    "duration": _duration,
    "email": _email,
    "idn-email": _idn_email,
    "hostname": _hostname,
    "idn-hostname": _idn_hostname,
    "ipv4": lambda text: ipaddress.IPv4Address(text) is not None,
    "ipv6": lambda text: "%" not in text and ipaddress.IPv6Address(text) is not None,
    "uri": _absolute(_uri_reference),
    "uri-reference": _uri_reference,
    "iri": _absolute(_iri_reference),
    "iri-reference": _iri_reference,
    "uri-template": lambda text: bool(_TEMPLATE.fullmatch(text)),
    "uuid": lambda text: len(text) == 36 and text.count("-") == 4 and str(uuid.UUID(text)) == text.lower(),
    "json-pointer": lambda text: bool(_POINTER.fullmatch(text)),
    "relative-json-pointer": _relative_pointer,
    "regex": lambda text: re.compile(text) is not None,
    "byte": lambda text: base64.b64decode(text, validate=True) is not None,
}


class FormatChecker(Protocol):
    """The part of jsonschema's class that is used."""

    def checks(self, name: str, raises: tuple[type[Exception], ...]) -> Callable[[Callable[[object], bool]], object]:
        """Return a decorator that registers the check of a format."""


@cache
def format_checker() -> FormatChecker:
    """Return jsonschema's checker of formats; a check that raises says no."""
    checker: FormatChecker = importlib.import_module("jsonschema").FormatChecker(formats=())
    for name, check in _CHECKS.items():
        checker.checks(name, raises=_FAULTS)(_of_texts(check))
    return checker


def _of_texts(check: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or check(value)
