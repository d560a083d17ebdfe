from __future__ import annotations

import json
from typing import Any

import pytest
from make import answer, mark, metric, question

from trainer.errors import DataError
from trainer.scoring.graders import auto_metrics
from trainer.scoring.graders.calls import read_calls

CALL = {"name": "weather", "arguments": {"city": "Bonn", "days": 2}}
MESSAGE = {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]}
PLAIN = json.dumps(CALL)
AS_TEXT = json.dumps({"name": "weather", "arguments": json.dumps(CALL["arguments"])})


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        AS_TEXT,
        f"<tool_call>\n{PLAIN}\n</tool_call>",
        f"Let me look.\n<tool_call>{AS_TEXT}</tool_call>",
        f"<tool_call>\n{PLAIN}",
        f"[TOOL_CALLS] [{PLAIN}]",
        f"<|python_tag|>{PLAIN.replace('arguments', 'parameters')}<|eom_id|>",
        f"```json\n{PLAIN}\n```",
        f"I call:\n```\n[{PLAIN}]\n```",
        '{"tool_calls": [{"function": ' + PLAIN + "}]}",
        "<tool_call>\n<function=weather>\n<parameter=city>\nBonn\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>",
        "<function=weather>" + json.dumps(CALL["arguments"]) + "</function>",
        '[weather(city="Bonn", days=2)]',
    ],
)
def test_a_call_is_read_from_the_common_forms(text: str) -> None:
    assert mark(metric("tool_call"), text, question("", MESSAGE)).score == 1


def test_several_calls_are_read() -> None:
    other = '{"name": "time", "arguments": {}}'
    for text in (
        f"<tool_call>{PLAIN}</tool_call><tool_call>{other}</tool_call>",
        f"{PLAIN}\n{other}",
        f"[{other}, {PLAIN}]",
    ):
        assert {call.name for call in read_calls(text).calls} == {"weather", "time"}


@pytest.mark.parametrize("text", ["It is sunny.", '{"name": "Bonn"}', '{"city": "Bonn"}', "print(3)", "f(x=open('a'))"])
def test_other_text_is_no_call(text: str) -> None:
    assert not read_calls(text).calls


@pytest.mark.parametrize(
    ("text", "failure", "reason"),
    [
        ('{"name": "time", "arguments": {}}', "knowledge", "missing: weather"),
        (PLAIN.replace("Bonn", "Rome"), "knowledge", "weather: city: expected 'Bonn', got 'Rome'"),
        ('{"name": "weather", "arguments": {"city": "Bonn"}}', "knowledge", "missing argument days"),
        ("<tool_call>{broken</tool_call>", "format", "cannot be read"),
        ("It is sunny.", "format", "no call"),
        ("I'm sorry, I cannot help with that.", "refusal", "no call"),
        (f"{PLAIN}\n{PLAIN}", "knowledge", "extra: weather"),
    ],
)
def test_what_is_wrong_with_a_call_is_named(text: str, failure: str, reason: str) -> None:
    found = mark(metric("tool_call"), text, question("", MESSAGE))
    assert found.score == 0 and found.failure == failure and reason in found.reason


def test_no_call_is_right_where_none_is_expected() -> None:
    assert mark(metric("tool_call"), "Hello!", question("Hi!")).score == 1
    assert mark(metric("tool_call"), PLAIN, question("Hi!")).failure == "knowledge"


def test_calls_of_an_endpoint_are_read_before_the_text() -> None:
    call: dict[str, Any] = {"function": {"name": "weather", "arguments": '{"city": "Bonn", "days": 2.0}'}}
    assert mark(metric("tool_call"), answer("", tool_calls=(call,)), question("", MESSAGE)).score == 1


def test_order_and_arguments_count_as_asked() -> None:
    other = {"name": "time", "arguments": {}}
    text, asked = (
        f"{PLAIN}\n{json.dumps(other)}",
        question("", {"tool_calls": [{"function": other}, {"function": CALL}]}),
    )
    assert mark(metric("tool_call"), text, asked).score == 1
    assert mark(metric("tool_call", ordered=True), text, asked).score == 0
    wrong = PLAIN.replace("2", "3")
    assert mark(metric("tool_call", ignore=["days"]), wrong, question("", MESSAGE)).score == 1
    assert mark(metric("tool_call", arguments="ignore"), wrong, question("", MESSAGE)).score == 1


def test_an_expected_call_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot read the expected call"):
        mark(metric("tool_call", key="call"), PLAIN, question(call={"function": 3}))


def test_auto_marks_calls_where_the_references_make_them() -> None:
    kinds = [grader.kind for grader in auto_metrics(["", "Hi"], [question("", MESSAGE), question("Hi")])]
    assert kinds[0] == "tool_call" and "exact_match" in kinds
