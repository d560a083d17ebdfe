"""Every adapter with every method trains, by either launcher, and resumes where it was stopped."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from acceptance import models
from acceptance.report import Limit, Report
from acceptance.workplace import Workplace, read_json, steps_of

NUM_STEPS = 20
CASE_TIMEOUT_S = 150
# the sums of a backward pass come in another order on a card, every time
SAME_LOSS = {"cuda": 5e-3, "cpu": 1e-6}
RATES = {("none", "sft"): 1e-4, ("none", "dpo"): 2e-5, ("adapter", "sft"): 1e-3, ("adapter", "dpo"): 5e-4}
TINY_RATE = 2e-3


def recipe_of(place: Workplace, method: str, adapter: str, **train: Any) -> Path:
    """Write a recipe; all of a method share its name, and so the prepared rows."""
    is_tiny = place.size == "tiny"
    rate = RATES["none" if adapter == "none" else "adapter", method]
    settings = {"max_steps": NUM_STEPS, "global_batch_size": 4 if is_tiny else 8, "save_steps": 1000}
    return place.write_recipe(
        "-".join([method, adapter, *train]),
        name=method,
        model={"name_or_path": str(place.folder / "model")},
        adapter={"kind": adapter} | ({} if adapter == "none" else {"r": 16}),
        data={"sources": [{"path": str(place.folder / f"{method}.jsonl")}], "split": {"heldout": 0.0}},
        pack={"max_length": 256 if is_tiny else 2048, "packing": method == "sft"},
        method={"kind": method},
        train=settings | {"learning_rate": TINY_RATE if is_tiny else rate} | train,
    )


def prepare(place: Workplace, method: str) -> dict[str, Any]:
    """Run `data` and `pack` once for all adapters of a method."""
    is_tiny = place.size == "tiny"
    models.write_rows(
        place.folder / f"{method}.jsonl",
        count=40 if is_tiny else 320,
        length=40 if is_tiny else 450,
        is_pairs=method == "dpo",
    )
    recipe, run = recipe_of(place, method, "lora"), place.folder / "prepared" / method
    for verb in ("data", "pack"):
        place.trainer(verb, recipe, run, timeout_s=60)
    return {"rows": Limit(float(sum(1 for _ in (run / "data" / "train.jsonl").open())), above=0)}


def new_run(place: Workplace, method: str, name: str) -> Path:
    """Return a run folder that has its rows and lacks the training."""
    run = place.folder / "runs" / name
    shutil.copytree(place.folder / "prepared" / method, run)
    return run


def facts_of(run: Path) -> dict[str, Any]:
    """Return the figures of a finished training."""
    lines, numbers = steps_of(run), read_json(run / "train" / "stage.json")["numbers"]
    losses = [line["loss"] for line in lines]
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    tokens = [line["tokens_per_s"] * line["seconds"] for line in lines]
    return {
        "steps": Limit(len(losses), at_least=NUM_STEPS),
        "first_5_loss": first,
        "last_5_loss": last,
        "loss_drop": Limit(first - last, above=0),
        "min_grad_norm": Limit(min(line["grad_norm"] for line in lines), above=0),
        "peak_gib": Limit(numbers["peak_gib"], above=0),
        "tokens_per_s": numbers["tokens_per_s"],
        "tokens_per_s_after_warm_up": round((tokens[-1] - tokens[4]) / (lines[-1]["seconds"] - lines[4]["seconds"]), 1),
        "micro_batch_size": numbers["micro_batch_size"],
        "is_packed": numbers["is_packed"],
        "weights_dtype": numbers["weights_dtype"],
        "train_seconds": numbers["train_seconds"],
        "losses": losses,
    }


def train(place: Workplace, method: str, adapter: str) -> dict[str, Any]:
    """Train by `trainer train`; weights and checkpoints are thrown away at once, they fill disks."""
    run = new_run(place, method, f"{method}-{adapter}")
    place.trainer("train", recipe_of(place, method, adapter), run, timeout_s=CASE_TIMEOUT_S)
    facts = facts_of(run)
    for name in ("model", "checkpoints"):
        shutil.rmtree(run / "train" / name, ignore_errors=True)
    return facts


def same_losses(place: Workplace, run: Path) -> dict[str, Any]:
    """Compare with the uninterrupted run that the toolkit launched."""
    found, expected = ([line["loss"] for line in steps_of(path)] for path in (run, place.folder / "runs" / "sft-lora"))
    limit = SAME_LOSS["cuda" if place.on_cuda else "cpu"]
    worst = max(abs(one / other - 1) for one, other in zip(found, expected, strict=True))
    last = abs(found[-1] / expected[-1] - 1)
    return {
        "max_loss_relative_diff": Limit(worst, at_most=limit),
        "last_loss_relative_diff": Limit(last, at_most=limit),
        "losses": found,
    }


def launched_from_outside(place: Workplace) -> dict[str, Any]:
    """Run `accelerate launch -m trainer train RECIPE`."""
    run = new_run(place, "sft", "outside")
    options = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    options += ["--num_cpu_threads_per_process", place.environment["OMP_NUM_THREADS"]]
    options += [] if place.on_cuda else ["--cpu"]
    work = ["-m", "trainer", "train", str(recipe_of(place, "sft", "lora")), "--run-dir", str(run)]
    place.execute(
        [sys.executable, "-m", "accelerate.commands.launch", *options, *work],
        timeout_s=CASE_TIMEOUT_S,
    )
    return same_losses(place, run)


def resumed(place: Workplace) -> dict[str, Any]:
    """Stop a training by SIGTERM after its first checkpoint, then give the same command again."""
    run = new_run(place, "sft", "resumed")
    recipe = recipe_of(place, "sft", "lora", save_steps=5)
    command = [sys.executable, "-m", "trainer", "train", str(recipe), "--run-dir", str(run)]
    folder = run / "train" / "checkpoints"
    place.execute(
        command, timeout_s=CASE_TIMEOUT_S, expected=143, stop_when=lambda: any(folder.glob("step_*/manifest.json"))
    )
    stopped_after = len(steps_of(run))
    place.execute(command, timeout_s=CASE_TIMEOUT_S)
    return {"stopped_after_step": Limit(stopped_after, at_most=NUM_STEPS - 1)} | same_losses(place, run)


def run(report: Report, place: Workplace) -> None:
    models.make_model(place.folder / "model", "methods", place.size)
    pairs = [(method, adapter) for method in ("sft", "dpo") for adapter in ("lora", "qlora", "none")]
    report.cases([(f"rows {method}", partial(prepare, place, method)) for method in ("sft", "dpo")], place.together)
    report.cases(
        [(f"{adapter} {method}", partial(train, place, method, adapter)) for method, adapter in pairs], place.together
    )
    others = [("resumed after SIGTERM", resumed), ("launched from outside", launched_from_outside)]
    report.cases([(name, partial(work, place)) for name, work in others], place.together)
