"""Keys, tokens, passwords and private keys."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter

import orjson

from trainer.data.pii.rule import Rule

PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----[^\"'<>-]{1,20000}"
    r"(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)?"
)
"""The whole block; where its end is cut off, as far as the key goes."""

JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,2000}\.[\w-]{8,8000}\.[\w-]{16,2000}(?![\w-])")

_TOKENS = (
    r"(?:AKIA|ASIA)[A-Z2-7]{16}",
    r"gh[pousr]_[A-Za-z0-9]{36,251}",
    r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    r"gl(?:pat|dt|rt)-[\w-]{20,64}",
    r"xox[abeoprs]-(?:[A-Za-z0-9]+-){1,5}[A-Za-z0-9]{10,64}",
    r"hooks\.slack\.com/services/T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{18,32}",
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,247}",
    r"whsec_[A-Za-z0-9+/]{32,64}",
    r"sk-(?:ant-[a-z0-9]{2,8}-|proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{20,250}",
    r"AIza[\w-]{35}",
    r"GOCSPX-[\w-]{28}",
    r"ya29\.[\w-]{20,400}",
    r"hf_[A-Za-z0-9]{30,64}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-AgEIcHlwaS5vcmc[\w-]{50,400}",
    r"SG\.[\w-]{22}\.[\w-]{43}",
    r"do[op]_v1_[a-f0-9]{64}",
    r"dapi[a-f0-9]{32}",
    r"shp(?:at|ss|ca)_[a-fA-F0-9]{32}",
    r"sq0(?:atp|csp|idp)-[\w-]{22,43}",
    r"hv[sb]\.[\w-]{24,300}",
    r"lin_api_[A-Za-z0-9]{40}",
    r"(?:ntn_|secret_)[A-Za-z0-9]{43,46}",
    r"nvapi-[\w-]{64}",
    r"gsk_[A-Za-z0-9]{52}",
    r"r8_[A-Za-z0-9]{37}",
    r"key-[0-9a-f]{32}",
    r"\d{8,10}:AA[\w-]{33}",
    r"SK[0-9a-f]{32}",
    r"(?<=AccountKey=)[A-Za-z0-9+/]{86}==",
)
"""Prefix and shape. Source: each vendor's documentation of its tokens."""

ASSIGNED = re.compile(
    r"(?:api[_-]?key|apikey|secret(?:[_-]?(?:access))?(?:[_-]?key)?|access[_-]?(?:key|token)|auth[_-]?token|private[_-]?key"
    r"|client[_-]?secret|bearer|passw(?:or)?d|passphrase|pwd)"
    r"[\"']?\s{0,3}(?:[:=]{1,2}>?|\bis\b|\s)\s{0,3}[\"'`]?(?P<value>[A-Za-z0-9+/=_.~!@#$%^&*-]{8,200})(?![\w(\[])",
    re.IGNORECASE,
)
SECRET_NAMES = ("key", "secret", "token", "bearer", "passw", "passphrase", "pwd")


def names_a_secret(text: str) -> bool:
    """Tell whether a text speaks of a key or a password at all."""
    lowered = text.lower()
    return any(name in lowered for name in SECRET_NAMES)


def is_random(value: str) -> bool:
    """Tell whether the part after a token's prefix is drawn, not written: `sk-your-key-goes-here` is no key."""
    body = re.split(r"[-_.:]", value)[-1] if len(re.split(r"[-_.:]", value)[-1]) >= 16 else value
    if value.startswith(("AKIA", "ASIA")):
        return True
    return not is_sample(value) and any(char.isdigit() for char in body) and entropy(body) >= 2.8


def is_sample(value: str) -> bool:
    """Tell whether a key says itself that it is an example, as those of manuals do."""
    return re.search(r"example|x{6}|0{12}|1234567890abcdef$|your|\*{4}", value, re.IGNORECASE) is not None


def entropy(value: str) -> float:
    """Return the entropy of the characters of `value`, in bits per character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def is_jwt(value: str) -> bool:
    """Tell whether the first part of a token decodes to the header of a JSON Web Token.

    Source: RFC 7519.
    """
    first = value.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(header, dict) and "alg" in header


def is_password(value: str) -> bool:
    """Tell whether an assigned value is a drawn key or a strong password, not a word, a variable or a path."""
    kinds = [any(test(char) for char in value) for test in (str.islower, str.isupper, str.isdigit)]
    punctuated = any(not char.isalnum() and char not in "_./-" for char in value)
    if is_sample(value) or not kinds[2] or value.count(".") > 1 or sum(kinds) + punctuated < 2:
        return False
    return entropy(value) >= (3.0 if len(value) >= 16 else 2.75) and (sum(kinds) + punctuated >= 3 or len(value) >= 20)


PRIVATE_KEY_RULE = Rule("private_key", PRIVATE_KEY)
JWT_RULE = Rule("jwt", JWT, is_jwt)
TOKEN_RULE = Rule(
    "api_key",
    re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_TOKENS)})(?![A-Za-z0-9])"),
    is_random,
)
ASSIGNED_RULE = Rule("credential", ASSIGNED, is_password)
