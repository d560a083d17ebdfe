"""Preference losses on flat batches with shared prompts, against TRL's trainers on the same pairs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from tests import tiny
from tests.rendering import PairTokens
from tests.stores import pair_store
from trainer.engine.prepare import Engine, prepare
from trainer.methods.losses import Totals, loss_of, rewards
from trainer.methods.reference_log_probs import reference_log_probs
from trainer.methods.shapes.pair import PairCollator, PairDataset, pair_scores
from trainer.recipe.method import CpoMethod, DpoLoss, DpoMethod, OrpoMethod, PairedMethod, SimpoMethod
from trainer.recipe.model import LoraAdapter

pytestmark = pytest.mark.slow

ALONE = SimpleNamespace(
    process_index=0,
    num_processes=1,
    device="cpu",
    is_main_process=True,
    autocast=lambda: torch.autocast("cpu", enabled=False),
    reduce=lambda tensor, _: tensor,
)
"""What of accelerate a single process needs."""


def make_pairs() -> list[PairTokens]:
    random = np.random.default_rng(1)
    shapes = ((17, 9, 5), (4, 11, 13), (30, 2, 8), (9, 9, 9))
    return [PairTokens(*(random.integers(5, 200, size).tolist() for size in shape)) for shape in shapes]


def make_model(folder: Path, *, moved: bool = True) -> Any:
    """Return the tiny model with an adapter in float64; `moved` away from the reference."""
    from transformers import AutoModelForCausalLM

    from trainer.model.adapter import attach

    torch.manual_seed(3)
    model = attach(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64), LoraAdapter(kind="lora", r=4, alpha=8.0)
    )
    if moved:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.05)
    return model.eval()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def ours(folder: Path, method: PairedMethod) -> tuple[float, list[torch.Tensor], dict[str, torch.Tensor]]:
    """Return loss, rewards of chosen and rejected, and gradients."""
    pairs = make_pairs()
    store = pair_store([(pair.prompt, pair.chosen, pair.rejected) for pair in pairs])
    start = make_model(folder, moved=False)
    reference = None
    if isinstance(method, DpoMethod):
        engine = flat_engine(start)
        reference = reference_log_probs(start, engine, store, pad_id=0, accelerator=ALONE)
    model = make_model(folder)
    engine = flat_engine(model)
    dataset = PairDataset(store, range(len(store)), reference)
    collate = PairCollator(layout="flat", pad_id=0, with_prompts=isinstance(method, OrpoMethod))
    batch = collate([dataset[index] for index in range(len(dataset))])
    log_probs, _ = engine.score(model, batch)
    scores = pair_scores(batch, log_probs)
    loss = loss_of(method, scores, Totals(*batch["counts"]))
    return float(loss), list(rewards(method, scores)), gradients(model, loss)


def flat_engine(model: Any) -> Engine:
    engine = prepare(model, [np.arange(5, 30), np.arange(9, 20)], attention="auto", say=lambda _: None)
    assert engine.layout == "flat" and engine.scorer is not None
    return engine


def same(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert result.keys() == expected.keys() and result
    total = math.sqrt(sum(float(gradient.norm() ** 2) for gradient in expected.values()))
    assert total > 0
    for name, gradient in result.items():
        gap = float((gradient - expected[name]).norm())
        assert gap <= 2e-5 * max(total, float(expected[name].norm())), name


def config_of(kind: Any, folder: Path, **settings: Any) -> Any:
    return kind(
        output_dir=str(folder),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=4,
        **settings,
    )


SMOOTHED = {"exo_pair": 0.01, "robust": 0.1, "aot": 0.1, "aot_unpaired": 0.1}


@pytest.mark.parametrize("kind", get_args(DpoLoss))
def test_dpo_on_shared_prompts_is_trls(kind: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class OnIds(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    smoothing = SMOOTHED.get(kind, 0.0)
    method = DpoMethod(kind="dpo", beta=0.3, loss_type=[kind], label_smoothing=smoothing)
    loss, (chosen, rejected), result = ours(tiny_model_dir, method)
    pairs = make_pairs()
    model = make_model(tiny_model_dir)
    oracle = OnIds(
        model=model,
        args=config_of(DPOConfig, tmp_path, beta=0.3, loss_type=[kind], label_smoothing=smoothing, max_length=512),
        train_dataset=Dataset.from_dict(
            {
                "prompt_ids": [pair.prompt for pair in pairs],
                "chosen_ids": [pair.chosen for pair in pairs],
                "rejected_ids": [pair.rejected for pair in pairs],
            }
        ),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    # TRL copies a trained adapter as the reference; here the reference is the base
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".ref." in name and "lora_B" in name:
                weight.zero_()
    inputs = oracle.data_collator([oracle.train_dataset[index] for index in range(4)])
    expected = oracle.compute_loss(model, inputs)
    theirs = gradients(model, expected)
    metrics = oracle._metrics["train"] | oracle._metrics["eval"]
    assert loss == pytest.approx(float(expected), rel=2e-5)
    assert float(chosen.mean()) == pytest.approx(metrics["rewards/chosen"][0], rel=1e-4, abs=1e-6)
    assert float(rejected.mean()) == pytest.approx(metrics["rewards/rejected"][0], rel=1e-4, abs=1e-6)
    assert abs(metrics["rewards/margins"][0]) > 1e-3  # policy and reference differ, so that agreement says something
    same(result, {name: gradient for name, gradient in theirs.items() if ".ref." not in name})


REFERENCE_FREE = {
    "cpo": (CpoMethod(kind="cpo", beta=0.3, cpo_alpha=0.7), {"beta": 0.3, "cpo_alpha": 0.7}),
    "cpo hinge": (
        CpoMethod(kind="cpo", beta=0.3, loss_type="hinge", cpo_alpha=0.0),
        {"beta": 0.3, "loss_type": "hinge", "cpo_alpha": 0.0},
    ),
    "cpo ipo": (CpoMethod(kind="cpo", beta=0.3, loss_type="ipo"), {"beta": 0.3, "loss_type": "ipo"}),
    "simpo": (
        SimpoMethod(kind="simpo", beta=2.0, simpo_gamma=0.5, label_smoothing=0.1),
        {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.0, "label_smoothing": 0.1},
    ),
    "orpo": (OrpoMethod(kind="orpo", beta=0.2), {"beta": 0.2}),
}


@pytest.mark.parametrize("name", REFERENCE_FREE)
def test_losses_without_a_reference_are_trls(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    method, settings = REFERENCE_FREE[name]
    loss, _, result = ours(tiny_model_dir, method)
    model = make_model(tiny_model_dir)
    trainer_class = ORPOTrainer if name == "orpo" else CPOTrainer
    oracle = trainer_class.__new__(trainer_class)  # its loss alone: the constructor tokenizes texts
    oracle.accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda tensor: tensor)
    defaults = {"label_smoothing": 0.0, "loss_type": "sigmoid", "cpo_alpha": 1.0, "simpo_gamma": 0.5, "alpha": 0.0}
    fixed = {
        "is_encoder_decoder": False,
        "pad_token_id": 0,
        "padding_value": 0,
        "aux_loss_enabled": False,
        "use_dpo_data_collator": True,
    }
    for key, value in (defaults | fixed | settings).items():
        setattr(oracle, key, value)
    oracle.args = SimpleNamespace(max_length=512)
    expected, _ = oracle.get_batch_loss_metrics(model, padded_batch(), train_eval="train")
    assert loss == pytest.approx(float(expected), rel=2e-5)
    same(result, gradients(model, expected))


def padded_batch() -> dict[str, torch.Tensor]:
    """Return the pairs as the collator of TRL's CPO and ORPO trainers does."""
    batch: dict[str, torch.Tensor] = {}
    for side in ("chosen", "rejected"):
        rows = [(pair.prompt, getattr(pair, side)) for pair in make_pairs()]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        values: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for prompt, answer in rows:
            fill = width - len(prompt) - len(answer)
            values["input_ids"].append(prompt + answer + [0] * fill)
            values["attention_mask"].append([1] * (width - fill) + [0] * fill)
            values["labels"].append([-100] * len(prompt) + answer + [-100] * fill)
        batch |= {f"{side}_{name}": torch.tensor(value) for name, value in values.items()}
    return batch


