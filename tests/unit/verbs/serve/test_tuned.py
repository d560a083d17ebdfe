from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from trainer.disk import write_json
from trainer.errors import StageError
from trainer.recipe import Recipe, load_recipe
from trainer.rundir import RunFolder, StageRecord
from trainer.verbs.serve.tuned import open_tuned


@pytest.fixture
def full(tmp_path: Path, tiny_model_dir: Path, tiny_tokenizer: Any) -> tuple[Recipe, RunFolder]:
    """A run that trained all weights: every one of them moved by a hundredth."""
    recipe = load_recipe(
        tiny.write_recipe(tmp_path / "project", model=tiny_model_dir, adapter={"kind": "none", "r": None})
    )
    run = RunFolder(tmp_path / "run")
    model = run.path / "train" / "model"
    shutil.copytree(tiny_model_dir, model)
    weights = {name: tensor * 1.01 for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    write_json(run.path / "pack" / "report.json", {"stop_token_id": tiny_tokenizer.convert_tokens_to_ids("</s>")})
    run.write_record(StageRecord("train", 1, "f", {}, {}))
    return recipe, run


def test_a_fully_trained_model_and_its_base_are_two_models(full: tuple[Recipe, RunFolder]) -> None:
    recipe, run = full
    tuned = open_tuned(recipe, run, "r.yaml", with_base=True)
    ids = torch.tensor([tuned.prompt_ids({"prompt": [{"role": "user", "content": "Hello"}]})])
    with tuned.untuned() as base, torch.no_grad():
        assert not torch.equal(base(ids).logits, tuned.model(ids).logits)
    assert len(tuned.stop_ids) == 2 and tuned.max_context == 512


def test_the_longest_answer_is_that_of_eval(full: tuple[Recipe, RunFolder]) -> None:
    recipe, run = full
    assert open_tuned(recipe, run, "r.yaml").max_new_tokens == 512
    tiny.write_rows(run.path / "eval" / "predictions.jsonl", [{"reference": "word " * 30}, {"reference": None}])
    tuned = open_tuned(recipe, run, "r.yaml")
    length = len(tuned.renderer.tokenizer("word " * 30, add_special_tokens=False)["input_ids"])
    assert tuned.max_new_tokens == max(32, 2 * length)


def test_other_weights_or_settings_are_another_identity(full: tuple[Recipe, RunFolder]) -> None:
    recipe, run = full
    before = open_tuned(recipe, run, "r.yaml").identity
    assert open_tuned(recipe, run, "r.yaml").identity == before
    longer = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"max_new_tokens": 7})})
    assert open_tuned(longer, run, "r.yaml").identity != before
    path = run.path / "train" / "model" / "model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    run.write_record(StageRecord("train", 1, "f", {}, {}))
    assert open_tuned(recipe, run, "r.yaml").identity != before


def test_a_merged_model_that_is_not_there_is_asked_for(full: tuple[Recipe, RunFolder]) -> None:
    with pytest.raises(StageError, match="not exported"):
        open_tuned(*full, "r.yaml", merged=True)
