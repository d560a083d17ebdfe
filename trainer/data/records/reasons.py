"""List the reasons for leaving a row out: stable ids of `rejected.jsonl`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

Malformed = Literal[
    "invalid_json",
    "invalid_csv",
    "row_too_long",
    "not_an_object",
    "unknown_format",
    "empty_messages",
    "unknown_role",
    "no_assistant_turn",
    "empty_content",
    "unsupported_content",
    "bad_role_order",
    "chosen_equals_rejected",
    "prompt_mismatch",
    "invalid_tool_arguments",
    "invalid_tools",
    "invalid_weight",
    "invalid_text",
    "invalid_label",
    "invalid_tokens",
]
"""Faults of a row alone; these count towards `data.max_rejected`."""

Undecided = Literal["no_preference"]
"""The row is sound, but of its answers none is better than another."""

Redundant = Literal["exact_duplicate", "near_duplicate", "in_heldout", "in_validation", "contaminated"]
"""The row is sound, but another row already says it."""

Private = Literal["personal_data"]
"""The row is sound, but holds what must not be trained on."""

Reason = Malformed | Undecided | Redundant | Private

MALFORMED: frozenset[str] = frozenset(get_args(Malformed))


FIXES: dict[str, str] = {
    "unknown_format": "set data.sources[].mapping or format, as the message says",
    "empty_content": "fill these rows in or delete them",
    "empty_messages": "fill these rows in or delete them",
    "no_assistant_turn": "give these rows an answer or delete them",
    "unsupported_content": "leave these rows or columns out",
    "unknown_role": "name the roles as the message says",
    "row_too_long": "cut these rows",
    "no_preference": "delete the ties, or give answers of which one is better",
}
"""What to do about a reason; about others, to correct the rows."""


def fix_for(reasons: Mapping[str, int]) -> str:
    """Return what to do about rows that are left out, for the most frequent reason."""
    frequent = max(reasons, key=lambda reason: reasons[reason], default="")
    return f"{FIXES.get(frequent, 'correct the rows')}, or raise data.max_rejected"


def mark_text(text: str, limit: int = 80) -> str:
    """Mark a text of the rows inside a detail: `render_detail` hides personal data in all of it, and only then cuts it.

    The rules would not know the half of a key.
    """
    text = text.replace("\ufdd0", "").replace("\ufdd1", "")  # Unicode keeps these two for marks inside a program
    return f"\ufdd0{limit}:{text}\ufdd1"


MARKED_TEXT = re.compile("\ufdd0(\\d+):(.*?)\ufdd1", re.DOTALL)


def quoted(text: str) -> str:
    """Mark a text of the rows as `mark_text` does, in quotes."""
    return mark_text(repr(text), 160)


def render_detail(detail: str, mask: Callable[[str], str] = str) -> str:
    """Return a detail for a message of one line: each text of the rows masked by itself and then cut, then all of it.

    By itself, since the words of the message around a text may speak for or against a telephone number in it.
    """

    def cut(match: re.Match[str]) -> str:
        text, limit = mask(match[2]), int(match[1])
        return text if len(text) <= limit else text[: limit - 3] + "..."

    return mask(MARKED_TEXT.sub(cut, detail))


class RowError(Exception):
    """One row cannot be used. The stage writes it down and goes on; it never reaches the user as an exception."""

    def __init__(self, reason: Malformed | Undecided | Private, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Malformed | Undecided | Private = reason
        self.detail = detail
        """What is wrong; texts of the row in it are marked by `mark_text`."""

    def render(self, mask: Callable[[str], str] = str) -> str:
        """Return the detail for a message, see `render_detail`."""
        return render_detail(self.detail, mask)

    def __str__(self) -> str:
        return f"{self.reason}: {self.render()}"