def test_dpo_at_step_0_is_log_2(tiny_model_dir: Path) -> None:
    model = make_model(tiny_model_dir, moved=False)
    engine = flat_engine(model)
    store = pair_store([(pair.prompt, pair.chosen, pair.rejected) for pair in make_pairs()])
    reference = reference_log_probs(model, engine, store, pad_id=0, accelerator=ALONE)
    assert reference.dtype == torch.float64 and float(reference.max()) < 0
    dataset = PairDataset(store, [2, 0], reference)
    batch = PairCollator(layout="flat", pad_id=0)([dataset[0], dataset[1]])
    scores = pair_scores(batch, engine.score(model, batch)[0])
    method = DpoMethod(kind="dpo")
    assert float(loss_of(method, scores, Totals(*batch["counts"]))) == pytest.approx(math.log(2), abs=1e-12)
    torch.testing.assert_close(scores.chosen, reference[[2, 0], 0], rtol=1e-10, atol=1e-10)


def test_changing_one_pair_leaves_the_others_bitwise_the_same(tiny_model_dir: Path) -> None:
    model = make_model(tiny_model_dir)
    engine = flat_engine(model)
    collate = PairCollator(layout="flat", pad_id=0)

    def sums(pairs: list[PairTokens]) -> torch.Tensor:
        store = pair_store([(pair.prompt, pair.chosen, pair.rejected) for pair in pairs])
        batch = collate([PairDataset(store, range(4))[index] for index in range(4)])
        with torch.no_grad():
            result: torch.Tensor = batch["targets"].sums(engine.score(model, batch)[0])
        return result

    pairs = make_pairs()
    before = sums(pairs)
    pairs[1] = PairTokens([7] * 4, [8] * 11, [9] * 13)
    after = sums(pairs)
    plain_tokens = [0, 1, 4, 5, 6, 7]
    assert torch.equal(before[plain_tokens], after[plain_tokens]) and not torch.equal(before[2:4], after[2:4])


