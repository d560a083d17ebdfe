"""A mixture of experts in 4 bits, with ranks of its own, resumed from a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.command import Project
from tests.zoo import models

pytestmark = pytest.mark.slow


def test_a_resumed_training_of_experts_in_four_bits_is_the_uninterrupted_one(tmp_path: Path) -> None:
    model = models.write("gpt_oss", tmp_path / "model", tiny.make_tokenizer())
    project = Project(tmp_path / "run")
    adapter = {"kind": "qlora", "r": 2, "rank_pattern": {"experts.down_proj": 4}, "layers_to_transform": [1]}
    train = {"max_steps": 4, "save_steps": 1, "save_total_limit": 9}
    tiny.write_recipe(project.folder, model=model, adapter=adapter, train=train)
    weights = []
    for verb, *options in (["data"], ["pack"], ["train"], ["train", "--resume-from", "step_000002"]):
        result = project.call(verb, *options, worker=verb == "train")
        assert result.code == 0, result.text
        if verb == "train":
            weights.append(load_file(project.run / "train/adapter/adapter_model.safetensors"))
            record = project.run / "train/stage.json"
            numbers = json.loads(record.read_text())["numbers"]
            record.unlink()
            shutil.rmtree(project.run / "train/adapter")
    whole, resumed = weights
    assert whole.keys() == resumed.keys() and all(".layers.1." in name for name in whole)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    ranks = {name.partition(".mlp.")[2]: tensor.shape[0] for name, tensor in whole.items() if "lora_A" in name}
    assert ranks["experts.lora_A.weight"] == 4 * 4  # of down_proj, for four experts
    assert ranks["experts.base_layer.lora_A.weight"] == 4 * 2
    assert numbers["four_bit_bytes"] > 0 and numbers["wide_bytes"] > 0
    assert "in 4 bits" in result.text
