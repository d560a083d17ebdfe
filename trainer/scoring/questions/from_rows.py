"""Held-out rows as questions, each with the true conversation before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from trainer.data.duplicates.keys import prompt_keys
from trainer.scoring.question import ANSWER_KIND, Message, Question

Row = dict[str, Any]
Turns = Literal["auto", "last", "all"]
WriteAnswer = Callable[[Row, list[Message], Message], tuple[str, int]]


def questions_of(
    rows: Sequence[Row],
    *,
    turns: Turns,
    by: str | None,
    write_answer: WriteAnswer,
) -> list[Question]:
    """Return the answers that rows ask for; rows of plain text or token ids ask for none.

    Args:
        rows: Lines of data/heldout.jsonl.
        turns: Only the last answer of a conversation, or every trained one after its true history; auto: the last one
            and every one that calls tools.
        by: Field whose rows belong together, as in `data.split.by`.
        write_answer: Writes a turn as the model would: (row, history, turn) -> text without reasoning, and the
            number of tokens with it.
    """
    return [question for row in rows for question in _of_row(flat(row), turns, by, write_answer)]


def flat(row: Row) -> Row:
    """Put the columns that rows carry along beside the others: graders and slices name them."""
    return {**(row.get("metadata") or {}), **row}


def _of_row(
    row: Row,
    turns: Turns,
    by: str | None,
    write_answer: WriteAnswer,
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
    name = question_id(row)
    found = []
    for place in places:
        answer = messages[place]
        text, num_tokens = write_answer(row, messages[:place], answer)
        found.append(
            Question(
                id=name if place == len(messages) - 1 else f"{name}#{place}",
                messages=[_plain(message) for message in messages[:place]],
                reference=text,
                row={**row, ANSWER_KIND: "call" if answer.get("tool_calls") else "text"},
                group=group,
                reference_message=_plain(answer),
                reference_tokens=num_tokens,
            )
        )
    return found


def question_id(row: Row) -> str:
    """Return the name of the question for the last answer of a row."""
    return f"{row.get('source', '')}:{row.get('line', 0)}"


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


def group_of(row: Any, by: str | None) -> str:
    """Return what rows of one cluster share: the field of the split, else the prompt."""
    if by is not None and row.get(by) is not None:
        return f"{by}={row[by]}"
    return prompt_keys(row)[0]


def last_user_text(messages: Sequence[Message]) -> str:
    """Return what was asked last."""
    said = (message.get("content") for message in reversed(messages) if message["role"] == "user")
    return next((text for text in said if isinstance(text, str)), "")
