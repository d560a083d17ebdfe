"""Rows of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.errors import DataError, RecipeError
from trainer.verbs.bench.rows import random_rows, read_rows
from trainer.verbs.bench.run import Options, run

PAIR = {"prompt": "Who?", "chosen": "Me.", "rejected": "You."}


def written(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert random_rows("dpo", 3, seed=1) == random_rows("dpo", 3, seed=1) != random_rows("dpo", 3, seed=2)


def test_answers_are_about_thirty_percent_of_the_words() -> None:
    turns = [row["messages"] for row in random_rows("sft", 500, seed=0)]
    request, answered = (sum(len(turn[side]["content"].split()) for turn in turns) for side in (0, 1))
    assert 0.25 < answered / (request + answered) < 0.33


def test_a_pair_is_a_conversation_with_its_chosen_answer_for_sft(tmp_path: Path) -> None:
    path = written(tmp_path, PAIR)
    assert set(read_rows(path, "dpo")[0]) == {"prompt", "chosen", "rejected"}
    assert [turn["content"] for turn in read_rows(path, "sft")[0]["messages"]] == ["Who?", "Me."]


def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no preference pair"):
        read_rows(written(tmp_path, PAIR, {"prompt": "a", "completion": "b"}), "dpo")
    with pytest.raises(DataError, match=r"rows\.jsonl:1"):
        read_rows(written(tmp_path, {"nothing": "known"}), "sft")
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.jsonl", "sft")


def test_only_conversations_are_compared(tmp_path: Path) -> None:
    for row in ({"text": "Once upon a time."}, {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}):
        with pytest.raises(DataError, match=r"rows\.jsonl:1: a row of `\w+`: engines are compared on conversations"):
            read_rows(written(tmp_path, row), "sft")


def test_a_folder_is_no_place_for_a_result(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        run(Options("pack", quick=True, json_path=str(tmp_path)))
