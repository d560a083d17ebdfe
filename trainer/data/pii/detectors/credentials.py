"""Find passwords and keys by the words around them: assignments, headers, command lines."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from trainer.data.pii.detectors.randomness import entropy, is_drawn, is_sample
from trainer.data.pii.detectors.rule import Match, PiiRule, names_any, words
from trainer.data.pii.record import PiiRecord, three_stars
from trainer.recipe.pii import PiiType

_STRONG = (
    r"api[_ -]?(?:key|token|secret)|apikey|secret(?:[_ -]?access)?(?:[_ -]?key)?|access[_ -]?(?:key|token)"
    r"|auth[_ -]?(?:token|key)|private[_ -]?key|client[_ -]?(?:secret|key)|(?:app|application|subscription|encryption"
    r"|signing|master|account|admin|service|shared|storage|license|session|refresh|bot|deploy|server|webhook)"
    r"[_ -]?(?:key|token|secret)|bearer|passw(?:or)?d|passphrase|passcode|pwd|credentials?"
    r"|passwort|kennwort|mot de passe|contrase(?:ñ|n)a|clave|senha|palavra-passe|password di|parola d'ordine|wachtwoord"
    r"|l(?:ö|o)senord|adgangskode|hasło|heslo|jelsz(?:ó|o)|parol(?:a|ă)|şifre|пароль|пароля|κωδικός|密码|密碼|口令"
    r"|パスワード|비밀번호|mật khẩu|kata sandi|รหัสผ่าน|كلمة المرور|סיסמה|पासवर्ड"
)
"""Names of passwords in the languages that people train in, and names of keys."""

_SEPARATOR = (
    r"[\"'`\]]{0,3}(?:\s{0,3}(?:[:=：＝]{1,2}>?)\s{0,3}|\s{1,3}(?:is|was|ist|lautet|war|est|es|era|é|è|jest|je|är|er|это)\s{1,3}"
    r"|は|是|为|為|는|은|\s{1,3})"
)
_QUOTED = r"(?P<quote>[\"'`])(?P<value>[^\s\"'`]{8,200})(?P=quote)"
_VALUE = r"[\"'`]?(?P<value>[A-Za-z0-9+/=_.~!@#$%^&*(?-]{7,199}[A-Za-z0-9+/=_~!@#$%^&*-])(?![\w(\[])"

ASSIGNED = re.compile(rf"(?:{_STRONG})[A-Za-z0-9_]{{0,24}}{_SEPARATOR}{_VALUE}", re.IGNORECASE | re.ASCII)
QUOTED = re.compile(rf"(?:{_STRONG})[A-Za-z0-9_]{{0,24}}{_SEPARATOR}{_QUOTED}", re.IGNORECASE | re.ASCII)
DRAWN = re.compile(
    r"(?<![A-Za-z])(?P<name>(?:[A-Za-z0-9]{1,30}[_-]){0,4}(?:key|token|auth))[\"'`\]]{0,3}\s{0,3}[:=]{1,2}>?\s{0,3}"
    r"[\"'`]?(?P<value>[A-Za-z0-9+/_-]{20,200}={0,2})(?![A-Za-z0-9(\[.])",
    re.IGNORECASE,
)
"""A bare `key` or `token` is a weak hint: the value must be random."""

HEADER = re.compile(
    r"authorization[\"']?\s{0,2}[:=]\s{0,2}[\"']?(?:bearer|token(?:\s+token=)?|apikey|digest|key)?\s{0,2}[\"']?"
    r"(?P<value>[A-Za-z0-9+/=_.~-]{16,2000})",
    re.IGNORECASE,
)
BASIC = re.compile(
    r"(?:basic\s{1,2}|[\"']auth[\"']\s{0,2}:\s{0,2}[\"'])(?P<value>[A-Za-z0-9+/]{8,400}={0,2})(?![\w+/=])",
    re.IGNORECASE,
)
"""RFC 7617; and the `auth` of a Docker configuration."""

USER_OPTION = re.compile(
    r"(?<!\S)(?:-u|--user|--proxy-user|-U)[ =]{0,2}[\"']?[^\s\"':]{1,64}:(?P<value>[^\s\"']{6,128})"
)
PASSWORD_OPTION = re.compile(
    r"(?:sshpass|mysql\w{0,10}|mariadb\w{0,10}|docker login|podman login|redis-cli|ldap\w{3,10}|smbclient"
    r"|rabbitmqadmin|psql|mongo\w{0,10}|sqlcmd|helm registry login|az login|htpasswd)\b[^\n|;]{0,160}?"
    r"\s-{1,2}(?:p|a|w|P|password|pass)[ =]{0,2}[\"']?(?P<value>[^\s\"'`$<>]{6,128})"
)
LOGIN = re.compile(
    r"(?:wandb|huggingface-cli|hf auth|vault|comet|neptune|clearml)\s+login\s+(?:--?\S+\s+){0,3}"
    r"(?P<value>[A-Za-z0-9_.-]{16,200})"
)

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_password(value: str) -> bool:
    """Tell a random key or a strong password from a word, a variable or a path."""
    has_digit = any(map(str.isdigit, value))
    has_sign = any(not char.isalnum() and char not in "_./-" for char in value)
    num_classes = any(map(str.islower, value)) + any(map(str.isupper, value)) + has_digit + has_sign
    if is_sample(value) or not has_digit or value.count(".") > 1 or num_classes < 2:
        return False
    if entropy(value) < (3.0 if len(value) >= 16 else 2.75):
        return False
    return num_classes >= 3 or (len(value) >= 20 and is_drawn(value))


def is_named_key(value: str) -> bool:
    """Tell whether the value of a bare `key` or `token` is random. A UUID is the id of an object, and no key."""
    return UUID.fullmatch(value) is None and value.count("/") < 4 and is_drawn(value, min_entropy=3.0)


def is_basic(value: str) -> bool:
    """Tell whether base64 holds `user:password`."""
    try:
        decoded = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return False
    user, colon, password = decoded.partition(":")
    return bool(user and colon) and len(password) >= 4 and decoded.isprintable() and not is_sample(decoded)


class Near(NamedTuple):
    """Rules that can only match around certain words.

    Args:
        words: pattern of the words, in lower case.
        reach: characters after a word within which a match ends.
        rules: tried there.
    """

    words: str
    reach: int
    rules: tuple[PiiRule, ...]


_NAMES = (
    r"key|secret|token|passw|passphrase|passcode|pwd|credential|bearer|kennwort|passwort|mot de passe|contrase|clave"
    r"|senha|palavra|parol|wachtwoord|senord|adgangskode|hasło|heslo|jelsz|şifre|κωδικός|密码|密碼|口令|パスワード|비밀번호"
    r"|mật khẩu|kata sandi|รหัสผ่าน|كلمة المرور|סיסמה|पासवर्ड|парол"
)
_TOOLS = r"sshpass|mysql|mariadb|login|redis-cli|ldap|smbclient|rabbitmqadmin|psql|mongo|sqlcmd|htpasswd"
_CUES = words(f"{_NAMES}|{_TOOLS}|authorization|basic |\"auth\"|'auth'| -u|-user")
ASCII_CUES = tuple(cue for cue in _CUES if cue.isascii())
UNICODE_CUES = tuple(cue for cue in _CUES if not cue.isascii())
BEFORE = 130
"""Characters before a word in which a match may begin: the start of a name such as `MY_SERVICE_API_KEY`."""

NEAR = (
    Near(r"authorization", 2100, (PiiRule("credential", HEADER, is_drawn), PiiRule("credential", BASIC, is_basic))),
    Near(r"basic |[\"']auth[\"']", 450, (PiiRule("credential", BASIC, is_basic),)),
    Near(
        _NAMES,
        300,
        (
            PiiRule("credential", QUOTED, is_password),
            PiiRule("credential", ASSIGNED, is_password),
            PiiRule("credential", DRAWN, is_named_key),
        ),
    ),
    Near(r"\s(?:-u|--user|--proxy-user)", 250, (PiiRule("credential", USER_OPTION, is_password),)),
    Near(_TOOLS, 350, (PiiRule("credential", PASSWORD_OPTION, is_password), PiiRule("credential", LOGIN, is_drawn))),
)
WORDS = re.compile("|".join(f"({near.words})" for near in NEAR))
"""Words of all entries in one pattern. Group i + 1 is that of entry i."""


class CredentialDetector:
    """Finds passwords and keys beside the words that name them."""

    def find(self, text: str) -> list[Match]:
        lowered = text.lower()
        if len(lowered) != len(text):
            # A few letters become two in lower case, and positions would shift.
            lowered = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
        return [
            match
            for near, stretches in zip(NEAR, stretches_of(lowered), strict=True)
            for start, end in stretches
            for rule in near.rules
            for match in rule.find(text, start, end)
        ]


def stretches_of(lowered: str) -> list[list[tuple[int, int]]]:
    """Return, for each entry of `NEAR`, the ranges of text around its words, overlapping ones merged."""
    stretches: list[list[tuple[int, int]]] = [[] for _ in NEAR]
    for word in WORDS.finditer(lowered):
        index = (word.lastindex or 1) - 1
        start, end = max(0, word.start() - BEFORE), word.end() + NEAR[index].reach
        if stretches[index] and start <= stretches[index][-1][1]:
            start, _ = stretches[index].pop()
        stretches[index].append((start, end))
    return stretches


def names_a_secret(text: str) -> bool:
    """Tell whether a text has a word of `WORDS`."""
    return names_any(text, ASCII_CUES, UNICODE_CUES)


RECORDS: dict[PiiType, PiiRecord] = {"credential": PiiRecord(three_stars, None, "P100", rank=4)}
