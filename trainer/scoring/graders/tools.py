"""Grade tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer.errors import DataError
from trainer.recipe.metrics import ToolCallMatch
from trainer.scoring.graders.calls import Call, calls_of, read_calls
from trainer.scoring.graders.expected import expected_value
from trainer.scoring.graders.failures import excerpt, without_answer
from trainer.scoring.graders.fields import equal_values
from trainer.scoring.question import Answer, Grade, Question


def grade_tool_call(grader: ToolCallMatch, answer: Answer, question: Question) -> Grade:
    """Mark the calls of an answer: all of the expected ones, and no other.

    Raises:
        DataError: The expected value cannot be read as calls.
    """
    expected = expected_calls(grader, question)
    if expected and grader.key is None and answer.text.strip() == (question.reference or "").strip():
        return Grade(1.0)  # whatever form the template gives to calls
    tools = _tools(question)
    read = calls_of(answer.tool_calls) if answer.tool_calls else read_calls(answer.text, list(tools))
    if read.broken:
        reason = f"a call that cannot be read: {excerpt(read.broken)}"
        return Grade(0.0, reason, "format" if answer.finished and answer.text.strip() else "other")
    if not expected:
        names = ", ".join(call.name for call in read.calls)
        return Grade(0.0, f"no call expected, got {names}", "knowledge") if read.calls else Grade(1.0)
    if not read.calls:
        return Grade(0.0, f"no call in {excerpt(answer.text)}", without_answer(answer))
    fault = _fault(grader, [_filled(call, tools) for call in read.calls], [_filled(call, tools) for call in expected])
    return Grade(0.0, fault, "knowledge") if fault else Grade(1.0)


def _tools(question: Question) -> dict[str, dict[str, object]]:
    """Return the tools of a row by their name, each with the JSON Schema of its arguments."""
    tools: dict[str, dict[str, object]] = {}
    declared = question.row.get("tools")
    for tool in declared if isinstance(declared, list) else []:
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            schema = function.get("parameters")
            tools[function["name"]] = schema if isinstance(schema, dict) else {}
    return tools


def _filled(call: Call, tools: Mapping[str, dict[str, object]]) -> Call:
    """Return a call with the defaults that its tool states, and without optional arguments that are null.

    Example:
        >>> schema = {"properties": {"unit": {"default": "C"}, "day": {}}, "required": []}
        >>> _filled(Call("weather", {"day": None}), {"weather": schema}).arguments
        {'unit': 'C'}
    """
    schema = tools.get(call.name, {})
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return call
    schemas = {name: value for name, value in properties.items() if isinstance(value, dict)}
    optional = set(schemas) - set(required if isinstance(required, list) else [])
    defaults = {name: schemas[name]["default"] for name in optional if "default" in schemas[name]}
    stated = {name: value for name, value in call.arguments.items() if value is not None or name not in optional}
    return Call(call.name, defaults | stated)


def expected_calls(grader: ToolCallMatch, question: Question) -> tuple[Call, ...]:
    """Return the calls of the metric's field, of the reference message, or of the reference text.

    Raises:
        DataError: They cannot be read.
    """
    if grader.key is None and question.calls:
        read = calls_of(question.calls)
    else:
        value = expected_value(grader, question)
        read = read_calls(value) if isinstance(value, str) else calls_of(value if isinstance(value, list) else [value])
    if read.broken:
        raise DataError(
            f"{question.id}: metric {grader.title} cannot read the expected call {excerpt(read.broken)}",
            hint='write calls as {"name": NAME, "arguments": {...}}',
        )
    return read.calls


def unread_calls(questions: Sequence[Question]) -> int:
    """Count the questions whose calls, as the template writes them, cannot be read back as the same calls."""
    grader = ToolCallMatch()
    return sum(_is_unread(grader, question) for question in questions if question.calls)


def _is_unread(grader: ToolCallMatch, question: Question) -> bool:
    tools = _tools(question)
    written = read_calls(question.reference or "", list(tools)).calls
    expected = expected_calls(grader, question)
    return bool(_fault(grader, [_filled(call, tools) for call in written], [_filled(call, tools) for call in expected]))


def _fault(grader: ToolCallMatch, calls: list[Call], expected: list[Call]) -> str:
    """Return the first difference; empty if the calls are the same."""
    if grader.ordered:
        faults = [_difference(grader, *pair) for pair in zip(calls, expected, strict=False)]
        missing, extra = expected[len(calls) :], calls[len(expected) :]
    else:
        extra, missing = list(calls), []
        for call in expected:
            match = next((candidate for candidate in extra if not _difference(grader, candidate, call)), None)
            if match is None:
                missing.append(call)
            else:
                extra.remove(match)
        pairs = [(candidate, call) for call in missing for candidate in extra if candidate.name == call.name]
        faults = [_difference(grader, *pair) for pair in pairs[:1]]
    counts = [f"missing: {call.name}" for call in missing] + [f"extra: {call.name}" for call in extra]
    return next((fault for fault in [*faults, *counts] if fault), "")


def _difference(grader: ToolCallMatch, call: Call, expected: Call) -> str:
    if call.name != expected.name:
        return f"expected a call of {expected.name}, got {call.name}"
    if grader.arguments == "ignore":
        return ""
    for name in {**expected.arguments, **call.arguments}:
        if name in grader.ignore:
            continue
        if name not in call.arguments or name not in expected.arguments:
            return f"{expected.name}: {'extra' if name in call.arguments else 'missing'} argument {name}"
        argument, right = call.arguments[name], expected.arguments[name]
        if not equal_values(argument, right, grader.arguments):
            return f"{expected.name}: {name}: expected {right!r}, got {argument!r}"[:200]
    return ""
