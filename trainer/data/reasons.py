"""Why a row is left out: stable ids, which `rejected.jsonl` and people's scripts rely on."""

from __future__ import annotations

from typing import Literal, get_args

Malformed = Literal[
    "invalid_json",
    "invalid_csv",
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
]
"""Faults of a row alone; these count towards `data.max_rejected`."""

Redundant = Literal["exact_duplicate", "in_heldout", "in_validation"]
"""The row is sound, but another row already says it."""

Reason = Malformed | Redundant

MALFORMED: frozenset[str] = frozenset(get_args(Malformed))


class RowError(Exception):
    """One row cannot be used. The stage writes it down and goes on; it never reaches the user as an exception."""

    def __init__(self, reason: Malformed, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Malformed = reason
        self.detail = detail
