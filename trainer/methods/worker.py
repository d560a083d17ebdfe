"""Train in one process of `accelerate launch`: load, train, save, check.

Takes values and paths, and knows no run folder. Only the first process writes.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from peft import PeftModel
from transformers.utils import logging as transformers_logging

from trainer.errors import DivergedError, HardwareError, InterruptedRunError
from trainer.methods import checkpoints
from trainer.methods.assembly import build_engine, build_loop, build_model
from trainer.methods.batch_plan import BatchPlan, plan_batches
from trainer.methods.callbacks import Metrics, StopSignals, is_over
from trainer.methods.context import Job, TrainingContext, read_inputs
from trainer.methods.divergence import explained
from trainer.methods.loop import RecipeLoop, best_step
from trainer.methods.order import StreamSampler
from trainer.methods.out_of_memory import out_of_memory
from trainer.model import adapter as adapters
from trainer.model.load import commit, load_tokenizer, precision


def start_processes(expected: int | None) -> PartialState:
    """Join the process group and check its size.

    Raises:
        HardwareError: The launcher started another number of processes than the recipe asks for.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    if expected is not None and state.num_processes != expected:
        raise HardwareError(
            f"{state.num_processes} processes are running, the recipe asks for {expected} (launch.num_processes)",
            hint="on the CPU: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N ...; "
            "or set launch.num_processes; or --accept world-size",
        )
    if state.num_processes == 1 and torch.cuda.device_count() > 1:
        raise HardwareError(
            f"one process sees {torch.cuda.device_count()} cards: transformers would split its batches over them",
            hint="CUDA_VISIBLE_DEVICES=0 accelerate launch ..., or one process for each card",
        )
    return state


class TrainNumbers(TypedDict, total=False):
    """Numbers of a training in `stage.json`, beside those of `Coverage` and `PlanNumbers`."""

    steps: int
    planned_steps: int
    items: int
    is_packed: bool
    micro_batch_size: int
    accumulation: int
    first_loss: float | None
    last_loss: float | None
    best_step: int | None
    tokens: int
    tokens_per_s: float
    peak_gib: float
    load_seconds: float
    train_seconds: float
    num_processes: int
    weights_dtype: str
    base_commit: str
    adapter_b_norm: float


def train(job: Job) -> dict[str, object]:
    """Train and save; return the numbers for `stage.json` (in every process).

    Raises:
        HardwareError: Out of memory, or a wrong number of processes.
        DivergedError: A loss or weight is not finite.
        InterruptedRunError: A signal stopped it; the state is saved.
        RecipeError: The batch sizes do not fit the number of processes.
    """
    started = time.monotonic()
    transformers_logging.disable_progress_bar()
    state = start_processes(job.expected_world_size)
    signals = StopSignals()
    signals.install()
    # before the model: a fresh adapter draws its A matrices
    set_seed(job.recipe.seed)
    say = job.say if state.is_main_process else _silent
    types = precision(job.recipe.model, job.recipe.adapter)
    model, coverage = build_model(job, types, say)
    inputs = read_inputs(job)
    engine = build_engine(job, model, inputs, types.autocast, say)
    context = TrainingContext(job, model, engine, inputs, types, load_tokenizer(job.recipe.model, job.cache), say)
    plan = plan_batches(context, state.num_processes)
    loop, metrics = build_loop(context, plan, signals)
    loaded = time.monotonic()
    _run(context, loop, plan, signals)
    best = _restore_best(job, loop)
    numbers: TrainNumbers = {
        **_loop_numbers(loop, plan, metrics),
        "is_packed": inputs.is_packed,
        "best_step": best,
        "load_seconds": round(loaded - started, 2),
        "train_seconds": round(time.monotonic() - loaded, 2),
        "num_processes": state.num_processes,
        "weights_dtype": str(types.weights).removeprefix("torch."),
    }
    if base_commit := commit(job.recipe.model.name_or_path, job.recipe.model.revision):
        numbers["base_commit"] = base_commit
    if norm := _save(job, loop):
        numbers["adapter_b_norm"] = round(norm, 6)
    memory = plan.memory.numbers() if plan.memory else {}
    return {**asdict(coverage), **numbers, **memory}


