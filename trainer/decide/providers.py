"""Check training rows against hosted tuning services, and write them in the format of each.

providers.json holds the requirements of each service, with their source and the day on which it was read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from importlib import resources
from typing import Literal, cast

import orjson
from pydantic import BaseModel, ConfigDict

from trainer import exact_json
from trainer.data.records.kinds import Message, Record, ToolCall
from trainer.shapes.decision import Readiness, ServiceReadiness, ServiceRequirements

Json = dict[str, object]
"""An object in the format of a service."""

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb: the tokenizers of these services are not here. Lengths are said to be estimates."""
MAX_REFS = 5


class Service(BaseModel):
    """What one service asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    closed_to_new_users: bool
    """The service takes nobody who has not used it before."""
    ends: date | None
    """Last day of the model or the service, where one is stated."""
    as_of: str
    source: str
    note: str
    format: Literal["openai", "bedrock", "gemini"]
    min_rows: int
    recommended_rows: tuple[int, int]
    max_rows: int | None
    max_file_mib: float | None
    max_row_tokens: int
    roles: frozenset[str]
    """Roles that a message may have."""
    alternating: bool
    """After a system message, user and assistant take turns."""
    tools: bool
    """Tools and tool calls can be trained on, in the format written here."""
    untrained_turns: bool
    """Assistant messages may be left out of the loss."""


def services() -> dict[str, Service]:
    """Return the services of providers.json by name."""
    text = resources.files("trainer.decide").joinpath("providers.json").read_text(encoding="utf-8")
    return {name: Service.model_validate(value) for name, value in json.loads(text).items()}


def readiness(service: Service, rows: Sequence[Record], today: date) -> ServiceReadiness:
    """Say whether training rows would do for a service, and whether it can still be used."""
    failing: Counter[str] = Counter()
    first: dict[str, list[str]] = {}
    size, good = 0, 0
    for row in rows:
        reason = fault(service, row)
        if reason is None:
            good += 1
            size += len(encoded(service, row))
            continue
        failing[reason] += 1
        first.setdefault(reason, []).append(f"{row.get('source')}:{row.get('line')}")
    mib = size / 2**20
    verdict, sentence = _judge(service, good, mib)
    if (closure := _closure(service, today)) is not None:
        verdict, sentence = "not_ready", f"{closure} {sentence}"
    if failing:
        sentence += f" {sum(failing.values()):,} rows would be left out."
    return {
        "verdict": verdict,
        "sentence": sentence,
        "rows": good,
        "file_mib": round(mib, 3),
        "failing": dict(failing.most_common()),
        "first": {reason: refs[:MAX_REFS] for reason, refs in first.items()},
        "requirements": cast(ServiceRequirements, service.model_dump(mode="json", exclude={"roles"})),
    }


def _closure(service: Service, today: date) -> str | None:
    """Say why a service cannot be used at all, whatever the rows; None where it can."""
    if service.ends is not None and today > service.ends:
        return f"Its end was {service.ends}."
    if service.closed_to_new_users:
        return "It is closed to new users."
    return None


def _judge(service: Service, rows: int, mib: float) -> tuple[Readiness, str]:
    low, high = service.recommended_rows
    if rows < service.min_rows:
        return "not_ready", f"{rows:,} rows of the {service.min_rows} that it takes at least."
    if service.max_rows is not None and rows > service.max_rows:
        return "not_ready", f"{rows:,} rows are more than the {service.max_rows:,} that it takes."
    if service.max_file_mib is not None and mib > service.max_file_mib:
        return "not_ready", f"The file of {mib:.0f} MiB is larger than the {service.max_file_mib:g} MiB that it takes."
    if rows < low:
        return "usable", f"{rows:,} rows: enough to start, and fewer than the {low} to {high} recommended."
    return "ready", f"{rows:,} rows; {low} to {high} are recommended."


def fault(service: Service, row: Record) -> str | None:
    """Return why a service would not take a row, as a stable id; None if it would."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        return "no_messages"
    roles = [message["role"] for message in messages]
    if not set(roles) <= service.roles:
        return "unsupported_role"
    if not service.tools and (row.get("tools") or any(message.get("tool_calls") for message in messages)):
        return "unsupported_tools"
    if "system" in roles[1:]:
        return "late_system_message"
    turns = [role for role in roles if role != "system"]
    if "user" not in turns or turns[0] != "user":
        return "no_user_message_first"
    if turns[-1] != "assistant":
        return "no_assistant_message_last"
    if service.alternating and any(role != ("user", "assistant")[index % 2] for index, role in enumerate(turns)):
        return "turns_do_not_alternate"
    return _content_fault(service, row, messages)


