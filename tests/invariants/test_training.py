"""Equalities that any change of the training code must keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import tiny
from tests.command import Project, Result, contents

pytestmark = pytest.mark.slow

Trained = tuple[list[float], dict[str, Any]]


@pytest.fixture
def project(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., Project]:
    """Make a packed project: 19 training rows, float32, five steps of eight."""

    def make(name: str = "a", **changes: Any) -> Project:
        trial = Project(tmp_path / name)
        train = {"max_steps": 5, "global_batch_size": 8, "learning_rate": 5e-3} | changes.pop("train", {})
        tiny.write_recipe(trial.folder, model=tiny_model_dir, train=train, **changes)
        for verb in ("data", "pack"):
            assert trial.call(verb).code == 0
        return trial

    return make


def trained(project: Project, *sets: str, result: Result | None = None) -> Trained:
    """Train; return the losses of the steps and the final weights."""
    options = [part for text in (*sets, "train.logging_steps=1") for part in ("--set", text)]
    result = result or project.call("train", *options, worker=True)
    assert result.code == 0, result.text
    lines = [json.loads(line) for line in (project.run / "train/metrics.jsonl").read_text().splitlines()]
    return (
        [line["loss"] for line in lines if "loss" in line],
        load_file(project.run / "train/adapter/adapter_model.safetensors"),
    )


def assert_same(first: Trained, two: Trained, limit: float = 1e-5) -> None:
    np.testing.assert_allclose(first[0], two[0], rtol=0, atol=limit)
    assert first[1].keys() == two[1].keys()
    for name, weight in first[1].items():
        np.testing.assert_allclose(weight, two[1][name], rtol=0, atol=limit, err_msg=name)


def base_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


# Batches


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_batch_8_x_1_is_1_x_8(project: Callable[..., Project], method: str) -> None:
    # sgd: Adam divides by the gradient's size, which turns a rounding error of a zero gradient into a step
    optimizer = {"optim": "sgd", "learning_rate": 0.5}
    runs = [
        trained(
            project(
                f"micro-{size}",
                method={"kind": method},
                train={"micro_batch_size": size, "logging_steps": 1} | optimizer,
            )
        )
        for size in (8, 1)
    ]
    assert len(runs[0][0]) == 5 and len(set(runs[0][0])) == 5
    assert_same(*runs)


def test_the_loss_of_a_step_is_the_mean_over_its_tokens(project: Callable[..., Project], tiny_model_dir: Path) -> None:
    import torch

    from trainer.methods.order import StepPlan, order
    from trainer.tokens.store import TokenStore

    trial = project()
    losses, _ = trained(trial, "train.micro_batch_size=2")
    store = TokenStore.load(trial.run / "pack/train.safetensors")
    rows = [store.row(index) for index in order(StepPlan(len(store), 8, 5, 2, 4), 42)[:8]]
    model = base_model(tiny_model_dir)
    total, count = 0.0, 0
    for ids, mask in rows:
        with torch.no_grad():
            logs = model(input_ids=torch.tensor(ids[None].astype(int))).logits[0].double().log_softmax(-1)
        picked = [float(logs[number - 1, ids[number]]) for number in range(1, len(ids)) if mask[number]]
        total, count = total - sum(picked), count + len(picked)
    assert losses[0] == pytest.approx(total / count, abs=1e-5)


# Packing


def test_packed_and_unpacked_training_agree(project: Callable[..., Project]) -> None:
    # All rows in every step, so that both see the same tokens: 19 rows, or all of their packs.
    plain = project("plain", pack={"packing": False}, train={"global_batch_size": 19, "optim": "sgd"})
    packed = project("packed", pack={"packing": True, "max_length": 128}, train={"optim": "sgd"})
    packs = json.loads((packed.run / "pack/report.json").read_text())["items"]
    assert 1 < packs < 19
    all_packs = f"train.global_batch_size={packs}"
    assert packed.call("pack", "--set", all_packs).code == 0
    assert_same(trained(plain), trained(packed, all_packs))


@pytest.mark.parametrize("layout", ["flat", "positions"])
def test_a_row_of_a_pack_sees_no_other_row(tiny_model_dir: Path, layout: Any) -> None:
    import torch

    from trainer.engine.batch import of_rows
    from trainer.engine.prepare import prepare

    model, random = base_model(tiny_model_dir), np.random.default_rng(0)
    rows = [(random.integers(5, 600, size), np.ones(size, dtype=np.uint8)) for size in (17, 5, 30)]
    attention = "auto" if layout == "flat" else "sdpa"
    engine = prepare(model, [ids for ids, _ in rows], attention=attention, say=lambda _: None)
    assert engine.packed_layout == layout

    def scores(*items: list[tuple[Any, Any]]) -> Any:
        with torch.no_grad():
            return engine.score(model, of_rows(items, layout, 0))[0]

    alone = torch.cat([scores([row]) for row in rows])
    packed = scores(rows)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
    changed = scores([rows[0], ((rows[1][0] + 7) % 600, rows[1][1]), rows[2]])
    # the first token of a row has no target: 16, 4 and 29 log-probabilities
    torch.testing.assert_close(changed[:16], packed[:16], rtol=0, atol=0)
    torch.testing.assert_close(changed[20:], packed[20:], rtol=0, atol=0)
    assert not torch.equal(changed[16:20], packed[16:20])
    # beside a longer pack, and so padded where the layout pads
    padded = scores(rows[:2], rows)[:20]
    torch.testing.assert_close(padded, packed[:20], rtol=0, atol=1e-5)


# Adapters


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"use_rslora": True}, {"dropout": 0.1}])
def test_a_fresh_adapter_of_any_kind_changes_nothing(tiny_model_dir: Path, changes: dict[str, Any]) -> None:
    import torch

    from trainer.model.adapter import attach
    from trainer.recipe.model import LoraAdapter

    ids = torch.arange(5, 60)[None]
    model = base_model(tiny_model_dir)
    with torch.no_grad():
        base = model(input_ids=ids).logits
        adapted = attach(model, LoraAdapter(kind="lora", alpha=32.0, **changes)).eval()
        result = adapted(input_ids=ids).logits
    torch.testing.assert_close(result, base, rtol=0, atol=1e-5 if "use_dora" in changes else 0)


# Several processes: test_equivalence.py. Resuming, with dropout, killed, stopped, damaged: tests/faults.


def test_resuming_in_the_second_epoch_is_exact(project: Callable[..., Project]) -> None:
    import shutil

    adapter = {"dropout": 0.2}
    trial = project(adapter=adapter, train={"max_steps": 9, "save_steps": 1, "save_total_limit": 9})
    complete = trained(trial)
    for name in ("train/stage.json", "train/adapter"):
        path = trial.run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = trained(trial, result=trial.call("train", "--resume-from", "step_000004", worker=True))
    assert again[0] == complete[0]
    for name, weight in complete[1].items():
        assert (weight == again[1][name]).all()


def test_a_training_that_stopped_early_is_not_continued(project: Callable[..., Project]) -> None:
    """Killed before its weights were saved; a high rate makes the second validation worse."""
    import shutil

    trial = project(
        adapter={"kind": "none", "r": None},
        data={"split": {"validation": 0.2}},
        train={"max_steps": 9, "learning_rate": 0.3, "warmup_steps": 0, "eval_steps": 1, "early_stopping_patience": 1},
    )

    def numbers() -> dict[str, Any]:
        result = trial.call("train", worker=True)
        assert result.code == 0, result.text
        results: dict[str, Any] = json.loads((trial.run / "train/stage.json").read_text())["numbers"]
        return {name: results[name] for name in ("steps", "best_step", "tokens")}

    first, weights = numbers(), load_file(trial.run / "train/model/model.safetensors")
    assert first["steps"] < 9
    (trial.run / "train/stage.json").unlink()
    shutil.rmtree(trial.run / "train/model")
    assert numbers() == first
    again = load_file(trial.run / "train/model/model.safetensors")
    assert all((weight == again[name]).all() for name, weight in weights.items())


# The oracle


def test_the_losses_are_those_of_trl(project: Callable[..., Project], tiny_model_dir: Path, tmp_path: Path) -> None:
    """TRL's SFTTrainer on the same tokens, masks, order and start adapter."""
    import torch
    from datasets import Dataset
    from peft import PeftModel, get_peft_model_state_dict
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    from trainer.methods.order import StepPlan, order
    from trainer.model.adapter import attach
    from trainer.recipe.model import LoraAdapter
    from trainer.tokens.store import TokenStore

    set_seed(7)
    start = tmp_path / "start"
    attach(base_model(tiny_model_dir), LoraAdapter(kind="lora", r=4, alpha=8.0)).save_pretrained(start)
    trial = project(
        adapter={"r": None, "init_from": str(start)},
        train={"max_steps": 20, "micro_batch_size": 4, "warmup_steps": 2, "lr_scheduler_type": "linear"},
    )
    ours = trained(trial)
    store = TokenStore.load(trial.run / "pack/train.safetensors")
    rows = [store.row(index) for index in order(StepPlan(len(store), 8, 20, 4, 2), 42)]
    dataset = Dataset.from_dict(
        {"input_ids": [ids.tolist() for ids, _ in rows], "completion_mask": [mask.tolist() for _, mask in rows]}
    )

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(dataset)

    model = PeftModel.from_pretrained(base_model(tiny_model_dir), start, is_trainable=True)
    oracle = InOrder(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=20,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=5e-3,
            warmup_steps=2,
            lr_scheduler_type="linear",
            logging_steps=1,
            save_strategy="no",
            completion_only_loss=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    oracle.train()
    losses = [line["loss"] for line in oracle.state.log_history if "loss" in line]
    np.testing.assert_allclose(ours[0], losses, rtol=0, atol=1e-3)
    assert ours[0][0] - ours[0][-1] > 0.05  # something was learned, so that agreement says something
    theirs = {name: weight.detach() for name, weight in get_peft_model_state_dict(model).items()}
    for name, weight in ours[1].items():
        torch.testing.assert_close(torch.from_numpy(weight), theirs[name], rtol=0, atol=1e-3)


# Bytes


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_every_stage_gives_the_same_bytes_twice(project: Callable[..., Project], method: str) -> None:
    first, second = (project(name, method={"kind": method}) for name in ("a", "b"))
    for trial in (first, second):
        trained(trial)
        assert trial.call("run").code == 0
    for stage in ("data", "pack", "train/adapter", "export"):
        left, two = contents(first.run / stage), contents(second.run / stage)
        # times, the measured latency, and the hashes of both
        timed = ("stage.json", "README.md", "provenance.json", "manifest.json")
        assert {name: data for name, data in left.items() if Path(name).name not in timed} == {
            name: data for name, data in two.items() if Path(name).name not in timed
        }
    left, two = ((trial.run / "eval/predictions.jsonl").read_bytes() for trial in (first, second))
    assert left == two
    before = contents(first.run / "pack")
    assert first.call("pack", "--force").code == 0
    after = contents(first.run / "pack")
    assert {name: data for name, data in after.items() if name != "stage.json"} == {
        name: data for name, data in before.items() if name != "stage.json"
    }
