"""One turn of a conversation, in any of the usual spellings, made canonical."""

from __future__ import annotations

from typing import Any

import orjson

from trainer.data.blocks import TEXT_PARTS, has_blocks, unfold_blocks
from trainer.data.reasons import RowError
from trainer.data.shape import check_shape

Message = dict[str, Any]

CALLING_ROLES = ("function_call", "tool_call")
"""Turns of ShareGPT's kind whose text is a call: LLaMA-Factory's and ms-swift's word for it."""
ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "input": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "output": "assistant",
    "ai": "assistant",
    **dict.fromkeys(CALLING_ROLES, "assistant"),
    "tool": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Role as written in the file -> role that chat templates know. A template renders `human` wrongly without a word."""

KEPT_KEYS = ("reasoning_content", "thinking", "tool_call_id", "name")


def canonical_turns(value: object, place: str) -> list[Message]:
    """Make a column of turns canonical.

    Args:
        value: list of turns, one turn, or either as JSON text (csv files hold it so).
        place: name of the column, for messages.

    Raises:
        RowError: the column is empty, or a turn has no known role, no text, or broken tool calls.
    """
    if isinstance(value, str):
        value = parse_json(value)
    if isinstance(value, dict):
        value = [value]
    if not value:
        raise RowError("empty_messages", f"`{place}` has no turns")
    if not isinstance(value, list):
        raise RowError("unknown_format", f"`{place}` is {kind_of(value)}, not a list of turns")
    return [message for index, turn in enumerate(value) for message in _messages_of(turn, f"{place}[{index}]")]


def _messages_of(turn: object, place: str) -> list[Message]:
    """Read one entry of a conversation, which may stand for several turns."""
    if isinstance(turn, dict):
        if has_blocks(turn.get("content")):
            return [canonical_turn(part, place) for part in unfold_blocks(turn, place)]
        if "human" in turn and "assistant" in turn:  # ms-swift's pairs
            pair = (("user", turn["human"]), ("assistant", turn["assistant"]))
            return [{"role": role, "content": text_of(said, place)} for role, said in pair]
    return [canonical_turn(turn, place)]


def canonical_turn(turn: object, place: str) -> Message:
    """Make one turn canonical: `{"role", "content", ...}`; `place` names it in messages.

    Raises:
        RowError: unknown role, content that is not text, broken tool calls or weight.
    """
    if not isinstance(turn, dict):
        raise RowError("unknown_role", f"{place} is {kind_of(turn)}, not an object with role and content")
    written = turn.get("from") or turn.get("role")
    name = written.strip().lower() if isinstance(written, str) else ""
    role = ROLES.get(name)
    if role is None:
        raise RowError("unknown_role", f"{place}: role {written!r}; known are {', '.join(sorted(set(ROLES.values())))}")
    content = turn["value"] if turn.get("value") is not None else turn.get("content")
    calls = turn.get("tool_calls") or turn.get("function_call")
    if name in CALLING_ROLES:
        calls, content = content or {}, None
    message: Message = {"role": role, "content": text_of(content, place)}
    message |= {key: turn[key] for key in KEPT_KEYS if turn.get(key) is not None}
    if calls is not None and calls != []:
        message["tool_calls"] = canonical_calls(calls, place)
    if turn.get("weight") is not None:
        message["weight"] = _weight_of(turn["weight"], place)
    return message


def text_of(content: object, place: str) -> str:
    """Return the text of `content`: a string, nothing, or a list of OpenAI text parts, which are joined.

    Raises:
        RowError: a part that is not text (named), or a value that is not text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part_text(part, place) for part in content)
    raise RowError("unsupported_content", f"{place}: {kind_of(content)} where text is expected")


def _part_text(part: object, place: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        text = part.get(TEXT_PARTS.get(part.get("type", "text"), ""))
        if isinstance(text, str):
            return text
    name = part.get("type") if isinstance(part, dict) else kind_of(part)
    raise RowError("unsupported_content", f"{place}: content part {name!r}; only text parts are trained on")


def _weight_of(weight: object, place: str) -> int:
    if isinstance(weight, (int, float)) and weight in (0, 1):
        return int(weight)
    raise RowError("invalid_weight", f"{place}: weight {weight!r}; 0 (not trained) or 1 (trained)")


def canonical_calls(calls: object, place: str) -> list[dict[str, Any]]:
    """Make tool calls canonical: `[{"id"?, "type": "function", "function": {"name", "arguments": object}}]`.

    Raises:
        RowError: a call without a name, or arguments that are not a JSON object.
    """
    if isinstance(calls, str):
        calls = parse_json(calls)
    listed = calls if isinstance(calls, list) else [calls]
    return [_canonical_call(call, place) for call in listed]


def _canonical_call(call: object, place: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("invalid_tool_arguments", f"{place}: a tool call is not JSON of the form {{name, arguments}}")
    arguments = function.get("arguments")
    parsed = parse_json(arguments) if isinstance(arguments, str) else {} if arguments is None else arguments
    if not isinstance(parsed, dict):
        raise RowError(
            "invalid_tool_arguments",
            f"{place}: arguments of {function['name']!r} are not a JSON object: {shorten(str(arguments))}",
        )
    identity = {"id": call["id"]} if isinstance(call, dict) and call.get("id") is not None else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": parsed}}


def canonical_tools(value: object) -> list[dict[str, Any]]:
    """Make the tool list of a row canonical, in OpenAI's wrapping, as a served model will be given it.

    Raises:
        RowError: not a list of tools with names.
    """
    if value is None or value == [] or (isinstance(value, str) and value.strip() in ("", "[]", "null")):
        return []
    tools = parse_json(value) if isinstance(value, str) else value
    if not isinstance(tools, list):
        raise RowError("invalid_tools", f"`tools` is not a list of tools: {shorten(str(value))}")
    return [_canonical_tool(tool, index) for index, tool in enumerate(tools)]


def _canonical_tool(tool: object, index: int) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("invalid_tools", f"tools[{index}] has no name")
    if "input_schema" in function and "parameters" not in function:  # Anthropic's word for it
        function = {("parameters" if key == "input_schema" else key): value for key, value in function.items()}
    return {"type": "function", "function": function}


def parse_json(text: str) -> object:
    """Return the JSON value of `text`, or None where it is not JSON.

    Raises:
        RowError: it is nested too deeply.
    """
    try:
        value: object = orjson.loads(text)
    except ValueError:
        return None
    check_shape(value)
    return value


def kind_of(value: object) -> str:
    """Name the JSON type of `value` in words."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def shorten(text: str, limit: int = 80) -> str:
    """Cut `text` for a one-line message."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