def _content_fault(service: Service, row: Record, messages: Sequence[Message]) -> str | None:
    if any(not _text(message).strip() and not message.get("tool_calls") for message in messages):
        return "empty_message"
    if not service.untrained_turns and any(
        message["role"] == "assistant" and message.get("weight") == 0 for message in messages
    ):
        return "untrained_turn"
    if len(encoded(service, row)) / CHARACTERS_PER_TOKEN > service.max_row_tokens:
        return "too_long"
    return None


def export(service: Service, rows: Iterable[Record]) -> bytes:
    """Return the rows that a service would take as JSONL in its format; the others are left out."""
    return b"".join(encoded(service, row) for row in rows if fault(service, row) is None)


def encoded(service: Service, row: Record) -> bytes:
    """Return one row in the format of a service, as a line of JSON."""
    return exact_json.dumps(_converted(service, row), option=orjson.OPT_APPEND_NEWLINE)


def _converted(service: Service, row: Record) -> Json:
    messages = row["messages"]
    match service.format:
        case "openai":
            return _openai(row, messages)
        case "bedrock":
            return _with_system(messages, "system", lambda text: text) | {
                "messages": [{"role": m["role"], "content": _text(m)} for m in messages if m["role"] != "system"]
            }
        case "gemini":
            return _with_system(
                messages, "systemInstruction", lambda text: {"role": "system", "parts": _parts(text)}
            ) | {"contents": [_gemini(message) for message in messages if message["role"] != "system"]}


def _with_system(messages: Sequence[Message], key: str, make: Callable[[str], object]) -> Json:
    texts = [_text(message) for message in messages if message["role"] == "system"]
    return {key: make(texts[0])} if texts else {}


def _gemini(message: Message) -> Json:
    role = "model" if message["role"] == "assistant" else "user"
    return {"role": role, "parts": _parts(_text(message))}


def _parts(text: str) -> list[dict[str, str]]:
    return [{"text": text}]


def _openai(row: Record, messages: Sequence[Message]) -> Json:
    tools = {"tools": row["tools"]} if row.get("tools") else {}
    return {"messages": _openai_messages(messages), **tools}


def _openai_messages(messages: Sequence[Message]) -> list[Json]:
    """Return messages with calls as the service wants them: arguments as text, and an id that the answer repeats."""
    written: list[Json] = []
    pending: list[str] = []
    for index, message in enumerate(messages):
        entry: Json = {"role": message["role"], "content": _text(message)}
        if message["role"] == "assistant":
            entry |= {key: value for key, value in message.items() if key in ("name", "weight")}
        if calls := message.get("tool_calls"):
            pending = [call.get("id") or f"call_{index}_{number}" for number, call in enumerate(calls)]
            entry["tool_calls"] = [_openai_call(call, name) for call, name in zip(calls, pending, strict=True)]
        if message["role"] == "tool":
            default = pending.pop(0) if pending else f"call_{index}"
            entry["tool_call_id"] = message.get("tool_call_id") or default
        written.append(entry)
    return written


def _openai_call(call: ToolCall, name: str) -> Json:
    function = call["function"]
    arguments: object = function.get("arguments", {})  # text where the row came from elsewhere
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": name, "type": "function", "function": {"name": function["name"], "arguments": text}}


def _text(message: Message) -> str:
    return str(message.get("content") or "")
