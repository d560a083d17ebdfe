"""Repair the order of turns where only one repair makes sense."""

from __future__ import annotations

import itertools
from collections import Counter

from trainer.data.records.kinds import Message, Record

PLAIN_KEYS = frozenset({"role", "content"})
EMPTY, TRAILING, JOINED = "empty_turns", "trailing_turns", "joined_turns"


def repair_turns(record: Record, changes: Counter[str]) -> Record:
    """Return the row with its turns in order, the same object where nothing was to do.

    What cannot be repaired stays, for the check that follows to name.
    """
    if "messages" in record:
        turns = _joined(_without_trailing(_without_empty(record["messages"], changes), changes), changes)
        return record if turns is record["messages"] else {**record, "messages": turns}
    if "prompt" in record:
        # The last question is the one that is answered: it stays, empty or not.
        turns = _joined(_without_empty(record["prompt"], changes, keep_last=True), changes)
        return record if turns is record["prompt"] else {**record, "prompt": turns}
    return record


def _is_empty(turn: Message) -> bool:
    return not turn["content"].strip() and not turn.get("tool_calls") and turn["role"] != "tool"


def _without_empty(turns: list[Message], changes: Counter[str], *, keep_last: bool = False) -> list[Message]:
    """Leave out whole exchanges that hold an empty turn: an answer without its question teaches something else."""
    if not any(map(_is_empty, turns)):
        return turns
    groups = _exchanges(turns)
    last = len(groups) - 1
    full_groups = [
        group for index, group in enumerate(groups) if (keep_last and index == last) or not any(map(_is_empty, group))
    ]
    # A row of nothing but an empty exchange is left as it is, to be rejected by its name.
    if len(full_groups) == len(groups) or not any(
        turn["role"] == "assistant" or keep_last for group in full_groups for turn in group
    ):
        return turns
    changes[EMPTY] += len(groups) - len(full_groups)
    return [turn for group in full_groups for turn in group]


def _exchanges(turns: list[Message]) -> list[list[Message]]:
    """Cut before every system turn and before every user turn that does not follow another: question and answers."""
    groups: list[list[Message]] = []
    before = ""
    for turn in turns:
        role = turn["role"]
        if not groups or role == "system" or (role == "user" and before != "user") or before == "system":
            groups.append([])
        groups[-1].append(turn)
        before = role
    return groups


def _without_trailing(turns: list[Message], changes: Counter[str]) -> list[Message]:
    """Leave out what follows the last answer: nothing is learnt from it."""
    ends = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not ends or ends[-1] == len(turns) - 1:
        return turns
    changes[TRAILING] += len(turns) - 1 - ends[-1]
    return turns[: ends[-1] + 1]


def _joined(turns: list[Message], changes: Counter[str]) -> list[Message]:
    """Join neighbours of one role that are text alone: many chat templates refuse two of them in a row."""
    if not any(_can_join(left, right) for left, right in itertools.pairwise(turns)):
        return turns
    joined: list[Message] = []
    for turn in turns:
        if joined and _can_join(joined[-1], turn):
            changes[JOINED] += 1
            joined[-1] = {**turn, "content": f"{joined[-1]['content']}\n\n{turn['content']}"}
        else:
            joined.append(turn)
    return joined


def _can_join(left: Message, right: Message) -> bool:
    is_plain = left.keys() == PLAIN_KEYS and right.keys() == PLAIN_KEYS
    return is_plain and left["role"] == right["role"] != "tool"
