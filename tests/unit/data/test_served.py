"""Which system prompt a question without one gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from trainer.data.served import ServedSystem, served_system
from trainer.recipe.data import DataSection


def row(system: str | None, key: str = "messages") -> dict[str, Any]:
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": "How many?"})
    if key == "prompt":
        return {"prompt": turns, "chosen": [{"role": "assistant", "content": "3"}]}
    return {"messages": [*turns, {"role": "assistant", "content": "3"}]}


def served(tmp_path: Path, rows: list[dict[str, Any]], **data: Any) -> ServedSystem:
    path = tmp_path / "train.jsonl"
    tiny.write_rows(path, rows)
    return served_system(DataSection.model_validate({"sources": [{"path": "rows.jsonl"}], **data}), path)


@pytest.mark.parametrize("key", ["messages", "prompt"])
def test_the_one_that_all_rows_share_is_used(tmp_path: Path, key: str) -> None:
    system = served(tmp_path, [row("A", key)] * 3)
    assert system.text == "A" and "all 3 training rows" in system.said and not system.is_needed


def test_the_one_of_nearly_all_rows_is_used_and_the_share_is_said(tmp_path: Path) -> None:
    system = served(tmp_path, [row("A")] * 18 + [row("B"), row(None)])
    assert system.text == "A" and "18 of 20 training rows" in system.said


def test_where_rows_have_several_one_is_needed(tmp_path: Path) -> None:
    system = served(tmp_path, [row("A")] * 3 + [row("B")] * 3)
    assert system.text is None and system.is_needed and "2 different system prompts" in system.said


def test_where_a_share_of_rows_had_none_a_question_is_asked_without_one(tmp_path: Path) -> None:
    system = served(tmp_path, [row("A")] * 3 + [row(None)])
    assert system.text is None and not system.is_needed and "1 of 4 training rows have no system turn" in system.said


@pytest.mark.parametrize("rows", [[], [row(None)], [{"text": "Once"}], [{"input_ids": [1]}]], ids=str)
def test_training_without_system_prompts_says_nothing(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert served(tmp_path, rows) == ServedSystem(None)


def test_the_recipes_own_is_used_whatever_the_rows_have(tmp_path: Path) -> None:
    system = served(tmp_path, [row("A"), row("B")], system_prompt={"text": "C"})
    assert system.text == "C" and "data.system_prompt" in system.said
    (tmp_path / "c.txt").write_text("from a file\n")
    assert served(tmp_path, [], system_prompt={"path": str(tmp_path / "c.txt")}).text == "from a file"


def test_a_run_without_its_rows_has_none(tmp_path: Path) -> None:
    data = DataSection.model_validate({"sources": [{"path": "rows.jsonl"}]})
    assert served_system(data, tmp_path / "train.jsonl") == ServedSystem(None)
