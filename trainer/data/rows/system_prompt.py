"""One system prompt for all rows, so that training and serving agree."""

from __future__ import annotations

from typing import Any, Literal


def apply_system_prompt(record: dict[str, Any], text: str, *, when: Literal["missing", "replace"]) -> dict[str, Any]:
    """Return the row with the system prompt in front of its turns; rows without turns stay as they are."""
    key = "prompt" if "prompt" in record else "messages"
    if key not in record:
        return record
    turns = record[key]
    has_system = has_system_turn(turns)
    if has_system and when == "missing":
        return record
    return {**record, key: [{"role": "system", "content": text}, *turns[int(has_system) :]]}


def has_system_turn(turns: list[dict[str, Any]]) -> bool:
    """Tell whether a conversation opens with a system turn."""
    return bool(turns) and turns[0]["role"] == "system"
