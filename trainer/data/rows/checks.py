"""Check a canonical row before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from trainer import exact_json
from trainer.data.records.kinds import Message, Record
from trainer.data.records.reasons import RowError
from trainer.data.rows.tool_calls import says_call


def check_record(record: Record) -> None:
    """Check one canonical row.

    Raises:
        RowError: the first fault found.
    """
    check_characters(record)
    if "text" in record:
        _check_text(record["text"])
    elif "chosen" in record:
        check_preference(record["prompt"], record["chosen"], record["rejected"])
    elif "completion" in record:
        check_answer(record["prompt"], record["completion"], "completion")
    elif "messages" in record:
        check_conversation(record["messages"])


def _check_text(text: str) -> None:
    if not text.strip():
        raise RowError("empty_content", "`text` is empty")


def check_preference(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> None:
    """Check a pair: a prompt that waits for an answer, and two sound answers that differ.

    Raises:
        RowError: the first fault found.
    """
    check_answer(prompt, chosen, "chosen")
    check_answer(prompt, rejected, "rejected")
    if _same_answer(chosen, rejected):
        raise RowError("chosen_equals_rejected", "both answers are the same")


def check_answer(prompt: list[Message], answer: list[Message], name: str) -> None:
    """Check a prompt that waits for an answer, and the answer, whose column is `name`.

    Raises:
        RowError: the first fault found.
    """
    if not prompt:
        raise RowError("empty_messages", "`prompt` has no turns")
    if prompt[-1]["role"] not in ("user", "tool"):
        raise RowError("bad_role_order", f"the prompt ends with a {prompt[-1]['role']} turn, not with a user turn")
    if not answer or answer[0]["role"] != "assistant":
        raise RowError("no_assistant_turn", f"`{name}` does not begin with an assistant turn")
    check_conversation(prompt + answer)


def _same_answer(chosen: list[Message], rejected: list[Message]) -> bool:
    def bare(turns: list[Message]) -> list[tuple[object, ...]]:
        return [(turn["role"], turn["content"].strip(), turn.get("tool_calls")) for turn in turns]

    return bare(chosen) == bare(rejected)


def check_conversation(messages: list[Message]) -> None:
    """Check the turns of one conversation.

    Raises:
        RowError: no assistant turn, an empty turn, or turns in an order no chat template can render.
    """
    if not messages:
        raise RowError("empty_messages", "no turns")
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("no_assistant_turn", "nothing to learn from: no turn is the assistant's")
    for index, message in enumerate(messages):
        _check_turn_content(message, index)
        _check_turn_order(messages, index)
    if messages[-1]["role"] != "assistant":
        raise RowError("bad_role_order", f"the last turn is {messages[-1]['role']}, not assistant")


def _check_turn_content(message: Message, index: int) -> None:
    if message["content"].strip() or message.get("tool_calls"):
        return
    if message["role"] in ("user", "assistant"):
        raise RowError("empty_content", f"turn {index + 1} ({message['role']}) is empty")


def _check_turn_order(messages: list[Message], index: int) -> None:
    role = messages[index]["role"]
    if role == "system" and index > 0:
        raise RowError("bad_role_order", f"turn {index + 1} is system; a system turn comes first")
    if role != "tool":
        return
    before = messages[index - 1] if index else None
    if before is None or not (before["role"] == "tool" or before.get("tool_calls") or _says_call(before)):
        raise RowError("bad_role_order", f"turn {index + 1} is tool, but no tool was called before it")


def _says_call(turn: Message) -> bool:
    return turn["role"] == "assistant" and says_call(turn["content"])


def check_characters(value: object) -> None:
    """Refuse text that tokenizers and JSON writers choke on: lone surrogates and NUL.

    Raises:
        RowError: naming the character.
    """
    # A walk through every string in Python takes ten times as long as writing the row, which finds both.
    try:
        written = exact_json.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        written = b"\\u0000"
    if b"\\u0000" not in written:
        return
    for text in strings_of(value):
        if "\x00" in text:
            raise RowError("invalid_text", "a NUL character (U+0000)")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError("invalid_text", f"a lone surrogate (U+{ord(text[error.start]):04X})") from None


def strings_of(value: object) -> Iterator[str]:
    """Yield every string inside a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings_of(key)
            yield from strings_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_of(item)
