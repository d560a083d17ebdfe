"""Two processes train one adapter: every weight has a gradient in both, whatever the rows of each chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Project
from tests.zoo import models

pytestmark = pytest.mark.slow

LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1")
PLAIN = ("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0")


@pytest.mark.parametrize(("model_type", "kind"), [("gemma3", "lora"), ("gpt_oss", "qlora")])
def test_two_processes_train_what_one_trains(model_type: str, kind: str, tmp_path: Path) -> None:
    tokenizer: Any = tiny.make_tokenizer()
    model = models.write(model_type, tmp_path / "model", tokenizer)
    project = Project(tmp_path / "run")
    train = {"max_steps": 2, "global_batch_size": 4, "learning_rate": 1e-3}
    tiny.write_recipe(project.folder, model=model, adapter={"kind": kind, "r": 4}, train=train)
    for verb in ("data", "pack"):
        assert project.call(verb).code == 0
    losses = {}
    for processes in (1, 2):
        if processes == 1:
            result = project.call("train", worker=True)
        else:
            (project.run / "train").rename(project.folder / "train-of-one")
            arguments = (*LAUNCH, *PLAIN, "-m", "trainer", "train", str(project.recipe))
            result = project.spawn(*arguments, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
        assert result.code == 0, result.text
        numbers = json.loads((project.run / "train/stage.json").read_text())["numbers"]
        assert numbers["num_processes"] == processes
        losses[processes] = (numbers["first_loss"], numbers["last_loss"])
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)
