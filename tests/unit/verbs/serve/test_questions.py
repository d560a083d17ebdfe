from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.data.rows.passages import with_passages
from trainer.data.served_prompt import ServedSystem, served_system
from trainer.recipe.data import DataSection
from trainer.verbs.serve.questions import read_questions

USER = {"role": "user", "content": "How many?"}


def section(**changes: Any) -> DataSection:
    return DataSection.model_validate({"sources": [{"path": "rows.jsonl"}], **changes})


def asked(tmp_path: Path, raw: Any, data: DataSection | None = None, system: ServedSystem | None = None) -> Any:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(raw) + "\n", encoding="utf-8")
    data = data or section()
    [actual] = read_questions(path, data, system or served_system(data, tmp_path / "train.jsonl"))
    return actual


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": "How many?"},
        {"prompt": [USER]},
        {"prompt": "How many?", "completion": "Three"},
        {"question": "How many?", "answer": "Three", "id": 7},
        {"messages": [USER]},
        {"messages": [USER, {"role": "assistant", "content": "Three"}]},
        {"conversations": [{"from": "human", "value": "How many?"}]},
        {"conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Three"}]},
        {"instruction": "How many?"},
        {"instruction": "How many?", "input": "", "output": "Three"},
        {"prompt": [USER], "chosen": "Three", "rejected": "Four"},
        {"inputs": "How many?"},
        {"dialog": ["How many?"]},
        {"items": [{"from": "human", "value": "How many?"}]},
        {"contents": [{"role": "user", "parts": [{"text": "How many?"}]}]},
        {"custom_id": "1", "body": {"messages": [USER]}},
        {"input": {"messages": [USER]}, "preferred_output": "Three", "non_preferred_output": "Four"},
    ],
    ids=lambda raw: "+".join(raw),
)
def test_every_layout_asks_its_question_without_its_answer(tmp_path: Path, raw: Any) -> None:
    actual = asked(tmp_path, raw)
    assert actual.fault is None and actual.row["prompt"] == [USER] and actual.raw == raw


def test_a_conversation_keeps_its_earlier_answers(tmp_path: Path) -> None:
    turns = [USER, {"role": "assistant", "content": "Three"}, {"role": "user", "content": "And now?"}]
    assert asked(tmp_path, {"messages": turns}).row["prompt"] == turns


@pytest.mark.parametrize(
    "asked_by", [{"question": "How many?"}, {"instruction": "How many?"}], ids=["question", "task"]
)
def test_passages_stand_before_the_question_as_in_training(tmp_path: Path, asked_by: dict[str, str]) -> None:
    row = asked(tmp_path, {**asked_by, "documents": ["Three."]}).row
    assert row["prompt"] == with_passages([USER], ["Three."])


def test_tools_travel_with_the_question(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "count", "parameters": {}}}
    assert asked(tmp_path, {"messages": [USER], "tools": [tool]}).row["tools"] == [tool]


def test_the_recipes_mapping_is_used_where_its_columns_are(tmp_path: Path) -> None:
    data = section(sources=[{"path": "rows.csv", "mapping": {"prompt": "text", "completion": "label"}}])
    assert asked(tmp_path, {"text": "How many?"}, data).row["prompt"] == [USER]
    assert asked(tmp_path, {"text": "How many?", "label": "Three"}, data).row["prompt"] == [USER]
    assert asked(tmp_path, {"prompt": "How many?"}, data).row["prompt"] == [USER]


def test_the_recipes_system_prompt_stands_first_unless_the_row_has_one(tmp_path: Path) -> None:
    data = section(system_prompt={"text": "Be brief."})
    custom = {"role": "system", "content": "Be kind."}
    assert asked(tmp_path, {"prompt": "How many?"}, data).row["prompt"][0]["content"] == "Be brief."
    assert asked(tmp_path, {"messages": [custom, USER]}, data).row["prompt"][0] == custom


def test_the_system_prompt_of_the_training_rows_stands_first_unless_the_row_has_one(tmp_path: Path) -> None:
    system, custom = ServedSystem("Be brief."), {"role": "developer", "content": "Be kind."}
    assert asked(tmp_path, {"prompt": "How many?"}, system=system).row["prompt"][0]["content"] == "Be brief."
    row = asked(tmp_path, {"messages": [custom, USER]}, system=system).row
    assert row["prompt"] == [{"role": "system", "content": "Be kind."}, USER]


def test_a_row_without_a_system_prompt_is_refused_where_training_always_had_one_of_several(tmp_path: Path) -> None:
    needed, custom = ServedSystem(None, "2 different", is_needed=True), {"role": "system", "content": "Be kind."}
    assert asked(tmp_path, {"prompt": "How many?"}, system=needed).fault == ("no_system_prompt", "2 different")
    assert asked(tmp_path, {"messages": [custom, USER]}, system=needed).fault is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([1, 2], "not_an_object"),
        ({"colour": "red"}, "unknown_format"),
        ({"text": "Once upon a time"}, "unknown_format"),
        ({"prompt": "  "}, "empty_content"),
        ({"messages": []}, "empty_messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "unknown_role"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "empty_messages"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "bad_role_order"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_says_why(tmp_path: Path, raw: Any, reason: str) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps([raw]), encoding="utf-8")
    [actual] = read_questions(path, section(), ServedSystem(None))
    assert actual.fault is not None and actual.fault[0] == reason and actual.row == {}
