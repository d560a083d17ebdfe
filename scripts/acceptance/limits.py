"""Measure the distance to the card's limit: speed and memory by plan, every lever on and off, TRL at its best.

Shapes of Llama 3.1 8B and Llama 3.2 1B with random weights, LoRA of rank 16 on all linear layers, rows of 4096 tokens
that are all trained. Bounds hold on an H100 or H200; other cards give figures.
"""

import functools
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from acceptance import models
from acceptance.report import Limit, Report
from acceptance.training import Measured, Rig, Setting, fastest, free, gain, train_trl
from acceptance.workplace import Workplace
from trainer.model.planning.advice import planned
from trainer.model.planning.gpus import listed_card
from trainer.model.planning.model_shape import Outline
from trainer.model.planning.planner import GIB
from trainer.verbs.bench import clock
from trainer.verbs.bench.shapes import SHAPES, LlamaShape

LENGTH = {"real": 4096, "tiny": 64}
LONG = {"real": 32768, "tiny": 256}
TINY = LlamaShape(layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, vocabulary=320)
LEAST_TOKENS_PER_S = {"8b": 15_000, "1b": 0.6 * 133_000}
"""8B: NVIDIA's NeMo AutoModel publishes 12,473 for it, the ceiling is about 23,000; 1B: 60 % of its ceiling."""
QLORA_SHARE = 0.9
SMALLEST_QLORA_BYTES = 7e9
PREDICTED_WITHIN = 0.05
SAME_LOSS, SAME_GRADIENT = 2e-2, 1e-1
"""As shares: what `trainer bench` allows where one side computes in bfloat16."""
NOTHING_KEPT = "train.gradient_checkpointing=true"
ALL_KEPT = "train.gradient_checkpointing=false"
ROWS = "train.global_batch_size={0}"
MICRO = "train.micro_batch_size={0}"


class Lever(NamedTuple):
    """What is compared with what, everything else being equal."""

    name: str
    off: Setting
    on: Setting
    predicted: float | None = None
    """Gain in speed that was predicted, from the bytes and operations that are saved; None: by the plan's own."""


def batch(rows: int, *more: str) -> tuple[str, ...]:
    """Return the keys for steps of one micro-batch."""
    return (ROWS.format(rows), MICRO.format(rows), *more)


LEVERS = {
    "lora": (
        Lever("least recompute", Setting(batch(2, NOTHING_KEPT)), Setting(batch(2))),
        Lever("lora in one product", Setting(batch(1, ALL_KEPT), "product"), Setting(batch(1, ALL_KEPT)), 1.2),
        Lever("head on trained tokens", Setting(batch(1, ALL_KEPT), "head"), Setting(batch(1, ALL_KEPT)), 1.02),
        Lever(
            "attention kernel",
            Setting(batch(1, ALL_KEPT, "model.attn_implementation=sdpa")),
            Setting(batch(1, ALL_KEPT)),
            1.0,
        ),
        Lever(
            "fused optimizer",
            Setting(batch(2, "train.optim=adamw_torch")),
            Setting(batch(2, "train.optim=adamw_torch_fused")),
            1.0,
        ),
    ),
    "qlora": (Lever("weights dequantised once", Setting(batch(1), "residency"), Setting(batch(1)), 1.05),),
}


def shape_of(workplace: Workplace, name: str) -> LlamaShape:
    return SHAPES[name] if workplace.size == "real" else TINY


def described(training: Measured) -> dict[str, Any]:
    """Return what a reader wants to know of one training."""
    return {
        "tokens_per_s": training.tokens_per_s,
        "peak_gib": training.peak_bytes / GIB,
        "recompute": training.recompute,
        "micro_batch_size": training.micro_batch_size,
        "loss": training.loss,
        "grad_norm": Limit(training.grad_norm, ">", 0),
    }


def is_hopper() -> bool:
    """Tell whether the bounds hold here."""
    return clock.on_cuda() and any(name in clock.device_name() for name in ("H100", "H200"))


def bounded(value: float, sign: str, bound: float) -> Limit | float:
    return Limit(value, sign, bound) if is_hopper() else value


def predicted(training: Measured) -> dict[str, Any]:
    """Compare what was allocated with what was predicted; the CPU's peak is of the whole process."""
    if training.predicted_bytes is None:
        return {}
    ratio = training.predicted_bytes / training.peak_bytes
    figures: dict[str, Any] = {"predicted_gib": training.predicted_bytes / GIB}
    if clock.on_cuda():
        figures["prediction_error"] = Limit(abs(ratio - 1), "<=", PREDICTED_WITHIN)
    return figures


def by_plan(rig: Rig, name: str, training: Measured) -> dict[str, Any]:
    """Describe a training by the recipe's defaults: levels by plan, micro-batch by plan."""
    figures = described(training) | predicted(training)
    figures["tokens_per_s"] = bounded(training.tokens_per_s, ">=", LEAST_TOKENS_PER_S[name])
    if clock.on_cuda():
        figures["share_of_matrix_rate"] = share_of_rate(rig, training)
    return figures


def share_of_rate(rig: Rig, training: Measured) -> float:
    """Return the share of a large product's rate that 4 operations a weight and token make."""
    return 4 * rig.shape.linear_weights() * training.tokens_per_s / clock.gemm()["flops"]


def compare_lever(rig: Rig, lever: Lever) -> dict[str, Any]:
    """Measure one lever on and off, in turns."""
    off, on = gain(rig, lever.off, lever.on)
    expected = lever.predicted or predicted_gain(rig, lever)
    figures = {f"{key}_off": value for key, value in described(off).items()}
    figures |= {f"{key}_on": value for key, value in described(on).items()}
    figures |= {"gain": on.tokens_per_s / off.tokens_per_s, "gain_predicted": expected}
    if clock.on_cuda():
        figures["memory_on_over_off"] = on.peak_bytes / off.peak_bytes
    return figures | same(on, off)


