"""Train every adapter with every method, by either launcher, and resume stopped trainings."""

import json
import shutil
from pathlib import Path
from typing import Any

from acceptance import models
from acceptance.report import Limit, Report
from acceptance.workplace import Workplace

NUM_STEPS = 20
# the sums of a backward pass on a card come in another order every time
SAME_LOSS = {True: 5e-3, False: 1e-6}
RATES = {("none", "sft"): 1e-4, ("none", "dpo"): 2e-5, ("lora", "sft"): 1e-3, ("lora", "dpo"): 5e-4}
TINY_RATE = 2e-3
ADAPTERS = ("lora", "qlora", "none")
TINY_ADAPTERS = {"sft": ("lora",), "dpo": ("none",)}  # for time; qlora is in the other part


def recipe_of(workplace: Workplace, method: str, adapter: str, **train: Any) -> Path:
    """Write a recipe; all of a method share its name, and so the prepared rows."""
    is_tiny = workplace.size == "tiny"
    rate = TINY_RATE if is_tiny else RATES["none" if adapter == "none" else "lora", method]
    settings = {"max_steps": NUM_STEPS, "global_batch_size": 4 if is_tiny else 8, "save_steps": 1000}
    return workplace.write_recipe(
        "-".join([method, adapter, *train]),
        name=method,
        model={"name_or_path": str(workplace.folder / "model")},
        adapter={"kind": adapter} | ({} if adapter == "none" else {"r": 16}),
        data={"sources": [{"path": str(workplace.folder / f"{method}.jsonl")}], "split": {"heldout": 0.0}},
        pack={"max_length": 256 if is_tiny else 2048, "packing": method == "sft"},
        method={"kind": method},
        train=settings | {"learning_rate": rate} | train,
    )


def prepare(workplace: Workplace, method: str) -> dict[str, Any]:
    """Run `data` and `pack` once for all trainings of a method."""
    count, length = (40, 40) if workplace.size == "tiny" else (320, 440)
    models.write_rows(workplace.folder / f"{method}.jsonl", count=count, length=length, is_pairs=method == "dpo")
    for verb in ("data", "pack"):
        workplace.trainer(verb, recipe_of(workplace, method, "lora"), workplace.folder / method)
    return {"num_rows": count, "tokens_per_answer": length}


def new_run(workplace: Workplace, method: str, name: str) -> Path:
    """Return a run folder that has its rows and lacks the training."""
    return shutil.copytree(workplace.folder / method, workplace.folder / "runs" / name)


def steps_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "train" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def trained(workplace: Workplace, method: str, adapter: str) -> dict[str, Any]:
    """Train by `trainer train`; weights and checkpoints are thrown away at once, they fill disks."""
    run = new_run(workplace, method, f"{method}-{adapter}")
    try:
        workplace.trainer("train", recipe_of(workplace, method, adapter), run)
        return figures_of(run)
    finally:
        for name in ("model", "checkpoints"):
            shutil.rmtree(run / "train" / name, ignore_errors=True)


def figures_of(run: Path) -> dict[str, Any]:
    lines, numbers = steps_of(run), json.loads((run / "train" / "stage.json").read_text())["numbers"]
    losses = [line["loss"] for line in lines]
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    warm = [(line["tokens_per_s"] * line["seconds"], line["seconds"]) for line in (lines[4], lines[-1])]
    names = ("tokens_per_s", "micro_batch_size", "is_packed", "weights_dtype", "load_seconds", "train_seconds")
    return {
        "steps": Limit(len(losses), ">=", NUM_STEPS),
        "first_5_loss": first,
        "last_5_loss": last,
        "loss_drop": Limit(first - last, ">", 0),
        "min_grad_norm": Limit(min(line["grad_norm"] for line in lines), ">", 0),
        "peak_gib": Limit(numbers["peak_gib"], ">", 0),
        "tokens_per_s_after_5_steps": (warm[1][0] - warm[0][0]) / (warm[1][1] - warm[0][1]),
        **{name: numbers[name] for name in names},
        "losses": losses,
    }


def same_losses(workplace: Workplace, run: Path) -> dict[str, Any]:
    """Compare with the uninterrupted run that the toolkit launched."""
    results, expected = (
        [line["loss"] for line in steps_of(path)] for path in (run, workplace.folder / "runs" / "sft-lora")
    )
    differences = [abs(first / second - 1) for first, second in zip(results, expected, strict=True)]
    limit = SAME_LOSS[workplace.on_cuda]
    return {
        "max_loss_relative_diff": Limit(max(differences), "<=", limit),
        "last_loss_relative_diff": Limit(differences[-1], "<=", limit),
        "losses": results,
    }


def launched_from_outside(workplace: Workplace) -> dict[str, Any]:
    """Run `accelerate launch -m trainer train RECIPE`."""
    run, recipe = new_run(workplace, "sft", "outside"), recipe_of(workplace, "sft", "lora")
    options = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    options += ["--num_cpu_threads_per_process", workplace.environment["OMP_NUM_THREADS"]]
    options += [] if workplace.on_cuda else ["--cpu"]
    work = ["-m", "trainer", "train", str(recipe), "--run-dir", str(run)]
    workplace.execute("-m", "accelerate.commands.launch", *options, *work)
    return same_losses(workplace, run)


def host_waits(workplace: Workplace, method: str) -> dict[str, Any]:
    """Count what makes the host wait for the card between two lines of metrics."""
    run, out = new_run(workplace, method, f"{method}-waits"), workplace.folder / "waits.json"
    recipe = recipe_of(workplace, method, "lora", logging_steps=5)
    workplace.execute(str(Path(__file__).with_name("syncs.py")), str(out), "train", str(recipe), "--run-dir", str(run))
    results = json.loads(out.read_text())
    return {
        "waits": Limit(len(results["waits"]), "<=", 0),
        "micro_steps": Limit(results["micro_steps"], ">=", NUM_STEPS),
        "where": sorted(set(results["waits"])),
    }


def resumed(workplace: Workplace) -> dict[str, Any]:
    """Stop a training by SIGTERM after its first checkpoint, then give the same command again."""
    run, recipe = new_run(workplace, "sft", "resumed"), recipe_of(workplace, "sft", "lora", save_steps=5)
    checkpoints = run / "train" / "checkpoints"
    workplace.trainer("train", recipe, run, expected=143, stop_when=lambda: any(checkpoints.glob("step_*")))
    stopped_after = len(steps_of(run))
    workplace.trainer("train", recipe, run)
    return {"stopped_after_step": Limit(stopped_after, "<=", NUM_STEPS - 1)} | same_losses(workplace, run)


def run(report: Report, workplace: Workplace) -> None:
    models.make_model(workplace.folder / "model", "methods", workplace.size)
    for method in ("sft", "dpo"):
        report.case(f"rows {method}", prepare, workplace, method)
        for adapter in ADAPTERS if workplace.size == "real" else TINY_ADAPTERS[method]:
            report.case(f"{adapter} {method}", trained, workplace, method, adapter)
        report.case(f"host waits {method}", host_waits, workplace, method)
    report.case("launched from outside", launched_from_outside, workplace)
    report.case("resumed after SIGTERM", resumed, workplace)