def _run(context: TrainingContext, loop: RecipeLoop, plan: BatchPlan, signals: StopSignals) -> None:
    """Train from the newest checkpoint, or from the start, to the last step."""
    job, steps = context.job, plan.steps
    checkpoint = _checkpoint(job, context.say)
    if checkpoint and _stopped_early(job, checkpoint):
        # only the steps that are already taken: the loop ends at once
        taken = int(checkpoint.name.removeprefix("step_"))
        loop.stream = StreamSampler(loop.stream.items[: taken * steps.global_batch_size])
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        loop.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(context.model, job.recipe, plan, error) from error
    except DivergedError as error:
        raise explained(error, context, loop, steps.global_batch_size) from error
    if signals.stopped_by:
        raise InterruptedRunError(
            f"stopped by signal {signals.stopped_by} after step {loop.state.global_step} of {steps.num_steps}; "
            "the state is saved",
            hint="the same command continues",
            exit_code=143 if signals.stopped_by == signal.SIGTERM else 130,
        )


def _silent(_: str) -> None:
    return None


def _checkpoint(job: Job, say: Callable[[str], None]) -> Path | None:
    """Return the requested checkpoint, or the newest one."""
    folder = job.out_dir / "checkpoints"
    if job.resume_from:
        return checkpoints.requested(folder, job.resume_from)
    checkpoint = checkpoints.newest(folder, say)
    if checkpoint:
        say(f"train: continued from {checkpoint.name}")
    return checkpoint


def _stopped_early(job: Job, checkpoint: Path) -> bool:
    """Tell whether early stopping ended the training at a checkpoint, and the weights were not saved."""
    patience = job.recipe.train.early_stopping_patience
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return patience is not None and is_over(history, patience)


def _restore_best(job: Job, loop: RecipeLoop) -> int | None:
    """Load the weights with the lowest validation loss, where the recipe says so; return their step."""
    best = best_step(loop.state.log_history)
    if not job.recipe.train.load_best_model_at_end or best is None or best == loop.state.global_step:
        return best
    loop.accelerator.wait_for_everyone()
    folder = checkpoints.requested(job.out_dir / "checkpoints", checkpoints.step_name(best))
    loop._load_from_checkpoint(str(folder))
    return best


def _loop_numbers(loop: RecipeLoop, plan: BatchPlan, metrics: Metrics) -> TrainNumbers:
    losses = [line["loss"] for line in loop.state.log_history if "loss" in line]
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else _peak_rss_gib()
    return {
        "steps": loop.state.global_step,
        "planned_steps": plan.steps.num_steps,
        "items": plan.steps.num_items,
        "micro_batch_size": plan.steps.micro_batch_size,
        "accumulation": plan.steps.accumulation,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "tokens": int(metrics.tokens[loop.state.global_step]),
        "tokens_per_s": round(metrics.last_rate, 1),
        "peak_gib": round(peak, 3),
    }


def _peak_rss_gib() -> float:
    import resource  # noqa: PLC0415  Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _save(job: Job, loop: RecipeLoop) -> float | None:
    """Write the adapter or the model to a staging folder, check it, rename it; return the norm of the B matrices."""
    model = loop.accelerator.unwrap_model(loop.model)
    is_adapter = isinstance(model, PeftModel)
    target = job.out_dir / ("adapter" if is_adapter else "model")
    staged = target.with_name(f".{target.name}.tmp")
    loop.accelerator.wait_for_everyone()
    if not is_adapter:
        model.config.use_cache = True
    if not loop.accelerator.is_main_process:
        return None
    shutil.rmtree(staged, ignore_errors=True)
    norm = None
    if is_adapter:
        model.save_pretrained(str(staged), selected_adapters=["default"])
        adapters.name_base(staged, job.recipe.model.name_or_path)
        norm = adapters.check_saved(staged)["b_norm"]
        (staged / "README.md").unlink(missing_ok=True)  # PEFT's template card; ours comes with the export
    else:
        model.save_pretrained(str(staged))
    for path in staged.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return norm