def same(training: Measured, second: Measured) -> dict[str, Any]:
    """Two trainings of the same rows: their first losses and gradients agree, or one of them trains something else."""
    return {
        "loss_difference": Limit(abs(training.loss - second.loss) / second.loss, "<=", SAME_LOSS),
        "gradient_difference": Limit(
            abs(training.grad_norm - second.grad_norm) / second.grad_norm, "<=", SAME_GRADIENT
        ),
    }


def predicted_gain(rig: Rig, lever: Lever) -> float | None:
    """Return the ratio of predicted seconds of a step."""
    card = (
        listed_card(clock.device_name(), torch.cuda.get_device_properties(0).total_memory) if clock.on_cuda() else None
    )
    if card is None:
        return None
    outline = Outline.of(rig.model.config.get_text_config().to_dict())
    off, on = (planned(rig.recipe(setting), outline, card).seconds for setting in (lever.off, lever.on))
    return off / on


def qlora(rig: Rig, lora: Measured | None) -> dict[str, Any]:
    """QLoRA at the same tokens a micro-batch as LoRA."""
    training = rig.train(Setting(batch(2)))
    figures = described(training) | predicted(training)
    if lora:
        figures["share_of_lora"] = bounded(training.tokens_per_s / lora.tokens_per_s, ">=", QLORA_SHARE)
    return figures


def smallest_qlora(workplace: Workplace) -> dict[str, Any]:
    """QLoRA where memory is all: 2k tokens, everything recomputed, states in 8 bits on a card."""
    rig = Rig(workplace, shape_of(workplace, "8b"), "qlora", LENGTH[workplace.size] // 2)
    optim = "train.optim=adamw_8bit" if clock.on_cuda() else "train.optim=adamw_torch"
    training = rig.train(Setting(batch(1, NOTHING_KEPT, optim)))
    figures = described(training) | predicted(training)
    if clock.on_cuda():
        figures["peak_bytes"] = Limit(training.peak_bytes, "<=", SMALLEST_QLORA_BYTES)
    return figures


def long(rig_of: Any) -> dict[str, Any]:
    """One pack of 32k tokens, by plan."""
    training = rig_of().train(Setting(batch(1)))
    return described(training) | predicted(training)


def trl(workplace: Workplace, name: str, **settings: Any) -> Measured:
    """TRL at its best: the fastest of two rows or one, without recomputation, or two with."""
    train = functools.partial(train_trl, workplace, shape_of(workplace, name), LENGTH[workplace.size], **settings)
    trials = [functools.partial(train, micro=2), functools.partial(train, micro=1)]
    if clock.on_cuda():
        trials.append(functools.partial(train, micro=2, gradient_checkpointing=True))
    return fastest(*trials)


def train_peers(report: Report, workplace: Workplace, name: str) -> list[Measured]:
    """Measure TRL, and TRL with Liger's layers; Unsloth pins releases of TRL that exclude this one."""
    results: list[Measured] = []

    def measured(**settings: Any) -> dict[str, Any]:
        results.append(trl(workplace, name, **settings))
        return described(results[-1])

    report.case(f"{name} trl", measured)
    if clock.on_cuda() and find_spec("liger_kernel"):
        report.case(f"{name} trl liger", functools.partial(measured, use_liger_kernel=True))
    return results


def against(training: Measured, peers: list[Measured]) -> dict[str, Any]:
    """Compare with the fastest of other engines."""
    best = max(peers, key=lambda second: second.tokens_per_s)
    return {"over_best_peer": training.tokens_per_s / best.tokens_per_s} | same(training, best)


def of_shape(report: Report, workplace: Workplace, name: str) -> None:
    """Measure LoRA on one shape: TRL, by plan, and each lever."""
    peers = train_peers(report, workplace, name)
    rigs: list[Rig] = []
    plain: list[Measured] = []

    def first() -> dict[str, Any]:
        rigs.append(Rig(workplace, shape_of(workplace, name), "lora", LENGTH[workplace.size]))
        training = rigs[0].train(Setting((ROWS.format(2),)))
        plain.append(training)
        return by_plan(rigs[0], name, training) | (against(training, peers) if peers else {})

    report.case(f"{name} lora by plan", first)
    for lever in LEVERS["lora"] if rigs else ():
        report.case(f"{name} {lever.name}", compare_lever, rigs[0], lever)
    rigs.clear()
    free()
    if name == "8b":
        fastest_lora = plain[0] if plain else None
        of_qlora(report, workplace, fastest_lora)


def of_qlora(report: Report, workplace: Workplace, lora: Measured | None) -> None:
    """Measure QLoRA on the 8B shape."""
    rigs: list[Rig] = []

    def first() -> dict[str, Any]:
        rigs.append(Rig(workplace, shape_of(workplace, "8b"), "qlora", LENGTH[workplace.size]))
        return qlora(rigs[0], lora)

    report.case("8b qlora", first)
    for lever in LEVERS["qlora"] if rigs else ():
        report.case(f"8b qlora {lever.name}", compare_lever, rigs[0], lever)
    rigs.clear()
    free()
    report.case("8b qlora smallest", smallest_qlora, workplace)
    free()


def run(report: Report, workplace: Workplace) -> None:
    models.make_model(workplace.folder / "model", "correctness", "tiny")
    for name in ("8b", "1b") if workplace.size == "real" else ("8b",):
        of_shape(report, workplace, name)
    report.case("8b lora 32k", long, lambda: Rig(workplace, shape_of(workplace, "8b"), "lora", LONG[workplace.size]))
