"""Define the canonical row, `Record`, its turns, `Message`, and where rows come from.

`trainer data` writes one `Record` on each line of train.jsonl, validation.jsonl and heldout.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Literal, NamedTuple, NotRequired, TypedDict

import orjson

from trainer import exact_json
from trainer.recipe.data import Format

Role = Literal["system", "user", "assistant", "tool"]


class Function(TypedDict):
    """Function of a tool call."""

    name: str
    arguments: dict[str, object]


class ToolCall(TypedDict):
    """Call of a tool, in OpenAI's form."""

    id: NotRequired[str]
    type: Literal["function"]
    function: Function


class Tool(TypedDict):
    """Declaration of a tool, in OpenAI's form."""

    type: Literal["function"]
    function: dict[str, object]
    """`name`, `description`, `parameters` (a JSON schema)."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str
    tool_calls: NotRequired[list[ToolCall]]
    reasoning_content: NotRequired[str]
    thinking: NotRequired[str]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]
    weight: NotRequired[int]
    """1: the turn is trained, 0: it is not; without it the method decides."""
    channel: NotRequired[str]
    """Harmony's channel of an answer, until `turns._join_analysis` has used it."""


class Record(TypedDict, total=False):
    """One canonical row; `kind_of_row` tells which of the five groups of keys it has."""

    messages: list[Message]

    prompt: list[Message]
    """Of a pair, with `chosen` and `rejected`, or of a judged answer, with `completion` and `label`."""
    chosen: list[Message]
    rejected: list[Message]
    completion: list[Message]
    label: bool

    text: str

    input_ids: list[int]
    labels: list[int]

    tools: list[Tool]
    chat_template_kwargs: dict[str, object]
    metadata: dict[str, object]
    """All columns of the file that the row is not made of."""
    source: str
    line: int
    repeat: float


TurnList = Literal["messages", "prompt", "chosen", "rejected", "completion"]
TURN_LISTS: tuple[TurnList, ...] = ("messages", "prompt", "chosen", "rejected", "completion")
"""Keys of a row that hold turns."""

MESSAGES, PAIR, TEXT, KTO, TOKENS = range(5)
"""Kinds of row."""


def kind_of_row(record: Record) -> int:
    """Return the kind of a canonical row, by its keys."""
    if "chosen" in record:
        return PAIR
    if "completion" in record:
        return KTO
    return TEXT if "text" in record else TOKENS if "input_ids" in record else MESSAGES


def turns_of_row(record: Record) -> Iterator[Message]:
    """Yield all turns of a row, list after list."""
    for name in TURN_LISTS:
        yield from record.get(name, ())


class Origin(NamedTuple):
    """Where rows come from."""

    label: str
    """Name of the file, as rows carry it."""
    format: Format
    mapping: tuple[tuple[str, str], ...]
    is_benchmark: bool = False
    """Rows to compare with, in any layout: a row of an unknown layout is compared by its longest text."""


def rejected(source: str, line: int, reason: str, *, of: str | None = None, detail: str = "") -> dict[str, object]:
    """Return the line of `rejected.jsonl` about a row."""
    return {"source": source, "line": line, "reason": reason, "of": of, "detail": detail}


def write_line(row: object) -> bytes:
    """Return a row as a line of JSON, every number as it was read; dates, decimals and bytes as text."""
    return exact_json.dumps(row, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)


class Side(IntEnum):
    """What a file's rows are for."""

    SOURCE = 0
    HELDOUT = 1
    VALIDATION = 2
    BENCHMARK = 3
