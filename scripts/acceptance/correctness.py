"""Check that the same weights give the same numbers on the card and on the CPU: packed or not, saved, merged, reopened.

The reference is the CPU in float32; without a card it is the CPU in float64, so that every line of this still runs.
"""

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import bitsandbytes.functional as bnb
import numpy as np
import torch
from bitsandbytes.nn import Linear4bit

from acceptance import models
from acceptance.report import Limit, Report
from acceptance.workplace import Workplace
from trainer.engine.batch import moved, of_rows
from trainer.engine.prepare import prepare
from trainer.model.adapter import attach
from trainer.model.load import load_model
from trainer.recipe.model import LoraAdapter, ModelSection, QloraAdapter

CPU = torch.device("cpu")
CARD = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
EXACT = torch.float32 if torch.cuda.is_available() else torch.float64
LARGEST_ERROR = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


class Outcome(NamedTuple):
    """Loss, logits of all real positions (N, V) and the LoRA gradients in one vector, each float64."""

    loss: torch.Tensor
    logits: torch.Tensor
    gradient: torch.Tensor


def load(folder: Path, kind: str, dtype: torch.dtype, placement: torch.device) -> Any:
    """Load a base model as the trainer does, with a seeded LoRA adapter whose B is not zero."""
    adapter = (QloraAdapter if kind == "qlora" else LoraAdapter)(kind=kind, r=8, alpha=16.0)
    section = ModelSection(name_or_path=str(folder))
    model = attach(load_model(section, folder, adapter=adapter, dtype=dtype, placement=placement), adapter)
    generator = torch.Generator().manual_seed(1)
    for weight in trained(model):
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
    return model.eval()


