from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.scoring.graders.make import answer, mark, metric, question
from trainer.data.rows.parse import parse_row
from trainer.errors import DataError
from trainer.recipe.evaluate import EvalSection
from trainer.scoring.graders import GraderServices, auto_metrics, grade
from trainer.scoring.graders.calls import read_calls
from trainer.scoring.question import Question
from trainer.scoring.questions.from_rows import questions_of

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
    second = '{"name": "time", "arguments": {}}'
    for text in (
        f"<tool_call>{PLAIN}</tool_call><tool_call>{second}</tool_call>",
        f"{PLAIN}\n{second}",
        f"[{second}, {PLAIN}]",
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
    grade = mark(metric("tool_call"), text, question("", MESSAGE))
    assert grade.score == 0 and grade.failure == failure and reason in grade.reason


def test_no_call_is_right_where_none_is_expected() -> None:
    assert mark(metric("tool_call"), "Hello!", question("Hi!")).score == 1
    assert mark(metric("tool_call"), PLAIN, question("Hi!")).failure == "knowledge"


def test_calls_of_an_endpoint_are_read_before_the_text() -> None:
    call: dict[str, Any] = {"function": {"name": "weather", "arguments": '{"city": "Bonn", "days": 2.0}'}}
    assert mark(metric("tool_call"), answer("", tool_calls=(call,)), question("", MESSAGE)).score == 1


def test_order_and_arguments_count_as_asked() -> None:
    second = {"name": "time", "arguments": {}}
    text, item = (
        f"{PLAIN}\n{json.dumps(second)}",
        question("", {"tool_calls": [{"function": second}, {"function": CALL}]}),
    )
    assert mark(metric("tool_call"), text, item).score == 1
    assert mark(metric("tool_call", ordered=True), text, item).score == 0
    wrong = PLAIN.replace("2", "3")
    assert mark(metric("tool_call", ignore=["days"]), wrong, question("", MESSAGE)).score == 1
    assert mark(metric("tool_call", arguments="ignore"), wrong, question("", MESSAGE)).score == 1


def test_an_expected_call_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot read the expected call"):
        mark(metric("tool_call", key="call"), PLAIN, question(call={"function": 3}))


def test_auto_marks_calls_where_the_references_make_them() -> None:
    kinds = [grader.kind for grader in auto_metrics(["", "Hi"], [question("", MESSAGE), question("Hi")])]
    assert kinds[0] == "tool_call" and "exact_match" in kinds


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "number"}, "unit": {"default": "C"}},
            "required": ["city"],
        },
    },
}


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bonn</arg_value>\n<arg_key>days</arg_key>"
        "<arg_value>2</arg_value></tool_call>",
        '<invoke name="weather"><parameter name="city">Bonn</parameter><parameter name="days">2</parameter></invoke>',
        '[TOOL_CALLS]weather[ARGS]{"city": "Bonn", "days": 2}',
        'weather{"city": "Bonn", "days": 2}',
        'function<｜tool▁sep｜>weather\n```json\n{"city": "Bonn", "days": 2}\n```',
        'functions.weather:0<|tool_call_argument_begin|>{"city": "Bonn", "days": 2}',
        'to=functions.weather <|constrain|>json<|message|>{"city": "Bonn", "days": 2}',
        '{"name": "weather", "arguments": {"days": 2.0, "city": "Bonn"}}',
        '{"name": "weather", "arguments": {"city": "Bonn", "days": 2, "unit": "C"}}',
        '{"name": "weather", "arguments": {"city": "Bonn", "days": 2, "unit": null}}',
    ],
    ids=["glm", "invoke", "mistral", "bare", "deepseek", "kimi", "gpt-oss", "order", "default", "null"],
)
def test_the_same_call_is_right_in_any_form_with_or_without_what_is_optional(text: str) -> None:
    grade = mark(metric("tool_call"), text, question("", MESSAGE, tools=[TOOL]))
    assert grade.score == 1, grade.reason


@pytest.mark.parametrize(
    "arguments",
    ['{"city": "Bonn", "days": 2, "unit": "F"}', '{"city": "Bonn", "days": "2"}', '{"city": null, "days": 2}'],
    ids=["other unit", "text for a number", "required null"],
)
def test_other_arguments_are_wrong(arguments: str) -> None:
    text = f'{{"name": "weather", "arguments": {arguments}}}'
    assert mark(metric("tool_call"), text, question("", MESSAGE, tools=[TOOL])).score == 0


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" + " " * 10**5 + "x",
        "<tool_call>" * 10**5,
        "f(" * 10**5,
        "f(x=" + "-" * 9000 + "1)",
        '{"name":' * 10**5,
    ],
    ids=["spaces", "tags", "calls", "minus", "json"],
)
def test_hostile_text_is_read_in_bounded_time(text: str) -> None:
    before = time.process_time()
    assert mark(metric("tool_call"), text, question("", MESSAGE, tools=[TOOL])).score == 0
    assert time.process_time() - before < 5


EXAMPLE = Path(__file__).parents[4] / "recipes" / "data" / "toolcalls-tiny.jsonl"


def example_questions(turns: Any) -> list[Question]:
    rows = [
        parse_row(json.loads(line), source="toolcalls-tiny.jsonl", line=number).record
        for number, line in enumerate(EXAMPLE.read_text().splitlines(), start=1)
    ]
    return questions_of(
        rows,
        turns=turns,
        by=None,
        write_answer=lambda row, history, turn: (json.dumps(turn.get("tool_calls") or turn["content"]), 1),
    )


def test_every_call_of_the_example_rows_is_evaluated_by_default() -> None:
    last, default = example_questions("last"), example_questions(EvalSection().turns)
    calls = [question for question in default if question.row["answer_kind"] == "call"]
    assert len(last) == 40 and not any(question.row["answer_kind"] == "call" for question in last)
    assert len(calls) == 47 and len(default) == 87
    graders = auto_metrics([question.reference or "" for question in default], default)
    assert graders[0].kind == "tool_call" and all(question.when == {"answer_kind": "text"} for question in graders[1:])
    right = grade(graders[0], [answer(question.reference or "") for question in default], default, GraderServices())
    assert [result.score for result in right if result] == [1] * 87
    silent = grade(graders[0], [answer("Hello!")] * 87, default, GraderServices())
    assert sum(result.score for result in silent if result) == 40
    texts = grade(graders[1], [answer(question.reference or "") for question in default], default, GraderServices())
    assert sum(result is not None for result in texts) == 40


def test_calls_of_a_completion_are_evaluated_and_those_of_its_prompt_are_not() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": CALL}]}
    result_turn = {"role": "tool", "content": "sunny"}
    prompt = [{"role": "user", "content": "?"}, call, result_turn, {"role": "user", "content": "and now?"}]
    row = {"prompt": prompt, "completion": [call, result_turn, {"role": "assistant", "content": "Sunny."}]}
    result = questions_of(
        [row], turns="auto", by=None, write_answer=lambda row, history, turn: (turn["content"] or "call", 1)
    )
    assert [(len(item.messages), item.reference) for item in result] == [(4, "call"), (6, "Sunny.")]
