"""Which system prompt a question without one gets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import tiny
from trainer.data.served_prompt import ServedSystem, served_system
from trainer.digests import hash_value
from trainer.recipe.data import DataSection
from trainer.recipe.method import SftMethod
from trainer.stages import data as stage
from trainer.verbs.serve.questions import read_questions


@dataclass
class Context:
    """What a stage is given."""

    dir: Path
    numbers: dict[str, Any] = field(default_factory=dict)

    def input(self, name: str, file: str) -> Path:
        return self.dir / "none" / file

    def say(self, text: str) -> None:
        pass


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
    assert system.text == "A" and "all 3 training rows" in system.sentence and not system.is_needed


def test_the_one_of_nearly_all_rows_is_used_and_the_share_is_said(tmp_path: Path) -> None:
    system = served(tmp_path, [row("A")] * 18 + [row("B"), row(None)])
    assert system.text == "A" and "18 of 20 training rows" in system.sentence


def test_where_rows_have_several_one_is_needed(tmp_path: Path) -> None:
    system = served(tmp_path, [row("A")] * 3 + [row("B")] * 3)
    assert system.text is None and system.is_needed and "2 different system prompts" in system.sentence


def test_where_a_share_of_rows_had_none_a_question_is_asked_without_one(tmp_path: Path) -> None:
    system = served(tmp_path, [row("A")] * 3 + [row(None)])
    assert (
        system.text is None and not system.is_needed and "1 of 4 training rows have no system turn" in system.sentence
    )


@pytest.mark.parametrize("rows", [[], [row(None)], [{"text": "Once"}], [{"input_ids": [1]}]], ids=str)
def test_training_without_system_prompts_says_nothing(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert served(tmp_path, rows) == ServedSystem(None)


def test_the_recipes_own_is_used_whatever_the_rows_have(tmp_path: Path) -> None:
    system = served(tmp_path, [row("A"), row("B")], system_prompt={"text": "C"})
    assert system.text == "C" and "data.system_prompt" in system.sentence
    (tmp_path / "c.txt").write_text("from a file\n")
    assert served(tmp_path, [], system_prompt={"path": str(tmp_path / "c.txt")}).text == "from a file"


CHANGED = {
    "a block of YAML ends in a line": ("Answer in one word.\n", {}),
    "space": ("  One.\n\nTwo. \n Three.  ", {}),
    "line ends of Windows": ("Line one.\r\nLine two.", {}),
    "invisible characters": ("Answer\u200b in one word.", {}),
    "decomposed letters": ("Re\u0301pondez.", {}),
    "entities": ("Answer &amp; go.", {"clean": {"html": True}}),
    "special tokens": ("You are helpful.<|im_end|>", {}),
    "cleaning switched off": ("Answer in one word.\n", {"clean": {"whitespace": False}}),
    "an address": ("Write to help@example-corp.com or call.", {"pii": {"types": {"email": "redact"}}}),
    "another one for each run": ("Write to help@example-corp.com.", {"pii": {"types": {"email": "pseudonymise"}}}),
}


@pytest.mark.parametrize("when", ["missing", "replace"])
@pytest.mark.parametrize(("text", "more"), CHANGED.values(), ids=CHANGED)
def test_it_is_served_as_the_rows_were_trained_with_it(
    tmp_path: Path, text: str, more: dict[str, Any], when: str
) -> None:
    rows = [row("Their own." if number % 3 else None) for number in range(30)]
    for number, each in enumerate(rows):
        each["messages"][-2]["content"] = f"How many of {hash_value(number)}?"
        each["messages"][-1]["content"] = hash_value(-number)
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    data = DataSection.model_validate(
        {"sources": [{"path": str(tmp_path / "rows.jsonl")}], "system_prompt": {"text": text, "when": when}, **more}
    )
    (tmp_path / "data").mkdir()
    context = Context(tmp_path / "data")
    stage.run(SimpleNamespace(name="x", seed=1, method=SftMethod(kind="sft"), data=data), context)  # type: ignore[arg-type]
    train = tmp_path / "data" / "train.jsonl"
    trained = {json.loads(line)["messages"][0]["content"] for line in train.read_text().splitlines()} - {"Their own."}
    system = served_system(data, train)
    if when == "missing" and "pseudonymise" in str(more):
        assert "which no training row has" in system.sentence
        return
    assert {system.text} == trained
    tiny.write_rows(tmp_path / "in.jsonl", [{"prompt": "Hi?"}, {"system": "Mine.", "prompt": "Hi?"}])
    bare, with_system = [
        prompt.row["prompt"][0]["content"] for prompt in read_questions(tmp_path / "in.jsonl", data, system)
    ]
    assert bare == system.text and with_system == ("Mine." if when == "missing" else system.text)


def test_a_run_without_its_rows_has_none(tmp_path: Path) -> None:
    data = DataSection.model_validate({"sources": [{"path": "rows.jsonl"}]})
    assert served_system(data, tmp_path / "train.jsonl") == ServedSystem(None)
