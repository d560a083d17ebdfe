"""Compare mathematical answers by math-verify, in the child process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from math_verify import parse, verify

if TYPE_CHECKING:
    from trainer.scoring.isolated.worker import Reply, Request

MAX_CHARACTERS = 4000
"""Of an expression; the grammar takes time that grows faster than its length."""

logging.disable(logging.CRITICAL)  # each expression that cannot be read would be a line


def run(request: Request) -> Reply:
    """Tell whether an answer equals an expected one.

    Args:
        request: `answers` and `expected`, each a list of texts; of each the first that can be read counts. Or `ready`:
            nothing is asked.

    Returns:
        `equal`; `read`, whether an answer could be read as mathematics.
    """
    if request.get("ready"):
        return {}
    expected = next(filter(None, map(_parsed, request["expected"])), [])
    answer = next(filter(None, map(_parsed, request["answers"])), [])
    # the time is limited from outside: math-verify's own limits are alarms, which a loop in C never sees
    equal = bool(expected and answer) and bool(verify(expected, answer, timeout_seconds=None))
    return {"equal": equal, "read": bool(answer)}


def _parsed(text: str) -> list[object]:
    """Read an expression, in delimiters of LaTeX or without."""
    text = text.strip()[-MAX_CHARACTERS:]
    is_bare = "$" not in text and "\\boxed" not in text and "\\(" not in text and "\\[" not in text
    forms = [f"${text}$", text] if is_bare and ("\\" in text or "^" in text or len(text) <= 40) else [text]
    for form in forms:
        values = [value for value in parse(form, parsing_timeout=None) if not isinstance(value, str)]
        if values:
            return values
    return []
