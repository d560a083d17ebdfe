"""Held-out rows as questions, each with the true conversation before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from trainer.data.keys import prompt_keys
from trainer.scoring.question import Message, Question

Row = dict[str, Any]
Turns = Literal["auto", "last", "all"]
ANSWER_KIND = "answer_kind"
"""Field of a question's row that says what its answer is, `call` or `text`: for `when` and `slices`."""


def questions_of(
    rows: Sequence[Row],
    *,
    turns: Turns,
    by: str | None,
    write_calls: Callable[[Row, list[Message], Message], str],
) -> list[Question]:
    """Return the answers that rows ask for; rows of plain text or token ids ask for none.

    Args:
        rows: Lines of data/heldout.jsonl.
        turns: Only the last answer of a conversation, or every trained one after its true history; auto: the last one
            and every one that calls tools.
        by: Field whose rows belong together, as in `data.split.by`.
        write_calls: Writes a turn with tool calls as the model would: (row, history, turn) -> text.
    """
    return [question for row in rows for question in _of_row(flat(row), turns, by, write_calls)]


def flat(row: Row) -> Row:
    """Put the columns that rows carry along beside the others: graders and slices name them."""
    return {**(row.get("metadata") or {}), **row}


def _of_row(
    row: Row,
    turns: Turns,
    by: str | None,
    write_calls: Callable[[Row, list[Message], Message], str],
) -> list[Question]:
    messages = conversation(row)
    if messages is None:
        return []
    places = _answer_places(messages, len(row.get("prompt", ())))
    if turns != "all" or "prompt" in row:
        calls_count = turns != "last"
        last = len(messages) - 1
        places = [place for place in places if place == last or (calls_count and messages[place].get("tool_calls"))]
    group = group_of(row, by)
    name = f"{row.get('source', '')}:{row.get('line', 0)}"
    found = []
    for place in places:
        answer = messages[place]
        calls = write_calls(row, messages[:place], answer) if answer.get("tool_calls") else None
        found.append(
            Question(
                id=name if place == len(messages) - 1 else f"{name}#{place}",
                messages=[_plain(message) for message in messages[:place]],
                reference=calls if calls is not None else answer.get("content") or "",
                row={**row, ANSWER_KIND: "call" if calls is not None else "text"},
                group=group,
                reference_message=_plain(answer),
            )
        )
    return found


def _answer_places(messages: Sequence[Message], first: int) -> list[int]:
    """Return the turns from the first on that are trained and follow something."""
    return [
        place
        for place, message in enumerate(messages)
        if place >= max(first, 1) and message["role"] == "assistant" and message.get("weight", 1)
    ]


def _plain(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "weight"}


def conversation(row: Row) -> list[Message] | None:
    """Return the turns of a row with the answer that is right; None of plain text, token ids and rejected answers."""
    if "messages" in row:
        return list(row["messages"])
    if "prompt" not in row or row.get("label") is False:
        return None
    return [*row["prompt"], *(row["chosen"] if "chosen" in row else row["completion"])]


def group_of(row: Row, by: str | None) -> str:
    """Return what rows of one cluster share: the field of the split, else the prompt."""
    if by is not None and row.get(by) is not None:
        return f"{by}={row[by]}"
    return prompt_keys(row)[0]


def last_user_text(messages: Sequence[Message]) -> str:
    """Return what was asked last."""
    said = (message.get("content") for message in reversed(messages) if message["role"] == "user")
    return next((text for text in said if isinstance(text, str)), "")
