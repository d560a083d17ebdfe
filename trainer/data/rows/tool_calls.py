"""Convert tool calls and tool declarations to OpenAI's form."""

from __future__ import annotations

import re

from trainer.data.records.kinds import Tool, ToolCall
from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.values import Notes, parse_json, refuse_no_numbers

CALL_TEXT = re.compile(
    r"<(tool_?call|function_?call)s?>|<\|?(python_tag|tool_call|tool_calls_section_begin|action_start)\|?>"
    r"|\[TOOL_CALLS\]|<function=|<｜tool▁calls?▁begin｜>|^\s*Action\s*:|^\s*\[?\s*\{\s*\"(name|function|tool)\"\s*:",
    re.IGNORECASE | re.MULTILINE,
)
"""How models write a call into their text. Sources: chat templates of Hermes, Qwen, Llama 3, Mistral, DeepSeek, Glaive,
InternLM; ReAct."""


def says_call(text: str) -> bool:
    """Whether an answer holds a call that is written as text."""
    return CALL_TEXT.search(text) is not None


def canonical_calls(calls: object, where: str, notes: Notes) -> list[ToolCall]:
    """Make tool calls canonical: `[{"id"?, "type": "function", "function": {"name", "arguments": object}}]`.

    Raises:
        RowError: a call without a name, or arguments that are not a JSON object.
    """
    if isinstance(calls, str):
        calls = parse_json(calls, notes)
    listed = calls if isinstance(calls, list) else [calls]
    return [_canonical_call(call, where, notes) for call in listed]


def _canonical_call(call: object, where: str, notes: Notes) -> ToolCall:
    call = parse_json(call, notes) if isinstance(call, str) else call
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("invalid_tool_arguments", f"{where}: a tool call is not JSON of the form {{name, arguments}}")
    arguments = _arguments(function, where, notes)
    canonical: ToolCall = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if isinstance(call, dict) and call.get("id") is not None:
        return {"id": call["id"], **canonical}
    return canonical


def _arguments(function: dict[str, object], owner: str, notes: Notes) -> dict[str, object]:
    """Read arguments: an object, its JSON text, or nothing, for which PHP writes `[]`.

    Raises:
        RowError: they are anything else.
    """
    arguments = next((function[name] for name in ("arguments", "args", "parameters") if name in function), None)
    owner = f"{owner}: arguments of {function['name']!r}"
    value = arguments
    if isinstance(arguments, str):
        value = parse_json(arguments, notes) if arguments.strip() not in ("", "null") else None
        if value is None and arguments.strip() not in ("", "null"):
            raise RowError("invalid_tool_arguments", f"{owner} are text that is no JSON: {mark_text(arguments)}")
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise RowError("invalid_tool_arguments", f"{owner} are not a JSON object: {mark_text(str(arguments))}")
    refuse_no_numbers(value, owner)
    return value


def canonical_tools(value: object, notes: Notes) -> list[Tool]:
    """Make the tool list of a row canonical, in OpenAI's wrapping, as a served model will be given it.

    Raises:
        RowError: not a list of tools with names.
    """
    if value is None or value == [] or (isinstance(value, str) and value.strip() in ("", "[]", "null")):
        return []
    tools = parse_json(value, notes) if isinstance(value, str) else value
    if isinstance(tools, dict):
        tools = [tools]
    if not isinstance(tools, list):
        raise RowError("invalid_tools", f"`tools` is not a list of tools: {mark_text(str(value))}")
    parsed = [parse_json(tool, notes) if isinstance(tool, str) else tool for tool in tools]
    flat = [tool for item in parsed for tool in _declared(item)]
    return [_canonical_tool(tool, index) for index, tool in enumerate(flat)]


def _declared(item: object) -> list[object]:
    """Return the tools of one entry: Gemini's holds a list of declarations."""
    for name in ("functionDeclarations", "function_declarations"):
        if isinstance(item, dict) and isinstance(item.get(name), list):
            return list(item[name])
    return [item]


def _canonical_tool(tool: object, index: int) -> Tool:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("invalid_tools", f"tools[{index}] has no name")
    if "input_schema" in function and "parameters" not in function:  # Anthropic's word for it
        function = {("parameters" if key == "input_schema" else key): value for key, value in function.items()}
    return {"type": "function", "function": function}
