"""Turn held-out rows into questions, each with the true conversation before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

from trainer.data.duplicates.keys import prompt_keys
from trainer.data.records.kinds import Message, Record
from trainer.scoring.question import ANSWER_KIND, Question

Turns = Literal["auto", "last", "all"]
WriteAnswer = Callable[[Record, list[Message], Message], tuple[str, int]]


def questions_of(rows: Sequence[Record], *, turns: Turns, by: str | None, write_answer: WriteAnswer) -> list[Question]:
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


def flat(row: Record) -> Record:
    """Put the columns of `metadata` beside the others: graders and slices name them.

    Example:
        >>> sorted(flat({"source": "a.jsonl", "metadata": {"topic": "tax"}}))
        ['metadata', 'source', 'topic']
    """
    return cast("Record", {**(row.get("metadata") or {}), **row})


def _of_row(row: Record, turns: Turns, by: str | None, write_answer: WriteAnswer) -> list[Question]:
    messages = conversation(row)
    if messages is None:
        return []
    last = len(messages) - 1
    indices = _answer_indices(messages, len(row.get("prompt", ())))
    if turns != "all" or "prompt" in row:
        calls_count = turns != "last"
        indices = [index for index in indices if index == last or (calls_count and messages[index].get("tool_calls"))]
    group, name = group_of(row, by), question_id(row)
    questions = []
    for index in indices:
        answer = messages[index]
        text, num_tokens = write_answer(row, messages[:index], answer)
        questions.append(
            Question(
                id=name if index == last else f"{name}#{index}",
                messages=[without_weight(message) for message in messages[:index]],
                reference=text,
                row={**row, ANSWER_KIND: "call" if answer.get("tool_calls") else "text"},
                group=group,
                reference_message=without_weight(answer),
                reference_tokens=num_tokens,
            )
        )
    return questions


def question_id(row: Record) -> str:
    """Return the name of the question for the last answer of a row."""
    return f"{row.get('source', '')}:{row.get('line', 0)}"


def _answer_indices(messages: Sequence[Message], first: int) -> list[int]:
    """Return the turns from the first on that are trained and follow something."""
    return [
        index
        for index, message in enumerate(messages)
        if index >= max(first, 1) and message["role"] == "assistant" and message.get("weight", 1)
    ]


def without_weight(message: Message) -> Message:
    """Return a turn as a model is given it."""
    turn = message.copy()
    turn.pop("weight", None)
    return turn


def conversation(row: Record) -> list[Message] | None:
    """Return the turns of a row with the answer that is right; None of plain text, token ids and rejected answers."""
    if "messages" in row:
        return list(row["messages"])
    if "prompt" not in row or row.get("label") is False:
        return None
    return [*row["prompt"], *(row["chosen"] if "chosen" in row else row["completion"])]


def group_of(row: Record, by: str | None) -> str:
    """Return the key of a row's cluster: the field of the split, else the prompt."""
    value = cast("Mapping[str, object]", row).get(by) if by is not None else None
    if value is not None:
        return f"{by}={value}"
    return prompt_keys(row)[0]


def last_user_text(messages: Sequence[Message]) -> str:
    """Return the text of the last user turn, or an empty one."""
    texts = (message.get("content") for message in reversed(messages) if message["role"] == "user")
    return next((text for text in texts if isinstance(text, str)), "")
