"""Stepping in the backward pass: what stands in its way is refused, with the settings that make it work."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import RecipeError
from trainer.recipe import Recipe, load_recipe
from trainer.recipe.schema import obstacles

START = """\
recipe_version: 1
name: x
model: {name_or_path: org/model}
adapter: {kind: none}
data: {sources: [{path: rows.jsonl}]}
train: {optimizer_in_backward: true, max_grad_norm: 0, global_batch_size: 8}
"""


def refused(folder: Path, *sets: str) -> str:
    path = folder / "r.yaml"
    path.write_text(START, encoding="utf-8")
    try:
        load_recipe(path, sets=list(sets))
    except RecipeError as error:
        return " ".join(map(str, error.problems))
    return ""


def test_it_works_alone_and_with_a_whole_micro_batch(tmp_path: Path) -> None:
    for sets in ([], ["train.micro_batch_size=8"], ["launch.num_processes=1"], ["model.dtype=bfloat16"]):
        assert refused(tmp_path, *sets) == ""


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        ("train.max_grad_norm", "1.0", "train.max_grad_norm=0"),
        ("train.micro_batch_size", "2", "train.micro_batch_size=8"),
        ("launch.num_processes", "2", "launch.num_processes=1"),
        ("launch.num_nodes", "2", "launch.num_nodes=1"),
        ("launch.strategy", "fsdp2", "launch.strategy=auto"),
        ("launch.strategy", "zero3", "launch.strategy=auto"),
        ("model.dtype", "float16", "model.dtype=bfloat16"),
        ("adapter.kind", "lora", "adapter.kind=none"),
    ],
)
def test_what_cannot_work_is_refused_with_the_setting_that_does(
    tmp_path: Path, setting: str, value: str, fix: str
) -> None:
    message = refused(tmp_path, f"{setting}={value}")
    assert "train.optimizer_in_backward" in message and fix in message
    changed, _, back = fix.partition(" ")[0].partition("=")
    assert refused(tmp_path, f"{changed}={back}") == ""
    assert refused(tmp_path, f"{setting}={value}", "train.optimizer_in_backward=auto") == ""


def test_all_obstacles_are_named_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, "train.max_grad_norm=1.0", "train.micro_batch_size=2")
    assert "train.max_grad_norm=0" in message and "train.micro_batch_size=8" in message


@pytest.mark.parametrize(
    ("clip", "processes", "accumulation", "expected"),
    [(0, 1, 1, True), (0, None, None, True), (0, 1, 2, False), (1, 1, 1, False), (0, 2, 1, False)],
)
def test_nothing_stands_in_the_way_of_one_process_one_micro_batch_and_no_clipping(
    clip: float, processes: int | None, accumulation: int | None, expected: bool
) -> None:
    recipe = Recipe.model_validate(
        {
            "recipe_version": 1,
            "name": "x",
            "model": {"name_or_path": "org/model"},
            "adapter": {"kind": "none"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "train": {"global_batch_size": 8, "max_grad_norm": clip},
        }
    )
    assert (obstacles(recipe, processes=processes, accumulation=accumulation) == []) is expected
