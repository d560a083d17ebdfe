"""Micro-steps on a card keep the host waiting for nothing, by torch's own account."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.command import Project

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from acceptance.syncs import watched


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        {"pack": {"packing": True}},
        {"pack": {"packing": True}, "train": {"torch_compile": True}},
        {"pack": {"packing": False}},
        {"method": {"kind": "dpo"}},
    ],
)
def test_no_micro_step_waits_for_the_card(tmp_path: Path, tiny_model_dir: Path, changes: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    steps = {"max_steps": 10, "micro_batch_size": 2, "logging_steps": 5, "save_steps": 5}
    project = Project(tmp_path)
    train = steps | changes.get("train", {})
    tiny.write_recipe(project.folder, model=tiny_model_dir, **changes | {"train": train})
    for verb in ("data", "pack"):
        assert project.call(verb).code == 0
    with watched() as watch:
        result = project.call("train", worker=True)
    assert result.code == 0, result.text
    assert watch.micro_steps == 20 and not watch.waits
