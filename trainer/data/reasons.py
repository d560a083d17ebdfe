"""Why a row is left out: stable ids, which `rejected.jsonl` and people's scripts rely on."""

from __future__ import annotations

from collections.abc import Mapping
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


class RowError(Exception):
    """One row cannot be used. The stage writes it down and goes on; it never reaches the user as an exception."""

    def __init__(self, reason: Malformed | Undecided | Private, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Malformed | Undecided | Private = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[RowError], tuple[Malformed | Undecided | Private, str]]:
        """Travel between processes: the default would call us with the joined message alone."""
        return type(self), (self.reason, self.detail)
