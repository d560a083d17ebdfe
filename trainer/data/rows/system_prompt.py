"""Put one system prompt before all rows, so that training and serving agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from trainer.data.records.kinds import Message, Record


def apply_system_prompt(record: Record, text: str, *, when: Literal["missing", "replace"]) -> Record:
    """Return the row with the system prompt in front of its turns; rows without turns stay as they are."""
    turns = record.get("prompt", record.get("messages"))
    if turns is None or (when == "missing" and has_system_turn(turns)):
        return record
    system: Message = {"role": "system", "content": text}
    turns = [system, *turns[int(has_system_turn(turns)) :]]
    return {**record, "prompt": turns} if "prompt" in record else {**record, "messages": turns}


def has_system_turn(turns: Sequence[Mapping[str, object]]) -> bool:
    """Tell whether a conversation opens with a system turn."""
    return bool(turns) and turns[0]["role"] == "system"
