"""Compare the engine on a card: attention with plain attention, gradients with the CPU, speed with TRL."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from acceptance import models
from acceptance.correctness import CARD, CPU, EXACT, load, relative, trained
from acceptance.report import Limit, Report
from acceptance.workplace import Workplace
from trainer.engine import flash
from trainer.engine.batch import moved, of_pairs, of_rows
from trainer.engine.head import Logits, log_probs
from trainer.engine.plain import by_segment
from trainer.engine.prepare import prepare
from trainer.engine.segments import Segment, Segments

LARGEST_GRADIENT_ERROR = 2e-2  # bfloat16 has 8 bits: 4e-3 for each of the roundings that follow one another
FASTER = {"dpo": 2.5, "sft": 1.5}


def attention() -> dict[str, Any]:
    """Compare torch's kernel with plain float32 attention, queries shorter than keys among it (lower right)."""
    if CARD.type == "cpu":
        spans = [Segment(0, 30), Segment(30, 50, 0, 20)]
        inputs = [torch.randn(1, heads, 50, 16) for heads in (4, 2, 2)]
        results = by_segment(*inputs, Segments.of(spans))
        hidden = torch.full((20, 40), float("-inf")).triu(21)
        expected = F.scaled_dot_product_attention(
            inputs[0][:, :, 30:],
            *(torch.cat([tensor[:, :, :20], tensor[:, :, 30:]], 2) for tensor in inputs[1:]),
            attn_mask=hidden,
            enable_gqa=True,
        ).transpose(1, 2)
        return {"max_difference": Limit(relative(results[:, 30:], expected), "<=", 1e-5), "kernel": "plain"}
    figures: dict[str, Any] = {"kernel": flash.fastest(), "torch": torch.__version__}
    for dtype in flash.HALF:
        figures[f"max_difference_{dtype}"] = Limit(max(flash.differences(CARD, dtype)), "<=", flash.TOLERANCE)
    return figures


def head() -> dict[str, Any]:
    """Compare the head's log-probabilities and gradients with cross-entropy in float64."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4096, 256, generator=generator) / 16
    hidden, ids = torch.randn(512, 256, generator=generator), torch.randint(0, 4096, (512,), generator=generator)
    exact = hidden.bfloat16().double().requires_grad_()
    expected = -F.cross_entropy(exact @ weight.bfloat16().double().t(), ids, reduction="none")
    expected.sum().backward()
    layer = torch.nn.Linear(256, 4096, bias=False, device=CARD, dtype=torch.bfloat16).requires_grad_(False)
    layer.weight.copy_(weight)
    rows = hidden.to(CARD, torch.bfloat16).requires_grad_()
    results = log_probs(layer, layer.forward, rows, ids.to(CARD), Logits(), 4096)
    results.sum().backward()
    assert rows.grad is not None and exact.grad is not None
    return {
        "relative_error": Limit(relative(results.detach().cpu().double(), expected.detach()), "<=", 1e-2),
        "gradient_relative_error": Limit(relative(rows.grad.cpu().double(), exact.grad), "<=", LARGEST_GRADIENT_ERROR),
    }


def gradients(folder: Path) -> dict[str, Any]:
    """Compare the gradients of an SFT and of a DPO batch on the card with the CPU's, same weights."""
    random = np.random.default_rng(0)
    rows = [(random.integers(5, 260, size), (np.arange(size) >= size // 4).astype("uint8")) for size in (96, 17, 40)]
    pairs = [tuple(random.integers(5, 260, size) for size in sizes) for sizes in ((40, 12, 9), (8, 30, 21))]
    batches = {"sft": of_rows([rows], "flat", 0), "dpo": of_pairs(pairs, "flat", 0)}
    base = load(folder, "lora", torch.bfloat16, CPU)
    sides = {"card": copy.deepcopy(base).to(CARD), "cpu": base.to(EXACT)}
    figures: dict[str, Any] = {}
    for kind, batch in batches.items():
        results = {}
        for side, model in sides.items():
            engine = prepare(model, [ids for ids, _ in rows], attention="auto", say=print)
            assert engine.layout == "flat"
            device = next(model.parameters()).device
            here = moved(batch, device)
            model.zero_grad()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=side == "card" and device.type == "cuda"):
                values = engine.score(model, here)[0]
                sums = here["targets"].sums(values)
                loss = (
                    -sums.sum() / len(values) if kind == "sft" else -F.logsigmoid(0.1 * (sums[::2] - sums[1::2])).mean()
                )
            loss.backward()
            results[side] = torch.cat([weight.grad.flatten().double().cpu() for weight in trained(model)])
        cosine = F.cosine_similarity(results["card"], results["cpu"], dim=0)
        figures[f"{kind}_gradient_relative_error"] = Limit(relative(results["card"], results["cpu"]), "<=", 0.05)
        figures[f"{kind}_gradient_cosine"] = Limit(cosine.item(), ">=", 0.999)
        figures[f"{kind}_gradient_norm"] = Limit(results["card"].norm().item(), ">", 0)
    return figures


def speed(workplace: Workplace, kind: str, shape: str) -> dict[str, Any]:
    """Run `trainer bench` and take its ratios to TRL's default."""
    path = workplace.folder / f"{kind}-{shape}.json"
    quick = ["--quick"] if shape != "1b" else []
    workplace.execute("-m", "trainer", "bench", kind, *quick, "--shape", shape, "--json", str(path))
    result = json.loads(path.read_text())
    bound = FASTER[kind] if CARD.type == "cuda" else 0.0
    engines = {
        name: {key: value for key, value in figures.items() if key != "rounds"}
        for name, figures in result["engines"].items()
    }
    figures: dict[str, Any] = {"engines": [engines], "gemm": [result["gemm"]], "workload": [result["workload"]]}
    for accounting, ratios in result["ratios"].items():
        for engine, ratio in ratios.items():
            figures[f"{accounting}_over_{engine}"] = Limit(ratio, ">=", bound) if engine == "trl" else ratio
    ours = result["engines"]["ours"]
    figures |= {"peak_gib": ours["peak_bytes"] / 2**30, "grad_norm": Limit(ours["grad_norm"], ">", 0)}
    return figures


def run(report: Report, workplace: Workplace) -> None:
    report.case("attention", attention)
    report.case("head", head)
    report.case("gradients", gradients, models.make_model(workplace.folder / "model", "correctness", "tiny"))
    comparisons = (
        [(kind, shape) for shape in ("1b", "8b") for kind in FASTER] if workplace.size == "real" else [("dpo", "tiny")]
    )
    for kind, shape in comparisons:
        report.case(f"{kind} {shape}", speed, workplace, kind, shape)
