"""Loss curve of LoRA on a frozen base in 8 bits beside one in float32: SmolLM2-135M on the quickstart's rows.

    python scripts/bench/float8_curve.py [--steps 60] [--folder DIR] [--json benchmarks/results/cpu-float8-curve.json]

Two trainings with the same seed, rows and order; on the CPU 8-bit products are computed in float32 from the same
codes. The adapter that was trained on 8 bits is then scored on the float32 base, where it will be used. Formats: the
error of dY W against float64 with dY rounded to e4m3 and to e5m2, on the gradients of one batch. Exit 1 where a
training fails or the last validation losses are more than 5 % apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainer.disk import cache_dir
from trainer.engine import float8
from trainer.model import adapter as adapters
from trainer.model.load import load_model
from trainer.recipe import Recipe, load_recipe
from trainer.tokens.store import TokenStore

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/quickstart.yaml"
ARMS = {"float32": False, "float8": True}
EVERY = 10
MOST_APART = 0.05
"""Of the last validation losses."""


def settings(steps: int, *, in_float8: bool) -> list[str]:
    """Return what differs from the quickstart, as options."""
    changed = {
        "train.max_steps": steps,
        "train.num_train_epochs": "null",
        "train.eval_steps": steps,
        "train.float8_base": str(in_float8).lower(),
        "data.split.validation": 0.1,
        "model.dtype": "float32",
    }
    return [part for key, value in changed.items() for part in ("--set", f"{key}={value}")]


def train(run: Path, steps: int, *, in_float8: bool) -> dict[str, Any]:
    """Train in processes of their own; return the curve."""
    before = os.times()
    for verb in ("data", "pack", "train"):
        command = [sys.executable, "-m", "trainer", verb, str(RECIPE), "--run-dir", str(run)]
        subprocess.run(command + settings(steps, in_float8=in_float8), check=True, cwd=ROOT)
    after = os.times()
    lines = [json.loads(line) for line in (run / "train/metrics.jsonl").read_text().splitlines()]
    steps_of = [line for line in lines if "loss" in line]
    return {
        "loss": [line["loss"] for line in steps_of],
        "grad_norm": [line["grad_norm"] for line in steps_of],
        "validation_loss": [line["validation_loss"] for line in lines if "validation_loss" in line][-1],
        "tokens": json.loads((run / "train/stage.json").read_text())["numbers"]["tokens"],
        "cpu_seconds": round(sum(after[2:4]) - sum(before[2:4]), 1),
    }


def validation_loss(recipe: Recipe, run: Path) -> float:
    """Return the mean loss of the trained tokens of the validation rows on the float32 base."""
    model = adapters.load_on(load_model(recipe.model, cache_dir(), dtype=torch.float32), run / "train/adapter")
    store = TokenStore.load(run / "pack/validation.safetensors")
    total, number = 0.0, 0
    for row in range(len(store)):
        ids, mask = (torch.from_numpy(array.astype("int64")) for array in store.row(row))
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        is_trained = mask[1:] > 0
        total += float(torch.nn.functional.cross_entropy(logits[is_trained], ids[1:][is_trained], reduction="sum"))
        number += int(is_trained.sum())
    return total / number


def formats(recipe: Recipe, run: Path) -> dict[str, dict[str, float]]:
    """Return the error of dY W, as a share of its norm, for gradients of one row at every linear layer."""
    model: Any = load_model(recipe.model, cache_dir(), dtype=torch.float32)
    model.requires_grad_(False)
    model.enable_input_require_grads()
    ids = torch.from_numpy(TokenStore.load(run / "pack/train.safetensors").row(0)[0].astype("int64"))
    results: dict[str, list[float]] = {"e4m3": [], "e5m2": []}

    def watch(module: torch.nn.Linear, _: Any, grads: tuple[torch.Tensor, ...]) -> None:
        dy, weight = grads[0].reshape(-1, grads[0].shape[-1]), module.weight
        codes, scale = float8.rounded(weight)
        frozen = codes.double() * scale  # the base as it is: what is compared is the rounding of dY alone
        exact = dy.double() @ frozen
        for name, kind in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
            results[name].append(float((_as(kind, dy * scale[:, 0]) @ codes.double() - exact).norm() / exact.norm()))

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_full_backward_hook(watch)
    model(input_ids=ids[None], labels=ids[None], use_cache=False).loss.backward()
    return {name: {"median": statistics.median(gaps), "largest": max(gaps)} for name, gaps in results.items()}


def _as(kind: torch.dtype, rows: torch.Tensor) -> torch.Tensor:
    """Return rows as a format holds them, with a scale for each, in float64."""
    scale = (rows.abs().amax(1, keepdim=True) / torch.finfo(kind).max).clamp_min(float8.SMALLEST_SCALE)
    return (rows / scale).to(kind).double() * scale


def table(arms: dict[str, Any]) -> str:
    """Return means over ten steps each: loss and gradient norm of both."""
    lines = ["| steps | " + " | ".join(f"loss, {name} | gradient norm" for name in arms) + " |"]
    lines.append("|---" * (1 + 2 * len(arms)) + "|")
    for start in range(0, len(next(iter(arms.values()))["loss"]), EVERY):
        cells = [
            f"{statistics.mean(arm[key][start : start + EVERY]):.4f}"
            for arm in arms.values()
            for key in ("loss", "grad_norm")
        ]
        lines.append(f"| {start + 1} to {start + EVERY} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=None, help="where the runs go, instead of a temporary folder")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/cpu-float8-curve.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="float8-") as scratch:
        runs = {name: Path(scratch) / name for name in ARMS}
        arms = {name: train(runs[name], chosen.steps, in_float8=flag) for name, flag in ARMS.items()}
        recipe = load_recipe(RECIPE)
        for name, run in runs.items():
            arms[name]["validation_loss_on_float32_base"] = validation_loss(recipe, run)
        result = {
            "benchmark": "float8-curve",
            "device": "cpu",
            "command": f"python scripts/bench/float8_curve.py --steps {chosen.steps}",
            "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
            "dy_formats": formats(recipe, runs["float32"]),
            "arms": arms,
        }
    chosen.json.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(table(arms))
    print(
        json.dumps({name: {key: value for key, value in arm.items() if "valid" in key} for name, arm in arms.items()})
    )
    print(json.dumps(result["dy_formats"]))
    ends = [arm["validation_loss"] for arm in arms.values()]
    return int(abs(ends[1] / ends[0] - 1) > MOST_APART)


if __name__ == "__main__":
    raise SystemExit(main())
