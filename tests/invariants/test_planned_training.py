"""The memory plan in whole trainings: it changes no number, all processes agree, running out says what fits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.command import Project
from trainer.engine.prepare import Engine
from trainer.methods import hardware, memory_plan, memory_trial
from trainer.methods.memory_trial import Trial
from trainer.model.planning import gpus
from trainer.model.planning.planner import MemoryPlan

pytestmark = pytest.mark.slow

TRAIN = {"max_steps": 4, "global_batch_size": 4, "learning_rate": 5e-3, "micro_batch_size": 2}


def prepared(folder: Path, model: Path, **changes: Any) -> Project:
    project = Project(folder)
    tiny.write_recipe(folder, model=model, **({"train": TRAIN} | changes))
    for verb in ("data", "pack"):
        result = project.call(verb)
        assert result.code == 0, result.text
    return project


def outcome(project: Project) -> tuple[list[float], dict[str, torch.Tensor]]:
    lines = [json.loads(line) for line in (project.run / "train/metrics.jsonl").read_text().splitlines()]
    weights = load_file(project.run / "train/adapter/adapter_model.safetensors")
    return [line["loss"] for line in lines if "loss" in line], weights


def assert_same_bits(project: Project, second: Project) -> None:
    (losses, weights), (other_losses, more) = outcome(project), outcome(second)
    assert losses == other_losses and len(set(losses)) == len(losses) == 4
    assert all(torch.equal(weight, more[name]) for name, weight in weights.items())


def numbers(project: Project) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((project.run / "train/stage.json").read_text())["numbers"]
    return result


@pytest.fixture(scope="module")
def dropping_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """The tiny model with dropout in its attention, which the plan covers: a draw too many would show."""
    folder = tiny.make_model(tmp_path_factory.mktemp("dropping"), tiny_tokenizer)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, dropping_model: Path) -> Project:
    project = prepared(tmp_path_factory.mktemp("plain"), dropping_model)
    assert project.call("train", worker=True).code == 0
    return project


def test_trying_plans_before_the_first_step_changes_no_bit(
    plain: Project, tmp_path: Path, dropping_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, tried = prepared(tmp_path, dropping_model), list[MemoryPlan]()
    more, real, plans_on = 1 << 10, Trial.run, memory_plan.candidates

    def run(self: Trial, plan: MemoryPlan) -> int | None:
        tried.append(plan)
        monkeypatch.setattr(memory_trial, "peak_bytes", lambda _: plan.memory.passes + more)
        return real(self, plan)

    def on_a_tight_card(predictor: Any, batches: Any, share: int, card: gpus.Card) -> list[MemoryPlan]:
        easiest = plans_on(predictor, batches, share, card)[0]
        return plans_on(predictor, batches, share, replace(card, memory=easiest.memory.total + more // 2))

    monkeypatch.setattr(Trial, "run", run)
    monkeypatch.setattr(memory_plan, "candidates", on_a_tight_card)
    monkeypatch.setattr(hardware, "local_card", lambda _: gpus.Card("tight", 1 << 33))
    result = project.call("train", worker=True)
    assert result.code == 0, result.text
    assert [plan.levels[0] for plan in tried] == ["none", "elementwise"]
    assert_same_bits(plain, project)
    stage_numbers = numbers(project)
    assert stage_numbers["micro_batch_size"] == 2 and stage_numbers["recompute"].startswith("elementwise")
    assert stage_numbers["tried_gib"] == pytest.approx(stage_numbers["predicted_gib"], abs=2e-3)
    assert set(stage_numbers["predicted_parts_gib"]) >= {
        "weights",
        "adapters",
        "optimizer",
        "activations",
        "head",
        "reserve",
    }
    assert "GiB, measured" in result.out and "recompute elementwise" in result.out


@pytest.mark.parametrize("level", ["elementwise", "full", "offload"])
def test_every_level_trains_the_same_weights_bit_for_bit(
    level: str, plain: Project, tmp_path: Path, dropping_model: Path
) -> None:
    project = prepared(tmp_path, dropping_model, train=TRAIN | {"gradient_checkpointing": level})
    result = project.call("train", worker=True)
    assert result.code == 0, result.text
    assert_same_bits(plain, project)
    assert numbers(project)["recompute"] == level
    assert ("wait on the host" in result.out) == (level == "offload")


def test_two_processes_whose_layers_are_computed_again_train_what_one_does(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    train, projects = TRAIN | {"gradient_checkpointing": "offload"}, []
    for number in (1, 2):
        project = prepared(tmp_path / str(number), tiny_model_dir, train=train, launch={"num_processes": number})
        spawned = number > 1
        result = project.spawn("train", str(project.recipe)) if spawned else project.call("train", worker=True)
        assert result.code == 0 and "recompute offload" in result.out, result.text
        projects.append(project)
    (losses, weights), (other_losses, more) = map(outcome, projects)
    assert losses == pytest.approx(other_losses, abs=1e-5)
    for name, weight in weights.items():
        assert torch.allclose(weight, more[name], atol=1e-4), name


def test_a_plan_with_pairs_knows_their_shared_prompts(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "local_card", lambda _: gpus.Card("small", 4 << 30))
    monkeypatch.setattr(memory_trial, "peak_bytes", lambda _: 1 << 20)
    project = prepared(tmp_path, tiny_model_dir, method={"kind": "dpo"}, train=TRAIN | {"micro_batch_size": "auto"})
    result = project.call("train", worker=True)
    assert result.code == 0, result.text
    assert numbers(project)["micro_batch_size"] == 4 and numbers(project)["accumulation"] == 1


def test_running_out_of_memory_names_settings_that_fit(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = prepared(tmp_path, tiny_model_dir, train=TRAIN | {"micro_batch_size": "auto"})
    score, calls = Engine.score, []

    def full(self: Engine, model: Any, batch: Any) -> Any:
        calls.extend([1] * model.training)
        if len(calls) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return score(self, model, batch)

    monkeypatch.setattr(Engine, "score", full)
    monkeypatch.setattr("trainer.model.planning.predictor.RESERVE_CPU", 0)  # all of the tiny model's memory
    result = project.call("train", worker=True)
    assert result.code == 5 and "Traceback" not in result.text, result.text
    assert "out of memory with micro_batch_size" in result.err and "Tried to allocate 2.00 GiB" in result.err
    assert "--set train.gradient_checkpointing=true" in result.err and "--set train.micro_batch_size=" in result.err
    exit_json = json.loads((project.run / "train/exit.json").read_text())
    assert exit_json["exit_code"] == 5 and exit_json["hint"] in result.err
    monkeypatch.undo()
    settings = exit_json["hint"].split("--set ")[1:]
    options = [part for text in settings for part in ("--set", text.strip())]
    shutil.rmtree(project.run / "train")  # as --force does
    assert project.call("train", *options, worker=True).code == 0
    assert numbers(project)["recompute"] == "full"


def _decide(rank: int, folder: Path) -> None:
    """Plan in one of two processes whose cards differ in memory and in what is measured."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    card = gpus.Card("one of two", (2 << 30) + (rank << 30), 1e14 * (rank + 1), 1e12)
    hardware.local_card = lambda _: card  # type: ignore[assignment]
    device = torch.device("cpu")
    agreed = hardware.card_of(torch.nn.Linear(2, 2))
    assert (agreed.memory, agreed.flops) == (2 << 30, 1e14)
    memory_trial.peak_bytes = lambda _: 100 + rank  # type: ignore[assignment]
    observed = hardware.lowest([float(rank), 5.0 - rank], device)
    runs = Trial(torch.nn.Linear(2, 2), None, lambda _: None, None)  # type: ignore[arg-type]

    def halfway(_: int) -> None:
        if rank == 1 and fails:
            raise torch.OutOfMemoryError

    runs._pass = halfway  # type: ignore[method-assign]
    results = []
    for fails in (False, True):  # noqa: B007  read by `halfway`
        results.append(runs.run(plan_of_no_layers()))
    (folder / f"{rank}.json").write_text(json.dumps([observed, results]))
    torch.distributed.destroy_process_group()


def plan_of_no_layers() -> MemoryPlan:
    from trainer.model.planning.predictor import Memory, MicroBatch

    nothing = Memory(*[0] * 11)
    return MemoryPlan(1, 2, (), False, MicroBatch(1, 1), nothing, gpus.Card("x", 1), 0.0)


def test_processes_decide_by_the_weakest_card_and_the_highest_peak(tmp_path: Path) -> None:
    started = torch.multiprocessing.start_processes(
        _decide, args=(tmp_path,), nprocs=2, join=False, start_method="fork"
    )
    assert any(started.join(timeout=30) for _ in range(4))
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert results[0] == results[1] == [[0.0, 4.0], [101, None]]
