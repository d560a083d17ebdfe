"""Rows that become items of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import tiny
from trainer.errors import DataError
from trainer.recipe.load import load_suite
from trainer.scoring.questions.suite import read_items
from trainer.verbs.inspect.collect import add_to_suite
from trainer.verbs.inspect.rows import InspectedRow

ROWS = [
    InspectedRow("heldout", index, {**row, "source": "rows.jsonl", "line": index + 1})
    for index, row in enumerate(tiny.rows(3))
]


def changed(row: InspectedRow, **record: Any) -> InspectedRow:
    return InspectedRow(row.side, row.index, {**row.record, **record})


def test_a_new_suite_holds_the_row_and_can_be_run(tmp_path: Path) -> None:
    suite = tmp_path / "failures.yaml"
    assert add_to_suite(ROWS[0], suite).is_new and add_to_suite(ROWS[1], suite).is_new
    items = read_items(load_suite(suite))
    turns = [row.record["messages"] for row in ROWS[:2]]
    assert [question.messages for question in items.questions] == [messages[:-1] for messages in turns]
    assert [question.reference for question in items.questions] == [messages[-1]["content"] for messages in turns]
    assert [question.id for question in items.questions] == ["failures/rows.jsonl:1", "failures/rows.jsonl:2"]
    assert list(items.metrics) == ["exact_match"]


def test_a_row_is_added_once(tmp_path: Path) -> None:
    suite = tmp_path / "failures.yaml"
    first = add_to_suite(ROWS[0], suite)
    before = first.items.read_bytes()
    assert not add_to_suite(ROWS[0], suite).is_new and first.items.read_bytes() == before


def test_an_id_that_stands_for_another_row_is_refused(tmp_path: Path) -> None:
    suite = tmp_path / "failures.yaml"
    add_to_suite(ROWS[0], suite)
    with pytest.raises(DataError, match=r"another item called 'rows.jsonl:1'"):
        add_to_suite(changed(ROWS[1], line=1), suite)


def test_the_graders_of_a_suite_go_before_exact_match(tmp_path: Path) -> None:
    suite = tmp_path / "own.yaml"
    suite.write_text(
        "suite_version: 1\nname: own\nsystem_prompt: Be short.\ngraders: [{kind: contains}]\n"
        "sources: [{path: choices.jsonl, graders: [{kind: multiple_choice}]}, {path: more.jsonl}]\n"
    )
    (tmp_path / "choices.jsonl").write_text('{"id": "a", "prompt": "?", "reference": "x", "choices": ["x", "y"]}\n')
    (tmp_path / "more.jsonl").write_text('{"id": "b", "prompt": "?", "reference": "x"}')  # no line end
    assert add_to_suite(ROWS[0], suite).items == tmp_path / "more.jsonl"
    assert not add_to_suite(ROWS[0], suite).is_new
    items = read_items(load_suite(suite))
    assert [[grader.kind for grader in custom] for custom in items.graders] == [
        ["multiple_choice"],
        ["contains"],
        ["contains"],
    ]


def test_calls_and_preferred_answers_are_asked_for(tmp_path: Path) -> None:
    suite = tmp_path / "failures.yaml"
    call = {"type": "function", "function": {"name": "find", "arguments": {"city": "Bonn"}}}
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    add_to_suite(
        InspectedRow("heldout", 0, {"messages": turns, "tools": [{"x": 1}], "source": "calls", "line": 1}), suite
    )
    pair = tiny.preference_rows(1)[0]
    add_to_suite(InspectedRow("heldout", 1, {**pair, "source": "pairs", "line": 1}), suite)
    calls, preferred = read_items(load_suite(suite)).questions
    assert calls.row == {"tools": [{"x": 1}], "tool_calls": [call]}
    assert [[g.kind for g in custom] for custom in read_items(load_suite(suite)).graders] == [
        ["tool_call"],
        ["exact_match"],
    ]
    assert preferred.reference == pair["chosen"][-1]["content"] and preferred.messages[0]["role"] == "user"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("items: [{id: a, prompt: b, reference: c}]\ngraders: [{kind: exact_match}]", "no file to add to"),
        ("sources: [{path: a.jsonl, graders: [{kind: exact_match}]}]", "no file to add to"),
        ("sources: [{path: a.jsonl, max_items: 3}]", "no file to add to"),
    ],
)
def test_a_suite_without_a_fitting_file_says_what_to_add(tmp_path: Path, text: str, message: str) -> None:
    suite = tmp_path / "own.yaml"
    suite.write_text(f"suite_version: 1\nname: own\n{text}\n")
    with pytest.raises(DataError, match=message) as caught:
        add_to_suite(ROWS[0], suite)
    assert "own-added.jsonl" in caught.value.hint and not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize("record", [{"text": "plain"}, {"messages": [{"role": "user", "content": "only asked"}]}])
def test_a_row_without_an_answer_is_refused(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="does not end with an answer"):
        add_to_suite(InspectedRow("heldout", 0, {**record, "source": "a", "line": 1}), tmp_path / "failures.yaml")
    assert not list(tmp_path.iterdir())


def test_a_file_that_stands_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "failures.jsonl").write_bytes(orjson.dumps({"mine": 1}))
    for name in ("failures.yaml", "failures.jsonl"):
        with pytest.raises(DataError):
            add_to_suite(ROWS[0], tmp_path / name)
    assert (tmp_path / "failures.jsonl").read_bytes() == b'{"mine":1}'
