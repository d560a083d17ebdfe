"""Values made unreadable: enough of them stays to recognise the kind, never enough to recover the value."""

from __future__ import annotations

import re

from trainer.data.pii.fold import folded
from trainer.data.pii.types import record_named

CONTEXT = 20
"""Characters on each side of a masked value in a report."""


def mask(type_: str, value: str) -> str:
    """Return the masked form of a value; no rule finds it again."""
    return record_named(type_).mask(folded(value))


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
