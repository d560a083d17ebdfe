"""Values made unreadable: enough of them stays to recognise the kind, never enough to recover the value."""

from __future__ import annotations

import re

from trainer.data.pii.checksums import digits_of

CONTEXT = 20
"""Characters on each side of a masked value in a report."""


def mask(type_: str, value: str) -> str:
    """Return the masked form of a value; no rule finds it again."""
    match type_:
        case "email":
            local, _, host = value.rpartition("@")
            return f"{local[:1]}***@{host[:1]}***.{host.rpartition('.')[2]}"
        case "card" | "iban" | "phone":
            return _last_digits(value, 4 if type_ == "card" else 2)
        case "api_key":
            prefix = re.match(r"[A-Za-z]{2,10}[-_]", value)
            return (prefix[0] if prefix else "") + "***"
        case "private_key":
            return "*** private key ***"
        case "jwt" | "credential" | "url_credentials" | "address" | "crypto":
            return "***"
    return re.sub(r"[^\W_]", "*", value)


def _last_digits(value: str, num_shown: int) -> str:
    """Replace every letter and digit but the last `num_shown` digits."""
    hidden = len(digits_of(value)) - num_shown
    shown, seen = [], 0
    for char in value:
        seen += char.isdigit()
        shown.append(char if not char.isalnum() or (char.isdigit() and seen > hidden) else "*")
    return "".join(shown)


def sample(masked_text: str, start: int, end: int) -> str:
    """Cut the masked value with a little text around; numbers of the text around are hidden too.

    Args:
        masked_text: text whose found values are all masked.
        start: first character of the value.
        end: character after it.
    """
    value = masked_text[start:end] if end - start <= 40 else masked_text[start : start + 12] + "***"
    before = _quiet(masked_text[max(0, start - CONTEXT) : start])
    after = _quiet(masked_text[end : end + CONTEXT])
    return " ".join(f"{before}{value}{after}".split())


def _quiet(text: str) -> str:
    """Hide what may be the rest of a value that the cut went through."""
    return re.sub(r"\d", "#", re.sub(r"\S*@\S*|[\w+/=-]{18,}", "***", text))
