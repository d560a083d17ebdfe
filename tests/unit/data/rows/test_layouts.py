"""Ordinary layouts are read whole, and no column is lost without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from trainer.data.records.reasons import RowError
from trainer.data.rows.layouts import LAYOUTS, layout_table
from trainer.data.rows.parse import Parsed, parse_row
from trainer.data.rows.passages import with_passages
from trainer.recipe.data import Format

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
SYSTEM = {"role": "system", "content": "be kind"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds"}}]


def parse(row: dict[str, Any], **options: Any) -> Parsed:
    return parse_row(row, source="f", line=1, **options)


def messages(row: dict[str, Any], **options: Any) -> Any:
    return parse(row, **options).record["messages"]


def said(content: object, **more: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": content, **more}]}


def test_the_list_of_layouts_names_every_format_once_and_stands_in_the_docs() -> None:
    assert sorted(layout.name for layout in LAYOUTS) == sorted(set(get_args(Format)) - {"auto"})
    docs = Path(__file__).parents[4] / "docs" / "data.md"
    assert f"\n{layout_table()}\n" in docs.read_text(encoding="utf-8")


LIKE: list[tuple[str, dict[str, Any]]] = [
    ("prompt_completion", {"inputs": "hi", "targets": "hello"}),
    ("prompt_completion", {"input": "hi", "target": "hello"}),
    ("prompt_completion", {"question": "hi", "answers": ["hello"]}),
    ("alpaca", {"instruction": "hi", "completion": "hello"}),
    ("dialog", {"dialog": ["hi", "hello"]}),
    ("dialog", {"utterances": ["hi", "hello"]}),
    ("sharegpt", {"items": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}),
    (
        "gemini",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": [{"text": "hello"}]}]},
    ),
    ("openai_batch", {"body": {"messages": [USER]}, "response": {"body": {"choices": [{"message": ANSWER}]}}}),
    ("openai_batch", {"body": {"messages": [USER, ANSWER], "model": "m"}}),
    ("messages", {"messages": "[{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'hello'}]"}),
    ("messages", {"messages": "[{'role': 'user', 'content': 'hi'}\n {'role': 'assistant', 'content': 'hello'}]"}),
    ("prompt_completion", {"prompt": "[{'role': 'user', 'content': 'hi'}]", "completion": "hello"}),
    ("messages", said({"type": "text", "text": "hello"})),
]


@pytest.mark.parametrize(("layout", "row"), LIKE, ids=range(len(LIKE)))
def test_further_layouts_become_the_same_messages(layout: str, row: dict[str, Any]) -> None:
    parsed = parse(row)
    assert (parsed.format, parsed.record["messages"]) == (layout, [USER, ANSWER])


VALUES: dict[str, tuple[object, str]] = {
    "object": ({"colour": "red", "n": 0}, '{"colour": "red", "n": 0}'),
    "list": (["a", "b"], '["a", "b"]'),
    "list of objects": ([{"name": "é"}], '[{"name": "é"}]'),
    "empty list": ([], "[]"),
    "empty object": ({}, "{}"),
    "number": (4, "4"),
    "decimal": (2.50, "2.5"),
    "truth value": (True, "true"),
}


@pytest.mark.parametrize(("value", "text"), VALUES.values(), ids=VALUES)
def test_an_answer_that_is_no_text_is_json_text_and_that_is_said(value: object, text: str) -> None:
    for row in ({"instruction": "hi", "output": value}, {"prompt": "hi", "completion": value}):
        parsed = parse(row)
        assert parsed.record["messages"][1] == {"role": "assistant", "content": text}
        assert parsed.notes == {"json_text"}


@pytest.mark.parametrize("result", [{"state": "in town"}, [1, 2], [], 3, [{"text": "a", "n": 1}]], ids=str)
def test_a_tool_result_may_be_any_json(result: object) -> None:
    turns = [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": result}, ANSWER]
    import json

    assert messages({"messages": turns})[2]["content"] == json.dumps(result)


@pytest.mark.parametrize("arguments", ["", " ", "null", None, {}, "{}", []], ids=repr)
def test_no_arguments_are_an_empty_object(arguments: object) -> None:
    row = said(None, tool_calls=[{"function": {"name": "f", "arguments": arguments}}])
    assert messages(row)[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_arguments_that_cannot_be_read_are_shown() -> None:
    with pytest.raises(RowError, match="text that is no JSON: a=1"):
        parse(said(None, tool_calls=[{"function": {"name": "f", "arguments": "a=1"}}]))


@pytest.mark.parametrize(
    "tools",
    [
        {"tools": ['{"name": "add", "description": "adds"}']},
        {"functions": [TOOLS[0]["function"]]},
        {"functions": '[{"name": "add", "description": "adds"}]'},
        {"tools": "[{'name': 'add', 'description': 'adds'}]"},
        {"tools": {"name": "add", "description": "adds"}},
        {"tools": [{"functionDeclarations": [{"name": "add", "description": "adds"}]}]},
    ],
    ids=range(6),
)
def test_tools_in_every_spelling_are_the_tools_of_the_row(tools: dict[str, Any]) -> None:
    parsed = parse({**said(None, function_call={"name": "add", "arguments": '{"a": 1}'}), **tools})
    assert parsed.record["tools"] == TOOLS and "metadata" not in parsed.record
    assert parsed.record["messages"][1]["tool_calls"] == [CALL]


CALLED = [
    '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
    'Let me see.\n<function_call>{"name": "f"}</function_call>',
    '[TOOL_CALLS] [{"name": "f"}]',
    '{"name": "f", "parameters": {}}',
    "<|python_tag|>f()",
    "Thought: hm\nAction: f",
]


@pytest.mark.parametrize("text", CALLED, ids=range(len(CALLED)))
def test_a_call_written_as_text_may_be_answered_and_stays_text(text: str) -> None:
    turns = [USER, {"role": "assistant", "content": text}, {"role": "tool", "content": "ok"}, ANSWER]
    parsed = parse({"messages": turns})
    assert parsed.record["messages"] == turns and parsed.notes == {"calls_as_text"}


def test_a_tool_turn_after_plain_words_is_still_refused() -> None:
    with pytest.raises(RowError, match="no tool was called"):
        parse({"messages": [USER, ANSWER, {"role": "tool", "content": "ok"}, ANSWER]})


# Passages


PASSAGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "text": ({"context": "one"}, ["one"]),
    "list": ({"passages": ["one", "two"]}, ["one", "two"]),
    "objects": ({"documents": [{"title": "T", "text": "one"}, {"content": "two"}]}, ["T\none", "two"]),
    "object of lists": ({"passages": {"passage_text": ["one", "two"], "is_selected": [0, 1]}}, ["one", "two"]),
    "sentences": ({"context": {"title": ["T"], "sentences": [["one", " two"]]}}, ["T\none two"]),
    "python text": ({"contexts": "['one', 'two']"}, ["one", "two"]),
    "text with a bracket": ({"context": "[1] one"}, ["[1] one"]),
}


@pytest.mark.parametrize(("columns", "passages"), PASSAGES.values(), ids=PASSAGES)
def test_passages_stand_before_the_question_as_eval_puts_them(columns: dict[str, Any], passages: list[str]) -> None:
    for row in ({"question": "hi", "answer": "hello"}, {"prompt": "hi", "completion": "hello"}):
        parsed = parse({**row, **columns})
        assert (parsed.format, parsed.unused) == ("rag", [])
        assert parsed.record["messages"] == [*with_passages([USER], passages), ANSWER]
    assert all(passage in parsed.record["messages"][0]["content"] for passage in passages)


def test_a_row_of_squad_has_its_passage_and_first_answer() -> None:
    row = {"id": "1", "context": "P", "question": "hi", "answers": {"text": ["hello", "hey"], "answer_start": [1, 2]}}
    parsed = parse(row)
    assert parsed.record["messages"] == [*with_passages([USER], ["P"]), ANSWER]
    assert parsed.notes == {"first_answer"} and parsed.unused == ["id"]
    with pytest.raises(RowError, match="`answers` names no answer") as caught:
        parse({**row, "answers": {"text": [], "answer_start": []}})
    assert caught.value.reason == "empty_content"


def test_a_passage_can_be_left_out_or_put_before_turns_on_purpose() -> None:
    row = {"question": "hi", "context": "P", "answer": "hello"}
    left_out = parse(row, mapping={"context": ""})
    assert (left_out.format, left_out.record["messages"]) == ("prompt_completion", [USER, ANSWER])
    assert left_out.record["metadata"] == {"context": "P"}
    turns = {"messages": [USER, ANSWER, USER, ANSWER], "documents": ["P"]}
    assert messages(turns, format="rag") == [USER, ANSWER, *with_passages([USER], ["P"]), ANSWER]
    assert parse(turns).unused == ["documents"]


def test_dollys_context_is_alpacas_input_and_other_passages_are_not_lost() -> None:
    assert messages({"instruction": "hi", "context": "c", "response": "hello"})[0]["content"] == "hi\nc"
    row = {"instruction": "hi", "input": "x", "context": "P", "output": "hello"}
    assert messages(row)[0] == with_passages([{"role": "user", "content": "hi\nx"}], ["P"])[0]


# Columns beside the turns


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_a_system_column_is_the_system_turn(name: str) -> None:
    assert messages({name: "be kind", "question": "hi", "response": "hello"}) == [SYSTEM, USER, ANSWER]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking", "chain_of_thought"])
def test_a_reasoning_column_belongs_to_the_answer(name: str) -> None:
    thought = {**ANSWER, "reasoning_content": "hm"}
    assert messages({"question": "hi", name: "hm", "answer": "hello"}) == [USER, thought]


@pytest.mark.parametrize("name", ["reasoning", "thoughts", "reasoning_content"])
def test_reasoning_in_a_turn_is_kept_under_the_name_that_templates_know(name: str) -> None:
    assert messages(said("hello", **{name: "hm"})) == [USER, {**ANSWER, "reasoning_content": "hm"}]


def test_harmonys_analysis_is_the_reasoning_of_the_answer_after_it() -> None:
    turns = [USER, {**ANSWER, "content": "hm", "channel": "analysis"}, {**ANSWER, "channel": "final"}]
    assert messages({"messages": turns}) == [USER, {**ANSWER, "reasoning_content": "hm"}]


def test_gemini_rows_keep_system_calls_results_and_tools() -> None:
    row = {
        "systemInstruction": {"parts": [{"text": "be kind"}]},
        "tools": [{"functionDeclarations": [{"name": "add"}]}],
        "contents": [
            {"role": "user", "parts": [{"text": "h"}, {"text": "i"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "add", "args": {"a": 1}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "add", "response": {"sum": 2}}}]},
            {"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "hello"}]},
        ],
    }
    parsed = parse(row)
    result = {"role": "tool", "content": '{"sum": 2}', "name": "add"}
    calling = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert parsed.record["messages"] == [SYSTEM, USER, calling, result, {**ANSWER, "reasoning_content": "hm"}]
    assert parsed.record["tools"] == [{"type": "function", "function": {"name": "add"}}] and parsed.unused == []
    with pytest.raises(RowError, match="inlineData"):
        parse({"contents": [{"role": "user", "parts": [{"inlineData": {}}]}]})


def test_a_request_without_its_answer_says_where_to_find_it() -> None:
    with pytest.raises(RowError, match="custom_id") as caught:
        parse({"custom_id": "1", "url": "/v1", "body": {"messages": [USER]}})
    assert caught.value.reason == "no_assistant_turn"


TELLING = [
    "label",
    "intent",
    "summary",
    "sentiment",
    "context",
    "image",
    "prompt",
    "answer",
    "target",
    "tools",
    "reasoning",
]


@pytest.mark.parametrize("name", TELLING)
def test_text_beside_a_column_that_says_what_to_learn_is_never_guessed(name: str) -> None:
    with pytest.raises(RowError, match=f"columns text, {name}: .*format: text") as caught:
        parse({"text": "abc", name: "x"})
    assert caught.value.reason == "unknown_format"
    assert parse({"text": "abc", name: "x"}, format="text").record["metadata"] == {name: "x"}
    assert parse({"text": "abc", name: None, "url": "u", "title": "t"}).format == "text"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "hi", "completion": None}, "completion"),
        ({"prompt": None, "completion": "hello"}, "prompt"),
        ({"prompt": "hi", "completion": float("nan")}, "completion"),
        ({"instruction": "hi", "input": "", "output": None}, "output"),
        ({"messages": None, "id": 1}, "messages"),
        ({"text": None}, "text"),
        ({"prompt": "hi", "chosen": None, "rejected": "b"}, "chosen"),
    ],
    ids=range(7),
)
def test_a_null_is_told_as_such(row: dict[str, Any], name: str) -> None:
    with pytest.raises(RowError, match=f"`{name}` is null") as caught:
        parse(row)
    assert caught.value.reason == "empty_content"


IMAGES: list[dict[str, Any]] = [
    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nhi"}, {"from": "gpt", "value": "hello"}]},
    {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>hi"}, ANSWER]},
    {"image": {"bytes": b"x", "path": None}, "question": "hi", "answer": "hello"},
    {"video": "a.mp4", "messages": [{"role": "user", "content": "<video>hi"}, ANSWER]},
]


@pytest.mark.parametrize("row", IMAGES, ids=range(len(IMAGES)))
def test_a_row_about_an_image_is_refused_by_the_name_of_its_column(row: dict[str, Any]) -> None:
    with pytest.raises(RowError, match=rf"column `{next(iter(row))}`.*only text"):
        parse(row)


def test_a_path_of_an_image_that_no_text_points_at_is_only_not_used() -> None:
    row = {"image": "a.png", "question": "what is <b>?", "answer": "hello"}
    assert parse(row).unused == ["image"]


def test_used_and_unused_columns_are_told_by_the_names_of_the_file() -> None:
    row = {"q": "hi", "sql": "hello", "prompt": "old", "id": 1, "empty": "", "none": None, "list": []}
    parsed = parse(row, mapping={"prompt": "q", "completion": "sql"})
    assert (parsed.used, parsed.unused) == (["q", "sql"], ["id", "prompt"])
    turns = [{**USER, "time": 3}, {**ANSWER, "audio": None, "image_url": "u"}]
    assert parse({"messages": turns}).unused == ["messages[].image_url", "messages[].time"]


@pytest.mark.parametrize("names", [("Question", "Answer"), ("PROMPT", "Completion "), ("Instruction", "Output")])
def test_names_of_columns_in_capitals_are_read(names: tuple[str, str]) -> None:
    parsed = parse_row({names[0]: "q", names[1]: "a", "Category": "x"}, source="f", line=1)
    assert [turn["content"] for turn in parsed.record["messages"]] == ["q", "a"]
    assert parsed.used == list(names) and parsed.record["metadata"] == {"Category": "x"}


def test_columns_in_capitals_beside_a_layout_stay_what_they_are() -> None:
    record = parse_row({"prompt": "q", "completion": "a", "Context": "c"}, source="f", line=1).record
    assert record["metadata"] == {"Context": "c"}


def test_a_turn_without_a_role_names_its_keys() -> None:
    row = {"messages": [{"speaker": "user", "text": "q"}, {"speaker": "assistant", "text": "a"}]}
    with pytest.raises(RowError, match=r"no `role` .* its keys are speaker, text: rename them to role and content"):
        parse_row(row, source="f", line=1)
