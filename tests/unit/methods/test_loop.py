"""The loop: what it waits for, and that a run that has diverged is found and never saved."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.command import Project, Result
from trainer.engine import compile
from trainer.methods.loop import RecipeLoop
from trainer.methods.shapes.single import SftLoop

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))

from acceptance.syncs import watched

SDPA = {"attn_implementation": "sdpa"}
"""Left to transformers: rows are padded."""
KINDS: dict[str, dict[str, Any]] = {
    "packed": {"pack": {"packing": True}},
    "flat": {"pack": {"packing": False}},
    "packed by positions": {"pack": {"packing": True}, "model": SDPA},
    "padded": {"pack": {"packing": False}, "model": SDPA},
    "dpo": {"method": {"kind": "dpo"}},
    "orpo padded": {"method": {"kind": "orpo"}, "model": SDPA},
}


@pytest.fixture
def project(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., Project]:
    """Make a packed project of ten steps of two micro-batches."""

    def make(**changes: Any) -> Project:
        prepared_project = Project(tmp_path)
        train = {"max_steps": 10, "global_batch_size": 4, "micro_batch_size": 2} | changes.pop("train", {})
        model = {"name_or_path": str(tiny_model_dir)} | changes.pop("model", {})
        tiny.write_recipe(prepared_project.folder, model=model, train=train, **changes)
        for verb in ("data", "pack"):
            assert prepared_project.call(verb).code == 0
        return prepared_project

    return make


def train(prepared_project: Project) -> Result:
    return prepared_project.call("train", worker=True)


@pytest.mark.parametrize("kind", KINDS)
def test_between_two_lines_of_metrics_the_host_waits_for_nothing(project: Callable[..., Project], kind: str) -> None:
    prepared_project = project(train={"logging_steps": 5, "save_steps": 5}, **KINDS[kind])
    with watched() as watch:
        assert train(prepared_project).code == 0
    assert watch.micro_steps == 20 and not watch.waits


@pytest.mark.parametrize(
    "wait",
    [
        lambda loss: float(loss),
        lambda loss: loss.tolist(),
        lambda loss: loss.reshape(1)[loss.reshape(1) > 0],
        lambda loss: loss.reshape(1).nonzero(),
        lambda loss: bool(loss > 0),
    ],
)
def test_a_wait_in_a_micro_step_is_seen(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch, wait: Callable[[torch.Tensor], Any]
) -> None:
    def loss(self: Any, *arguments: Any) -> torch.Tensor:
        results = plain(self, *arguments)
        wait(results)
        return results

    plain = SftLoop.loss
    monkeypatch.setattr(SftLoop, "loss", loss)
    with watched() as watch:
        assert train(project(train={"max_steps": 1})).code == 0
    assert len(watch.waits) >= 2 and all("test_loop.py" in wait for wait in watch.waits)


def diverge_at(monkeypatch: pytest.MonkeyPatch, micro_step: int) -> None:
    """Let one micro-batch have a loss that is not a number, and no gradient."""
    states = [0]

    def loss(self: Any, *arguments: Any) -> torch.Tensor:
        states[0] += 1
        results = plain(self, *arguments)
        return results + (torch.nan if states[0] == micro_step else 0.0)

    plain = SftLoop.loss
    monkeypatch.setattr(SftLoop, "loss", loss)


@pytest.mark.parametrize(
    "steps", [{"logging_steps": 5, "save_steps": 9}, {"logging_steps": 9, "save_steps": 5}, {"logging_steps": 99}]
)
def test_a_diverged_run_is_found_by_the_next_line_or_checkpoint_and_never_saved(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch, steps: dict[str, int]
) -> None:
    prepared_project = project(train=steps)
    diverge_at(monkeypatch, micro_step=5)
    result = train(prepared_project)
    assert result.code == 7 and "diverged at step" in result.err
    found_at = int(result.err.split("diverged at step ")[1].split(":")[0])
    assert 3 <= found_at <= 5
    saved = sorted(path.name for path in (prepared_project.run / "train").rglob("step_*"))
    assert all(int(name.removeprefix("step_")) < 3 for name in saved), saved
    assert not (prepared_project.run / "train/adapter").exists()


def test_weights_that_are_not_finite_are_named(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_one(self: Any, *arguments: Any, **keywords: Any) -> torch.Tensor:
        with torch.no_grad():
            next(weight for name, weight in self.model.named_parameters() if "q_proj.lora_B" in name)[0, 0] = torch.inf
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(RecipeLoop, "compute_loss", break_one)
    result = train(project(train={"max_steps": 1}))
    assert result.code == 7 and "layers.0.self_attn.q_proj.lora_B.default.weight is not finite" in result.err


def test_every_micro_step_finds_all_modules_in_training_mode_and_no_gradient_of_an_earlier_step(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[bool, bool]] = []

    def look(self: Any, model: Any, *arguments: Any, **keywords: Any) -> torch.Tensor:
        if model.training or model.get_submodule("base_model.model.lm_head").training:
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            states.append(
                (all(module.training for module in model.modules()), all(weight.grad is None for weight in weights))
            )
        return plain(self, model, *arguments, **keywords)

    plain = RecipeLoop.compute_loss
    monkeypatch.setattr(RecipeLoop, "compute_loss", look)
    prepared_project = project(
        data={"split": {"validation": 0.2}}, train={"max_steps": 4, "eval_steps": 2}, adapter={"dropout": 0.1}
    )
    assert train(prepared_project).code == 0
    assert states == [(True, True), (True, False)] * 4
    lines = [json.loads(line) for line in (prepared_project.run / "train/metrics.jsonl").read_text().splitlines()]
    assert sum("validation_loss" in line for line in lines) == 2


def test_a_preference_method_drops_nothing_before_its_layers_are_told_apart(project: Callable[..., Project]) -> None:
    result = train(project(method={"kind": "dpo"}, adapter={"dropout": 0.1}, train={"max_steps": 1}))
    assert result.code == 0 and "dropout 0.1 is off" in result.text
    assert "in one product" in result.text and "PEFT's own forward" not in result.text


def losses(prepared_project: Project) -> list[float]:
    lines = [json.loads(line) for line in (prepared_project.run / "train/metrics.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("validation_loss")) for line in lines]


@pytest.mark.parametrize("changes", [{"pack": {"packing": True}}, {"method": {"kind": "dpo"}}])
def test_compiled_layers_train_what_the_layers_train(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(compile, "try_on", functools.partial(compile.try_on, backend="aot_eager"))
    results = []
    for is_compiled in (False, True):
        prepared_project = Project(tmp_path / str(is_compiled))
        settings = {"max_steps": 4, "micro_batch_size": 2, "eval_steps": 2, "torch_compile": is_compiled}
        tiny.write_recipe(
            prepared_project.folder,
            model=tiny_model_dir,
            train=settings,
            data={"split": {"validation": 0.2}},
            **changes,
        )
        for verb in ("data", "pack"):
            assert prepared_project.call(verb).code == 0
        result = train(prepared_project)
        assert result.code == 0 and ("2 decoder layers are compiled" in result.text) == is_compiled, result.text
        results.append(losses(prepared_project))
        torch._dynamo.reset()
    assert len(results[0]) == 6 and results[1] == pytest.approx(results[0], abs=1e-5)


def test_a_compiler_that_fails_is_off_with_a_line_in_the_log(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile, "TESTED", ((2, 1), (2, 2)))
    prepared_project = project(pack={"packing": True}, train={"max_steps": 2, "torch_compile": True})
    result = train(prepared_project)
    assert result.code == 0 and "layers are not compiled: torch is" in result.text
    assert len(losses(prepared_project)) == 2
