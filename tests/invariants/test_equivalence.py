"""Ways to run the same training that must give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from command import Project, finish

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


def test_a_row_of_a_pack_does_not_see_its_neighbours(tiny_model_dir: Path) -> None:
    from trainer.methods.collate import Collator
    from trainer.methods.probe import packing_leak
    from trainer.model.load import load_model
    from trainer.recipe.model import ModelSection

    model = load_model(ModelSection(name_or_path=str(tiny_model_dir)), tiny_model_dir, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    rows = [rng.integers(5, 200, size=size) for size in (13, 7, 21)]
    masks = [np.ones_like(row) for row in rows]
    collate = Collator(pad_id=0, is_packed=True)

    def logits(first: Any) -> torch.Tensor:
        batch = collate([list(zip([first, *rows[1:]], masks, strict=True))])
        batch.pop("labels")
        with torch.no_grad():
            return model(**batch, use_cache=False).logits[0]

    changed = rng.integers(5, 200, size=13)
    assert torch.equal(logits(rows[0])[13:], logits(changed)[13:])
    assert not torch.allclose(logits(rows[0])[:13], logits(changed)[:13])
    assert packing_leak(model, rows) is None


def test_the_probe_notices_a_model_whose_rows_leak() -> None:
    from types import SimpleNamespace

    from trainer.methods.probe import packing_leak

    class Recurrent(torch.nn.Module):
        """Carries a state along the sequence, whatever the positions."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(50, 8)

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            return SimpleNamespace(logits=self.embed(input_ids).cumsum(1))

    torch.manual_seed(0)
    leak = packing_leak(Recurrent(), [np.arange(5), np.arange(7), np.arange(4)])
    assert leak is not None and "see each other" in leak


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


def test_loss_is_the_mean_over_trained_tokens_in_float64() -> None:
    from types import SimpleNamespace

    from trainer.methods.sft import token_loss

    torch.manual_seed(0)
    logits = torch.randn(3, 9, 17)
    labels = torch.randint(0, 17, (3, 9))
    labels[:, :3] = -100
    labels[1] = -100
    total = sum(
        -logits[b, t - 1].double().log_softmax(-1)[labels[b, t]]
        for b in range(3)
        for t in range(1, 9)
        if labels[b, t] >= 0
    )
    count = (labels != -100).sum()
    assert float(token_loss(SimpleNamespace(logits=logits), labels)) == pytest.approx(float(total / count), abs=1e-6)
    nothing = token_loss(SimpleNamespace(logits=logits), torch.full_like(labels, -100))
    assert float(nothing) == 0.0


def test_the_order_of_items_depends_on_seed_and_step_alone() -> None:
    from trainer.methods.stream import order, solve_plan
    from trainer.recipe.train import TrainSection

    section = TrainSection(global_batch_size=8, num_train_epochs=2.5)
    plans = [solve_plan(section, num_items=21, world_size=size, largest_micro=4) for size in (1, 2, 4)]
    assert {plan.num_steps for plan in plans} == {7}  # ceil(52.5 / 8)
    assert [plan.micro_batch_size * plan.accumulation * size for plan, size in zip(plans, (1, 2, 4), strict=True)] == [
        8
    ] * 3
    items = order(plans[0], seed=3)
    assert len(items) == 56 and sorted(items[:21]) == sorted(items[21:42]) == list(range(21))
    assert (items == order(plans[2], seed=3)).all() and (items != order(plans[0], seed=4)).any()
    with pytest.raises(ValueError, match="no multiple of 3 processes"):
        solve_plan(section, num_items=21, world_size=3, largest_micro=4)
