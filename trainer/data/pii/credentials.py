"""Find passwords and keys that only the words around them give away: assignments, headers, command lines."""

from __future__ import annotations

import base64
import binascii
import re

from trainer.data.pii.randomness import entropy, is_drawn, is_sample
from trainer.data.pii.rule import Rule

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
NAMED = re.compile(
    r"(?<![A-Za-z])(?P<name>(?:[A-Za-z0-9]{1,30}[_-]){0,4}(?:key|token|auth))[\"'`\]]{0,3}\s{0,3}[:=]{1,2}>?\s{0,3}"
    r"[\"'`]?(?P<value>[A-Za-z0-9+/_-]{20,200}={0,2})(?![A-Za-z0-9(\[.])",
    re.IGNORECASE,
)
"""A bare `key` or `token` says little: the value must be drawn."""

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
    r"(?<!\S)(?:-u|--user|--proxy-user|-U)[ =]{0,2}[\"']?[^\s\"':]{1,64}:(?P<value>[^\s\"']{6,128})",
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

SECRET_NAMES = (
    "key",
    "secret",
    "token",
    "bearer",
    "pass",
    "pwd",
    "credential",
    "auth",
    "login",
    " -u",
    "--user",
    "basic",
)
OTHER_NAMES = re.compile(
    r"kennwort|contrase|clave|senha|wachtwoord|l(?:ö|o)senord|adgangskode|hasło|heslo|jelsz|parol|şifre|κωδικός|密码|密碼"
    r"|口令|パスワード|비밀번호|mật khẩu|kata sandi|รหัสผ่าน|كلمة المرور|סיסמה|पासवर्ड|парол",
    re.IGNORECASE,
)


def names_a_secret(text: str) -> bool:
    """Tell whether a text speaks of a key or a password at all."""
    lowered = text.lower()
    return any(name in lowered for name in SECRET_NAMES) or OTHER_NAMES.search(lowered) is not None


def is_password(value: str) -> bool:
    """Tell whether an assigned value is a drawn key or a strong password, not a word, a variable or a path."""
    kinds = [any(test(char) for char in value) for test in (str.islower, str.isupper, str.isdigit)]
    punctuated = any(not char.isalnum() and char not in "_./-" for char in value)
    if is_sample(value) or not kinds[2] or value.count(".") > 1 or sum(kinds) + punctuated < 2:
        return False
    if entropy(value) < (3.0 if len(value) >= 16 else 2.75):
        return False
    return sum(kinds) + punctuated >= 3 or (len(value) >= 20 and is_drawn(value))


def is_named_key(value: str) -> bool:
    """Tell whether what a bare `key` or `token` holds is drawn; an id of objects (UUID) is none."""
    return UUID.fullmatch(value) is None and value.count("/") < 4 and is_drawn(value, min_entropy=3.0)


def is_basic(value: str) -> bool:
    """Tell whether base64 holds `user:password`."""
    try:
        decoded = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return False
    user, colon, password = decoded.partition(":")
    return bool(user and colon) and len(password) >= 4 and decoded.isprintable() and not is_sample(decoded)


CREDENTIAL_RULES = (
    Rule("credential", QUOTED, is_password),
    Rule("credential", ASSIGNED, is_password),
    Rule("credential", NAMED, is_named_key),
    Rule("credential", HEADER, is_drawn),
    Rule("credential", BASIC, is_basic),
    Rule("credential", USER_OPTION, is_password),
    Rule("credential", PASSWORD_OPTION, is_password),
    Rule("credential", LOGIN, is_drawn),
)