def test_twenty_steps_of_dpo_are_trls(tmp_path: Path, tiny_model_dir: Path) -> None:
    """The whole training: same pairs, order, start adapter and schedule; the reference is that start adapter."""
    from datasets import Dataset
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from tests.command import Project
    from trainer.methods.order import StepPlan, order
    from trainer.tokens.store import TokenStore

    start = tmp_path / "start"
    make_model(tiny_model_dir).float().save_pretrained(start)
    project = Project(tmp_path / "ours")
    schedule = {"max_steps": 20, "learning_rate": 5e-3, "warmup_steps": 2, "lr_scheduler_type": "linear"}
    tiny.write_recipe(
        project.folder,
        model=tiny_model_dir,
        method={"kind": "dpo"},
        adapter={"r": None, "init_from": str(start)},
        train=schedule | {"global_batch_size": 8, "micro_batch_size": 4, "logging_steps": 1},
    )
    for verb in ("data", "pack"):
        assert project.call(verb).code == 0
    result = project.call("train", worker=True)
    assert result.code == 0, result.text
    lines = [json.loads(line) for line in (project.run / "train/metrics.jsonl").read_text().splitlines()]
    store = TokenStore.load(project.run / "pack/train.safetensors")
    pairs = [store.pair(int(row)) for row in order(StepPlan(len(store), 8, 20, 4, 2), 42)]
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    dataset = Dataset.from_dict({name: [pair[at].tolist() for pair in pairs] for at, name in enumerate(columns)})

    class InOrder(DPOTrainer):
        def _prepare_dataset(self, rows: Any, *_: Any, **__: Any) -> Any:
            return rows

        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(dataset)

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, start, is_trainable=True)
    settings = schedule | {"gradient_accumulation_steps": 2, "logging_steps": 1, "save_strategy": "no"}
    oracle = InOrder(
        model=model,
        args=config_of(DPOConfig, tmp_path / "trl", max_length=None, disable_tqdm=True, **settings),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    oracle.train()
    theirs = [line for line in oracle.state.log_history if "loss" in line]
    assert len(lines) == len(theirs) == 20 and lines[0]["loss"] - lines[-1]["loss"] > 0.05
    for name in ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"):
        found, expected = ([float(line[name]) for line in side] for side in (lines, theirs))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3, err_msg=name)
    ours_end = load_file(project.run / "train/adapter/adapter_model.safetensors")
    for name, weight in get_peft_model_state_dict(model).items():
        torch.testing.assert_close(ours_end[name], weight.detach(), rtol=0, atol=1e-3)