def trained(model: Any) -> list[torch.nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def measure(model: Any, *, is_packed: bool = False, autocast: bool = False) -> Outcome:
    """Run five seeded rows of different lengths forward and backward, their first quarter not trained."""
    generator, placement = np.random.default_rng(0), next(model.parameters()).device
    rows = [(generator.integers(5, 260, size), np.arange(size) >= size // 4) for size in (96, 17, 64, 40, 75)]
    engine = prepare(model, [ids for ids, _ in rows], attention="auto" if is_packed else "sdpa", say=print)
    assert engine.layout == ("flat" if is_packed else "padded"), "this model is covered"
    batch = moved(of_rows([[row] for row in rows], engine.layout, 0), placement)
    inputs = batch["inputs"]
    real = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    if not is_packed:  # a line a row, filled up on the right
        lengths = torch.tensor([len(ids) for ids, _ in rows], device=placement)
        real = torch.arange(real.shape[1], device=placement) < lengths[:, None]
    model.zero_grad()
    with torch.autocast(placement.type, dtype=torch.bfloat16, enabled=autocast):
        logits = engine.call(model, batch).logits[real]
        loss = -engine.score(model, batch)[0].mean()
    loss.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in trained(model)])
    return Outcome(*(value.detach().double().cpu() for value in (loss, logits, gradient)))


def compare(actual: Outcome, expected: Outcome, largest_error: float) -> dict[str, Any]:
    cosine = torch.nn.functional.cosine_similarity(actual.gradient, expected.gradient, dim=0)
    return {
        "loss_relative_error": Limit(relative(actual.loss, expected.loss), "<=", largest_error),
        "logits_relative_error": Limit(relative(actual.logits, expected.logits), "<=", largest_error),
        "gradient_relative_error": relative(actual.gradient, expected.gradient),
        "gradient_cosine": Limit(cosine.item(), ">=", 0.999),
    }


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    return ((actual - expected).norm() / expected.norm()).item()


def plain(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Compare a LoRA model on the card with the reference."""
    actual = measure(load(folder, "lora", dtype, CARD), autocast=dtype == torch.bfloat16)
    return compare(actual, measure(load(folder, "lora", EXACT, CPU)), LARGEST_ERROR[dtype])


def packing(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Compare packed rows with the same rows padded, both on the card."""
    model, autocast = load(folder, "lora", dtype, CARD), dtype == torch.bfloat16
    packed = measure(model, is_packed=True, autocast=autocast)
    return compare(packed, measure(model, autocast=autocast), LARGEST_ERROR[dtype])


def four_bit_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the dequantised weights of a 4-bit model, on the CPU."""
    layers = [(name, layer.weight) for name, layer in model.named_modules() if type(layer) is Linear4bit]
    return {name: dequantised(weight.data, weight.quant_state) for name, weight in layers}


def dequantised(packed: torch.Tensor, state: Any) -> torch.Tensor:
    exact = copy.deepcopy(state)
    exact.dtype = torch.float32
    return bnb.dequantize_4bit(packed, exact).cpu()


def nf4_weights(folder: Path) -> dict[str, Any]:
    """Compare NF4, double quantised: the same codes dequantised on both sides, and a model quantised on both."""
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(2)).bfloat16()
    codes, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    expected = dequantised(codes, state)
    state.to(CARD)
    same_codes = (dequantised(codes.to(CARD), state) - expected).abs().max() / expected.abs().max()
    sides = [four_bit_weights(load(folder, "qlora", torch.bfloat16, placement)) for placement in (CARD, CPU)]
    pairs = [(sides[0][name], sides[1][name]) for name in sides[1]]
    return {
        "num_layers": Limit(len(pairs), ">", 0),
        "same_codes_max_relative_diff": Limit(same_codes.item(), "<=", 1e-6),
        "model_max_diff": max((first - second).abs().max().item() for first, second in pairs),
        "model_relative_error": Limit(max(relative(*pair) for pair in pairs), "<=", 1e-3),
    }


def nf4(folder: Path) -> dict[str, Any]:
    """Compare a QLoRA model on the card with the reference on its dequantised weights."""
    model, reference = load(folder, "qlora", torch.bfloat16, CARD), load(folder, "lora", EXACT, CPU)
    for name, weight in four_bit_weights(model).items():
        reference.get_submodule(name).weight.data.copy_(weight)
    return compare(measure(model, autocast=True), measure(reference), LARGEST_ERROR[torch.bfloat16])


def pipeline(folder: Path, workplace: Workplace, kind: str) -> dict[str, Any]:
    """Train, save, merge and reopen by `trainer run`; its own proof must hold."""
    rows = models.write_rows(workplace.folder / "rows.jsonl", count=40, length=60)
    recipe = workplace.write_recipe(
        f"pipeline-{kind}",
        model={"name_or_path": str(folder)},
        adapter={"kind": kind, "r": 8},
        data={"sources": [{"path": str(rows)}]},
        pack={"max_length": 256},
        train={"max_steps": 6, "global_batch_size": 8, "learning_rate": 1e-3},
        eval={"max_rows": 4, "latency_rows": 1, "max_new_tokens": 8},
        export={"formats": ["adapter", "merged"]},
    )
    run = workplace.folder / "runs" / kind
    workplace.trainer("run", recipe, run)
    proofs = json.loads((run / "export" / "verify.json").read_text())
    passed = {f"{name}_passed": Limit(float(proofs[name]["passed"]), ">=", 1) for name in ("adapter", "merged")}
    names = ("max_logit_diff", "mean_kl", "top1_agreement", "num_positions")
    return passed | {f"{name}_{key}": proof[key] for name, proof in proofs.items() for key in names}


def run(report: Report, workplace: Workplace) -> None:
    folder = models.make_model(workplace.folder / "model", "correctness", workplace.size)
    for dtype in LARGEST_ERROR:
        name = str(dtype).removeprefix("torch.")
        report.case(name, plain, folder, dtype)
        report.case(f"packing {name}", packing, folder, dtype)
    report.case("nf4 weights", nf4_weights, folder)
    report.case("nf4", nf4, folder)
    for kind in ("lora", "qlora") if workplace.size == "real" else ("qlora",):
        report.case(f"pipeline {kind}", pipeline, folder, workplace, kind)
