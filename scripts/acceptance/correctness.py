"""The same weights give the same numbers on the card as on the CPU, packed or not, saved, merged and reopened.

The reference is the CPU in float32; without a card it is the CPU in float64, so that every line of this still runs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import numpy as np
import torch
from acceptance import models
from acceptance.report import Limit, Report
from acceptance.workplace import Workplace, read_json
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from trainer.methods.collate import Collator
from trainer.methods.sft import token_loss
from trainer.model.adapter import attach
from trainer.model.load import load_model
from trainer.recipe.model import LoraAdapter, ModelSection, QloraAdapter
from transformers import AutoModelForCausalLM

CPU = torch.device("cpu")
FLOAT32_LIMIT, BFLOAT16_LIMIT, COSINE_LIMIT = 1e-3, 2e-2, 0.999


@dataclass
class Outcome:
    """Logits of all real positions (N, V) and the LoRA gradients in one vector."""

    loss: float
    logits: torch.Tensor
    gradient: torch.Tensor


@dataclass
class Bench:
    """A base model on disk, rows, and where they are computed."""

    folder: Path
    cache: Path
    card: torch.device
    exact: torch.dtype

    def model(self, kind: str, dtype: torch.dtype, place: torch.device) -> Any:
        """Load the base as the trainer does, with a LoRA adapter that is already trained, so to speak."""
        adapter = (QloraAdapter if kind == "qlora" else LoraAdapter)(kind=kind, r=8, alpha=16.0)
        section = ModelSection(name_or_path=str(self.folder))
        model = attach(load_model(section, self.cache, adapter=adapter, dtype=dtype, place=place), adapter)
        generator = torch.Generator().manual_seed(1)
        for weight in trained(model):
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
        return model.eval()


def trained(model: Any) -> list[torch.nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def batch(*, is_packed: bool) -> dict[str, torch.Tensor]:
    """Return five seeded rows of different lengths, their first quarter not trained."""
    generator = np.random.default_rng(0)
    rows = [(generator.integers(5, 260, size), np.arange(size) >= size // 4) for size in (96, 17, 64, 40, 75)]
    return Collator(pad_id=0, is_packed=is_packed)([rows] if is_packed else [[row] for row in rows])


def measure(model: Any, *, is_packed: bool = False, autocast: bool = False) -> Outcome:
    """Run forward and backward once."""
    place = next(model.parameters()).device
    inputs = {name: value.to(place) for name, value in batch(is_packed=is_packed).items()}
    labels = inputs.pop("labels")
    real = inputs.get("attention_mask", torch.ones_like(labels)).bool()
    model.zero_grad()
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=autocast):
        outputs = model(**inputs, use_cache=False)
        loss = token_loss(outputs, labels)
    loss.backward()
    gradient = torch.cat([weight.grad.double().cpu().flatten() for weight in trained(model)])
    return Outcome(loss.item(), outputs.logits[real].detach().double().cpu(), gradient)


def compare(found: Outcome, expected: Outcome, limit: float) -> dict[str, Any]:
    cosine = torch.nn.functional.cosine_similarity(found.gradient, expected.gradient, dim=0)
    return {
        "logits_relative_error": Limit(relative(found.logits, expected.logits), at_most=limit),
        "loss_relative_error": Limit(abs(found.loss / expected.loss - 1), at_most=limit),
        "gradient_cosine": Limit(float(cosine), at_least=COSINE_LIMIT),
        "gradient_relative_error": relative(found.gradient, expected.gradient),
    }


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    return float((found - expected).norm() / expected.norm())


def plain(bench: Bench, dtype: torch.dtype, limit: float) -> dict[str, Any]:
    """Compare a LoRA model on the card with the reference."""
    found = measure(bench.model("lora", dtype, bench.card), autocast=dtype == torch.bfloat16)
    return compare(found, measure(bench.model("lora", bench.exact, CPU)), limit)


def packing(bench: Bench, dtype: torch.dtype, limit: float) -> dict[str, Any]:
    """Compare packed rows with the same rows padded, both on the card."""
    model = bench.model("lora", dtype, bench.card)
    run = partial(measure, model, autocast=dtype == torch.bfloat16)
    return compare(run(is_packed=True), run(), limit)


def four_bit_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the dequantised weights of a 4-bit model, on the CPU."""
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) is Linear4bit]
    return {name: _dequantised(layer.weight.data, layer.weight.quant_state) for name, layer in layers}


def _dequantised(packed: torch.Tensor, state: Any) -> torch.Tensor:
    exact = copy.deepcopy(state)
    exact.dtype = torch.float32
    return bnb.dequantize_4bit(packed, exact).cpu()


