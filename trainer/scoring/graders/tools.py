"""Marks for tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.errors import DataError
from trainer.recipe.metrics import ToolCall
from trainer.scoring.graders.calls import Call, calls_of, read_calls
from trainer.scoring.graders.expected import expected
from trainer.scoring.graders.failures import shown
from trainer.scoring.graders.fields import equal_values
from trainer.scoring.graders.refusal import refuses
from trainer.scoring.question import Answer, Failure, Grade, Question


def grade_tool_call(grader: ToolCall, answer: Answer, question: Question) -> Grade:
    """Mark the calls of an answer: all of the expected ones, and no other.

    Raises:
        DataError: The expected value cannot be read as calls.
    """
    wanted = expected_calls(grader, question)
    if wanted and grader.key is None and answer.text.strip() == (question.reference or "").strip():
        return Grade(1.0)  # whatever form the template gives to calls
    tools = _tools(question)
    found = calls_of(answer.tool_calls) if answer.tool_calls else read_calls(answer.text, list(tools))
    if found.broken:
        return Grade(0.0, f"a call that cannot be read: {shown(found.broken)}", _cut_or(answer, "format"))
    if not wanted:
        names = ", ".join(call.name for call in found.calls)
        return Grade(0.0, f"no call expected, got {names}", "knowledge") if found.calls else Grade(1.0)
    if not found.calls:
        failure: Failure = "refusal" if refuses(answer.text) else "format"
        return Grade(0.0, f"no call in {shown(answer.text)}", _cut_or(answer, failure))
    fault = _fault(grader, [_filled(call, tools) for call in found.calls], [_filled(call, tools) for call in wanted])
    return Grade(0.0, fault, "knowledge") if fault else Grade(1.0)


def _tools(question: Question) -> dict[str, dict[str, Any]]:
    """Return the tools of a row by their name, each with the JSON Schema of its arguments."""
    tools: dict[str, dict[str, Any]] = {}
    for tool in question.row.get("tools") or []:
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            schema = function.get("parameters")
            tools[function["name"]] = schema if isinstance(schema, dict) else {}
    return tools


def _filled(call: Call, tools: dict[str, dict[str, Any]]) -> Call:
    """Return a call with the defaults that its tool states, and without optional arguments that are null."""
    schema = tools.get(call.name, {})
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return call
    known = {name: value for name, value in properties.items() if isinstance(value, dict)}
    optional = set(known) - set(schema.get("required") or [])
    defaults = {name: known[name]["default"] for name in optional if "default" in known[name]}
    stated = {name: value for name, value in call.arguments.items() if value is not None or name not in optional}
    return Call(call.name, defaults | stated)


def _cut_or(answer: Answer, failure: Failure) -> Failure:
    return failure if answer.finished and answer.text.strip() else "other"


def expected_calls(grader: ToolCall, question: Question) -> tuple[Call, ...]:
    """Return the calls of the metric's field, of the reference message, or of the reference text.

    Raises:
        DataError: They cannot be read.
    """
    message = question.reference_message or {}
    if grader.key is None and message.get("tool_calls"):
        read = calls_of(message["tool_calls"])
    else:
        value = expected(grader, question)
        read = read_calls(value) if isinstance(value, str) else calls_of(value if isinstance(value, list) else [value])
    if read.broken:
        raise DataError(
            f"{question.id}: metric {grader.title} cannot read the expected call {shown(read.broken)}",
            hint='write calls as {"name": NAME, "arguments": {...}}',
        )
    return read.calls


def unread_calls(questions: Sequence[Question]) -> int:
    """Count the questions whose calls, as the template writes them, cannot be read back as the same calls."""
    grader = ToolCall()
    return sum(
        _is_unread(grader, question) for question in questions if (question.reference_message or {}).get("tool_calls")
    )


def _is_unread(grader: ToolCall, question: Question) -> bool:
    tools = _tools(question)
    written = read_calls(question.reference or "", list(tools)).calls
    expected = expected_calls(grader, question)
    return bool(_fault(grader, [_filled(call, tools) for call in written], [_filled(call, tools) for call in expected]))


def _fault(grader: ToolCall, found: list[Call], wanted: list[Call]) -> str:
    """Return the first difference; empty if the calls are the same."""
    if grader.ordered:
        faults = [_difference(grader, *pair) for pair in zip(found, wanted, strict=False)]
        left = wanted[len(found) :], found[len(wanted) :]
    else:
        rest = list(found)
        faults, missing = [], []
        for call in wanted:
            match = next((other for other in rest if not _difference(grader, other, call)), None)
            if match is None:
                missing.append(call)
            else:
                rest.remove(match)
        pairs = [(other, call) for call in missing for other in rest if other.name == call.name][:1]
        faults = [_difference(grader, *pair) for pair in pairs]
        left = missing, rest
    said = [f"missing: {call.name}" for call in left[0]] + [f"extra: {call.name}" for call in left[1]]
    return next((fault for fault in [*faults, *said] if fault), "")


def _difference(grader: ToolCall, found: Call, wanted: Call) -> str:
    if found.name != wanted.name:
        return f"expected a call of {wanted.name}, got {found.name}"
    if grader.arguments == "ignore":
        return ""
    for name in {**wanted.arguments, **found.arguments}:
        if name in grader.ignore:
            continue
        if name not in found.arguments or name not in wanted.arguments:
            return f"{wanted.name}: {'extra' if name in found.arguments else 'missing'} argument {name}"
        if not equal_values(found.arguments[name], wanted.arguments[name], grader.arguments):
            return f"{wanted.name}: {name}: expected {wanted.arguments[name]!r}, got {found.arguments[name]!r}"[:200]
    return ""
