"""Ways to run the same training that must give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.command import Project, finish

pytestmark = pytest.mark.slow

TRAIN = {"max_steps": 5, "global_batch_size": 8, "learning_rate": 5e-3}
OUTSIDE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


VALIDATION = {"split": {"validation": 0.2}}  # five rows: two processes cannot share them evenly


def losses(project: Project, name: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (project.run / "train/metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def prepared(folder: Path, model: Path, **changes: Any) -> Project:
    project = Project(folder)
    tiny.write_recipe(folder, model=model, **({"train": TRAIN} | changes))
    for verb in ("data", "pack"):
        result = project.call(verb)
        assert result.code == 0, result.text
    return project


def adapter_of(project: Project) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(project.run / "train/adapter/adapter_model.safetensors")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Project:
    project = prepared(
        tmp_path_factory.mktemp("one"), tiny_model_dir, data=VALIDATION, train=TRAIN | {"micro_batch_size": 8}
    )
    result = project.call("train", worker=True)
    assert result.code == 0, result.text
    return project


def test_one_item_eight_times_is_eight_items_once(one_process: Project, tmp_path: Path, tiny_model_dir: Path) -> None:
    project = prepared(tmp_path, tiny_model_dir, data=VALIDATION, train=TRAIN | {"micro_batch_size": 1})
    assert project.call("train", worker=True).code == 0
    assert losses(project) == pytest.approx(losses(one_process), abs=1e-5)
    for name, weight in adapter_of(one_process).items():
        assert torch.allclose(weight, adapter_of(project)[name], atol=1e-4), name


def test_two_processes_train_what_one_does(one_process: Project, tmp_path: Path, tiny_model_dir: Path) -> None:
    project = prepared(tmp_path, tiny_model_dir, data=VALIDATION, launch={"num_processes": 2})
    result = project.spawn("train", str(project.recipe))
    assert result.code == 0, result.text
    numbers = json.loads((project.run / "train/stage.json").read_text())["numbers"]
    assert numbers["num_processes"] == 2
    assert losses(project) == pytest.approx(losses(one_process), abs=1e-5)
    expected = losses(one_process, "validation_loss")
    assert len(expected) == 5 and losses(project, "validation_loss") == pytest.approx(expected, abs=1e-5)
    for name, weight in adapter_of(one_process).items():
        assert torch.allclose(weight, adapter_of(project)[name], atol=1e-4), name
    assert result.out.count("weights are trained") == 1  # one process speaks


def test_two_processes_prefer_what_one_does(tmp_path: Path, tiny_model_dir: Path) -> None:
    results = []
    for processes in (1, 2):
        project = prepared(
            tmp_path / str(processes),
            tiny_model_dir,
            method={"kind": "dpo"},
            data=VALIDATION,
            launch={"num_processes": processes},
            train=TRAIN | {"micro_batch_size": 4 // processes},
        )
        result = project.spawn("train", str(project.recipe), TRAINER_CACHE=str(tmp_path / f"cache-{processes}"))
        assert result.code == 0, result.text
        assert "pairs computed once" in result.out
        results.append(project)
    for name in ("loss", "validation_loss", "rewards/margins", "eval_rewards/margins", "logps/chosen"):
        first, second = (losses(project, name) for project in results)
        assert len(first) > 1 and second == pytest.approx(first, abs=1e-4), name
    for name, weight in adapter_of(results[0]).items():
        assert torch.allclose(weight, adapter_of(results[1])[name], atol=1e-4), name


def test_two_processes_launched_from_outside_do_too(one_process: Project, tmp_path: Path, tiny_model_dir: Path) -> None:
    project = prepared(tmp_path, tiny_model_dir, data=VALIDATION, launch={"num_processes": 2})
    command = (*OUTSIDE, "-m", "trainer", "train", str(project.recipe))
    result = finish(project.start(*command, ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo"))
    assert result.code == 0, result.text
    assert json.loads((project.run / "train/stage.json").read_text())["numbers"]["num_processes"] == 2
    assert losses(project) == pytest.approx(losses(one_process), abs=1e-5)


def test_another_number_of_processes_than_the_recipe_says_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    project = prepared(tmp_path, tiny_model_dir, launch={"num_processes": 2})
    result = project.call("train", worker=True)
    assert result.code == 5 and "1 processes are running, the recipe asks for 2" in result.err
    assert json.loads((project.run / "train/exit.json").read_text())["exit_code"] == 5
    assert project.call("train", "--accept", "world-size", worker=True).code == 0


def test_packed_rows_give_the_loss_of_the_rows_alone(tmp_path: Path, tiny_model_dir: Path) -> None:
    everything = {"max_steps": 1, "learning_rate": 1e-3}
    alone = prepared(tmp_path / "alone", tiny_model_dir, train=everything | {"global_batch_size": 19})
    rows = json.loads((alone.run / "pack/report.json").read_text())["rows"]
    assert rows == 19  # every row is in the one step
    packed = prepared(
        tmp_path / "packed",
        tiny_model_dir,
        train=everything | {"global_batch_size": 1},
        pack={"packing": True, "max_length": 4096},
    )
    assert json.loads((packed.run / "pack/report.json").read_text())["items"] == 1
    for project in (alone, packed):
        result = project.call("train", worker=True)
        assert result.code == 0, result.text
    assert losses(packed) == pytest.approx(losses(alone), abs=1e-5)


def test_a_fresh_adapter_changes_nothing(tiny_model_dir: Path) -> None:
    from trainer.model.adapter import attach
    from trainer.model.load import load_model
    from trainer.recipe.model import LoraAdapter, ModelSection

    model = load_model(ModelSection(name_or_path=str(tiny_model_dir)), tiny_model_dir, dtype=torch.float32).eval()
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits.clone()
        after = attach(model, LoraAdapter(kind="lora", r=4, alpha=8.0)).eval()(input_ids=ids).logits
    assert torch.equal(before, after)


def test_a_forward_pass_without_gradient_leaves_four_bit_gradients_alone(tiny_model_dir: Path) -> None:
    from trainer.model.adapter import attach
    from trainer.model.load import load_model
    from trainer.recipe.model import ModelSection, QloraAdapter

    adapter = QloraAdapter(kind="qlora", r=4, alpha=8.0)
    section = ModelSection(name_or_path=str(tiny_model_dir))
    model = attach(load_model(section, tiny_model_dir, adapter=adapter, dtype=torch.float32), adapter)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.01)
    ids = torch.arange(5, 40)[None]

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model.train()(input_ids=ids, use_cache=False).logits.square().mean().backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    before = gradient()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    assert float(before.norm()) > 0 and torch.equal(gradient(), before)


def test_loss_is_the_mean_over_the_steps_trained_tokens() -> None:
    from trainer.methods.shapes.single import token_loss

    logs = torch.tensor([-1.0, -2.0, -4.0], dtype=torch.float64)
    assert float(token_loss(logs, torch.tensor(14))) == pytest.approx(0.5)
    assert float(token_loss(logs[:0], torch.tensor(0))) == 0.0


def test_the_order_of_items_depends_on_seed_and_step_alone() -> None:
    from trainer.methods.order import order, plan_steps
    from trainer.recipe.train import TrainSection

    section = TrainSection(global_batch_size=8, num_train_epochs=2.5)
    plans = [plan_steps(section, num_items=21, share=8 // size, micro_batch_size=2) for size in (1, 2, 4)]
    assert {plan.num_steps for plan in plans} == {7}  # ceil(52.5 / 8)
    assert [plan.micro_batch_size * plan.accumulation * size for plan, size in zip(plans, (1, 2, 4), strict=True)] == [
        8
    ] * 3
    items = order(plans[0], seed=3)
    assert len(items) == 56 and sorted(items[:21]) == sorted(items[21:42]) == list(range(21))
    assert (items == order(plans[2], seed=3)).all() and (items != order(plans[0], seed=4)).any()


@pytest.mark.parametrize(("size", "processes"), [("auto", 3), (8, 2)])
def test_batches_that_processes_cannot_share_are_refused(size: Any, processes: int) -> None:
    from trainer.errors import RecipeError
    from trainer.model.planning.planner import micro_batch_sizes
    from trainer.recipe.train import TrainSection

    section = TrainSection(global_batch_size=8, micro_batch_size=size)
    with pytest.raises(RecipeError) as caught:
        micro_batch_sizes(section, processes)
    assert "train.global_batch_size" in str(caught.value.problems[0])