def nf4_weights(bench: Bench) -> dict[str, Any]:
    """Compare NF4 (double quantised): the same codes dequantised on both sides, and whole models quantised on both."""
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(2)).bfloat16()
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    expected = _dequantised(packed, state)
    moved = copy.deepcopy(state)
    moved.to(bench.card)
    difference = float((_dequantised(packed.to(bench.card), moved) - expected).abs().max() / expected.abs().max())
    on_card = four_bit_weights(bench.model("qlora", torch.bfloat16, bench.card))
    on_cpu = four_bit_weights(bench.model("qlora", torch.bfloat16, CPU))
    assert on_card.keys() == on_cpu.keys() and on_card, "the same layers are in 4 bits"
    return {
        "same_codes_max_relative_diff": Limit(difference, at_most=1e-6),
        "models_relative_error": Limit(max(relative(on_card[name], on_cpu[name]) for name in on_card), at_most=1e-3),
        "models_max_diff": max(float((on_card[name] - on_cpu[name]).abs().max()) for name in on_card),
        "quantisation_relative_error": relative(expected, weight.float()),
        "num_layers": len(on_card),
    }


def nf4(bench: Bench) -> dict[str, Any]:
    """Compare a QLoRA model on the card with the reference on its dequantised weights."""
    model = bench.model("qlora", torch.bfloat16, bench.card)
    reference = bench.model("lora", bench.exact, CPU)
    for name, weight in four_bit_weights(model).items():
        reference.get_submodule(name).weight.data.copy_(weight)
    return compare(measure(model, autocast=True), measure(reference), BFLOAT16_LIMIT)


def pipeline(bench: Bench, place: Workplace, kind: str) -> dict[str, Any]:
    """Train with `trainer run`, then judge verify.json and reopen the merged model with transformers alone."""
    rows = models.write_rows(place.folder / f"rows-{kind}.jsonl", count=40, length=60, is_pairs=False)
    recipe = place.write_recipe(
        f"pipeline-{kind}",
        model={"name_or_path": str(bench.folder)},
        adapter={"kind": kind, "r": 8},
        data={"sources": [{"path": str(rows)}]},
        pack={"max_length": 256},
        train={"max_steps": 6, "global_batch_size": 8, "learning_rate": 1e-3},
        eval={"max_rows": 4, "latency_rows": 1, "max_new_tokens": 8},
        export={"formats": ["adapter", "merged"]},
    )
    run = place.folder / "runs" / f"pipeline-{kind}"
    place.trainer("run", recipe, run, timeout_s=200)
    proofs = read_json(run / "export" / "verify.json")
    figures: dict[str, Any] = {
        f"{name}_passed": Limit(float(proof["passed"]), at_least=1) for name, proof in proofs.items()
    }
    figures |= {f"{name}_max_logit_diff": proof["max_logit_diff"] for name, proof in proofs.items()}
    figures["num_formats"] = Limit(len(proofs), at_least=2)
    figures["merged_relative_error"] = Limit(_merged_error(bench, run / "export"), at_most=BFLOAT16_LIMIT)
    return figures


def _merged_error(bench: Bench, export: Path) -> float:
    inputs = {name: value.to(bench.card) for name, value in batch(is_packed=True).items() if name != "labels"}
    base, whole = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(bench.card)
        for folder in (bench.folder, export / "merged")
    )
    with torch.no_grad():
        expected = PeftModel.from_pretrained(base, str(export / "adapter")).eval()(**inputs).logits
        return relative(whole.eval()(**inputs).logits, expected)


def run(report: Report, place: Workplace) -> None:
    folder = models.make_model(place.folder / "model", "correctness", place.size)
    card = torch.device("cuda", 0) if place.on_cuda else CPU
    bench = Bench(folder, place.folder / "cache", card, torch.float32 if place.on_cuda else torch.float64)
    report.case("float32", partial(plain, bench, torch.float32, FLOAT32_LIMIT))
    report.case("bfloat16", partial(plain, bench, torch.bfloat16, BFLOAT16_LIMIT))
    report.case("nf4 weights", partial(nf4_weights, bench))
    report.case("nf4", partial(nf4, bench))
    report.case("packing float32", partial(packing, bench, torch.float32, FLOAT32_LIMIT))
    report.case("packing bfloat16", partial(packing, bench, torch.bfloat16, BFLOAT16_LIMIT))
    report.cases(
        [(f"pipeline {kind}", partial(pipeline, bench, place, kind)) for kind in ("lora", "qlora")], place.together
    )
