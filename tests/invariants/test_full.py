"""Full fine-tuning in one card: the same steps in the backward pass, and resumed trainings bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.command import Project, finish, kill_tree, wait_for

pytestmark = pytest.mark.slow

WHOLE = {"max_grad_norm": 0, "micro_batch_size": 4}
"""No clipping, one micro-batch a step."""
CASES = {
    "float32": {"dtype": "float32", "optim": "adamw_torch"},
    "bfloat16": {"dtype": "bfloat16", "optim": "adamw_torch"},
    "bfloat16-sgd": {"dtype": "bfloat16", "optim": "sgd", "learning_rate": 2.0},
    "bfloat16-8bit": {"dtype": "bfloat16", "optim": "adamw_8bit"},
    "float32-8bit": {"dtype": "float32", "optim": "adamw_8bit"},
    "bfloat16-paged": {"dtype": "bfloat16", "optim": "paged_adamw_32bit"},
}


@pytest.fixture
def project(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., Project]:
    """Make a packed project of full fine-tuning, five steps of four rows."""

    def make(name: str, *, dtype: str, **train: Any) -> Project:
        trial = Project(tmp_path / name)
        tiny.write_recipe(
            trial.folder,
            model={"name_or_path": str(tiny_model_dir), "dtype": dtype},
            adapter={"kind": "none", "r": None},
            train={"max_steps": 5, "global_batch_size": 4, "weight_decay": 0.1, "logging_steps": 1} | train,
        )
        for verb in ("data", "pack"):
            assert trial.call(verb).code == 0
        return trial

    return make


def trained(project: Project, *options: str) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Train; return the lines of the metrics without times, and the final weights."""
    result = project.call("train", *options, worker=True)
    assert result.code == 0, result.text
    lines = [json.loads(line) for line in (project.run / "train/metrics.jsonl").read_text().splitlines()]
    numbers = [{name: line[name] for name in ("loss", "grad_norm", "learning_rate")} for line in lines]
    return numbers, load_file(project.run / "train/model/model.safetensors")


def same_weights(first: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert first.keys() == two.keys()
    for name, weight in first.items():
        assert torch.equal(weight, two[name]), name


def forget(project: Project) -> None:
    """Put a finished training back to before its weights were saved."""
    (project.run / "train/stage.json").unlink()
    shutil.rmtree(project.run / "train/model")


@pytest.mark.parametrize("case", CASES)
def test_a_step_in_the_backward_pass_is_the_ordinary_one(project: Callable[..., Project], case: str) -> None:
    plain, within = (
        trained(project(f"within-{prompt}", **CASES[case], **WHOLE, optimizer_in_backward=prompt))
        for prompt in (False, True)
    )
    same_weights(plain[1], within[1])
    for first, second in zip(plain[0], within[0], strict=True):
        assert (first["loss"], first["learning_rate"]) == (second["loss"], second["learning_rate"])
        assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=0.02 if "bfloat16" in case else 1e-6) != 0
    assert plain[0][0]["loss"] != plain[0][-1]["loss"]


@pytest.mark.parametrize(
    ("case", "within"),
    [
        ("bfloat16", False),
        ("bfloat16", True),
        ("bfloat16-sgd", True),
        ("bfloat16-8bit", True),
        ("bfloat16-paged", True),
    ],
)
def test_a_resumed_training_is_the_uninterrupted_one(project: Callable[..., Project], case: str, within: bool) -> None:
    trial = project("a", **CASES[case], **WHOLE, optimizer_in_backward=within, save_steps=1, save_total_limit=9)
    complete = trained(trial)
    assert (trial.run / "train/checkpoints/step_000002/optimizer.pt").is_file()
    forget(trial)
    again = trained(trial, "--resume-from", "step_000002")
    assert again[0] == complete[0]
    same_weights(again[1], complete[1])


def test_a_killed_training_goes_on_to_the_same_weights(project: Callable[..., Project]) -> None:
    settings = CASES["bfloat16-8bit"] | WHOLE | {"optimizer_in_backward": True, "max_steps": 16, "save_steps": 2}
    complete, killed = trained(project("whole", **settings)), project("killed", **settings)
    process = killed.start("train", str(killed.recipe))
    wait_for(lambda: any((killed.run / "train/checkpoints").glob("step_000004")), process)
    kill_tree(process.pid)
    assert finish(process).code == -signal.SIGKILL
    assert not (killed.run / "train/stage.json").exists()
    again = trained(killed)
    assert again[0] == complete[0]
    same_weights(again[1], complete[1])


def test_auto_steps_in_the_backward_pass_where_it_may(project: Callable[..., Project]) -> None:
    trial = project("auto", dtype="bfloat16", optim="adamw_torch", **WHOLE)
    output = trial.call("train", worker=True).out
    assert "each weight steps in the backward pass" in output and "rounded stochastically" in output
    for name, change in {"clipped": {"max_grad_norm": 1.0}, "cut": {"micro_batch_size": 2}}.items():
        second = project(name, dtype="float32", optim="adamw_torch", **(WHOLE | change))
        output = second.call("train", worker=True).out
        assert "backward" not in output and "rounded" not in output


def test_an_automatic_micro_batch_is_the_whole_step(project: Callable[..., Project]) -> None:
    trial = project("auto", dtype="float32", max_grad_norm=0, optimizer_in_backward=True, global_batch_size=24)
    trained(trial)
    numbers = json.loads((trial.run / "train/stage.json").read_text())["numbers"]
    assert (numbers["micro_batch_size"], numbers["accumulation"]) == (24, 1)


@pytest.mark.parametrize("case", ["float32", "bfloat16"])
def test_divergence_is_exit_7_and_never_saved(project: Callable[..., Project], case: str) -> None:
    settings = CASES[case] | WHOLE | {"optimizer_in_backward": True, "learning_rate": 1e30, "save_steps": 1}
    for logging_steps in (1, 5):
        trial = project(f"every-{logging_steps}", **(settings | {"logging_steps": logging_steps}))
        result = trial.call("train", worker=True)
        assert result.code == 7 and "training diverged at step" in result.err, result.text
        assert not (trial.run / "train/model").exists() and not (trial.run / "train/stage.json").exists()
        for path in (trial.run / "train").rglob("*.safetensors"):
            assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values()), path
