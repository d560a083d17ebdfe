"""Recompute by transformers, for models whose memory no formula predicts, changes no weight."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.command import Project
from tests.zoo import models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model_type", ["olmo2", "lfm2"])  # attention alone; attention beside short convolutions
def test_layers_computed_again_give_the_same_weights(model_type: str, tmp_path: Path) -> None:
    model = models.write(model_type, tmp_path / "model", tiny.make_tokenizer())
    project = Project(tmp_path / "run")
    weights = []
    for verb, recompute in (("data", False), ("pack", False), ("train", False), ("train", True)):
        train = {"max_steps": 3, "gradient_checkpointing": recompute}
        tiny.write_recipe(project.folder, model=model, adapter={"kind": "lora", "r": 2}, train=train)
        result = project.call(verb, worker=verb == "train")
        assert result.code == 0, result.text
        if verb == "train":
            assert "no padding" in result.text
            weights.append(load_file(project.run / "train/adapter/adapter_model.safetensors"))
            shutil.rmtree(project.run / "train")
    plain, recomputed = weights
    assert any(tensor.any() for name, tensor in plain.items() if "lora_B" in name)
    # LoRA in layers that are computed again adds in another order
    assert all(torch.allclose(tensor, recomputed[name], atol=1e-5) for name, tensor in plain.items())
