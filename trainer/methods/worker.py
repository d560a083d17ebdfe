"""What each process of `accelerate launch` does: load, train, save, check.

Takes values and paths; knows no run folder. The first process alone writes.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from peft import PeftModel
from transformers.utils import logging as transformers_logging

from trainer.errors import HardwareError, InterruptedRunError
from trainer.methods import checkpoints, memory_plan
from trainer.methods.assembly import build_engine, build_loop, build_model
from trainer.methods.batch_plan import plan_batches
from trainer.methods.callbacks import Metrics, StopSignals, is_over
from trainer.methods.context import Inputs, Job, TrainingContext, read_inputs
from trainer.methods.loop import RecipeLoop, best_step
from trainer.methods.order import StepPlan, StreamSampler
from trainer.model import adapter as adapters
from trainer.model.load import commit, load_tokenizer, precision
from trainer.recipe import Recipe


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


def train(job: Job) -> dict[str, Any]:
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
    set_seed(job.recipe.seed)
    say = job.say if state.is_main_process else _silent
    types = precision(job.recipe.model, job.recipe.adapter)
    model, numbers = build_model(job, types, say)
    inputs = read_inputs(job)
    engine = build_engine(job, model, inputs, say)
    parts = TrainingContext(job, model, engine, inputs, types, load_tokenizer(job.recipe.model, job.cache), say)
    settled = plan_batches(parts, state.num_processes)
    plan, chosen = settled.plan, settled.chosen
    loop, metrics = build_loop(parts, settled, signals)
    checkpoint = _checkpoint(job, say)
    if checkpoint and _stopped_early(job, checkpoint):
        loop.stream = StreamSampler(loop.stream.items[: _step_of(checkpoint) * plan.global_batch_size])
    loaded = time.monotonic()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        loop.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(plan, job.recipe, memory_plan.what_fits(model, job.recipe, chosen), error) from error
    if signals.stopped_by:
        raise InterruptedRunError(
            f"stopped by signal {signals.stopped_by} after step {loop.state.global_step} of {plan.num_steps}; "
            "the state is saved",
            hint="the same command continues",
            exit_code=143 if signals.stopped_by == signal.SIGTERM else 130,
        )
    best = _restore_best(job, loop)
    numbers |= (
        _numbers(loop, plan, inputs, metrics, best)
        | (chosen.numbers() if chosen else {})
        | {
            "load_seconds": round(loaded - started, 2),
            "train_seconds": round(time.monotonic() - loaded, 2),
            "num_processes": state.num_processes,
            "weights_dtype": str(types.weights).removeprefix("torch."),
        }
    )
    if base_commit := commit(job.recipe.model.name_or_path, job.recipe.model.revision):
        numbers["base_commit"] = base_commit
    numbers |= _save(job, loop)
    return numbers


def _silent(_: str) -> None:
    return None


def _checkpoint(job: Job, say: Callable[[str], None]) -> Path | None:
    folder = job.out_dir / "checkpoints"
    if job.resume_from:
        return checkpoints.chosen(folder, job.resume_from)
    found = checkpoints.newest(folder, say)
    if found:
        say(f"train: continued from {found.name}")
    return found


def _stopped_early(job: Job, checkpoint: Path) -> bool:
    """Tell whether early stopping had ended the training at a checkpoint, before the weights were saved."""
    patience = job.recipe.train.early_stopping_patience
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return patience is not None and is_over(history, patience)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def _restore_best(job: Job, loop: RecipeLoop) -> int | None:
    """Put the weights with the lowest validation loss back, when the recipe asks for them."""
    best = best_step(loop.state.log_history)
    if not job.recipe.train.load_best_model_at_end or best is None or best == loop.state.global_step:
        return best
    loop.accelerator.wait_for_everyone()
    folder = checkpoints.chosen(job.out_dir / "checkpoints", checkpoints.step_name(best))
    loop._load_from_checkpoint(str(folder))
    return best


def _numbers(loop: RecipeLoop, plan: StepPlan, inputs: Inputs, metrics: Metrics, best: int | None) -> dict[str, Any]:
    history = loop.state.log_history
    losses = [line["loss"] for line in history if "loss" in line]
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else _peak_rss_gib()
    return {
        "steps": loop.state.global_step,
        "planned_steps": plan.num_steps,
        "items": plan.num_items,
        "is_packed": inputs.is_packed,
        "micro_batch_size": plan.micro_batch_size,
        "accumulation": plan.accumulation,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "best_step": best,
        "tokens": int(metrics.tokens[loop.state.global_step]),
        "tokens_per_s": round(metrics.last_rate, 1),
        "peak_gib": round(peak, 3),
    }


def _peak_rss_gib() -> float:
    import resource  # noqa: PLC0415  Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _save(job: Job, loop: RecipeLoop) -> dict[str, Any]:
    """Write the adapter or the model aside, check it, rename it."""
    model = loop.accelerator.unwrap_model(loop.model)
    is_adapter = isinstance(model, PeftModel)
    target = job.out_dir / ("adapter" if is_adapter else "model")
    staged = target.with_name(f".{target.name}.tmp")
    loop.accelerator.wait_for_everyone()
    if not is_adapter:
        model.config.use_cache = True
    if not loop.accelerator.is_main_process:
        return {}
    shutil.rmtree(staged, ignore_errors=True)
    if is_adapter:
        model.save_pretrained(str(staged), selected_adapters=["default"])
        adapters.name_base(staged, job.recipe.model.name_or_path)
        facts = adapters.check_saved(staged)
        (staged / "README.md").unlink(missing_ok=True)  # PEFT's template card; ours comes with the export
    else:
        model.save_pretrained(str(staged))
        facts = {}
    for path in staged.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return {"adapter_b_norm": round(facts["b_norm"], 6)} if facts else {}


def _out_of_memory(plan: StepPlan, recipe: Recipe, settings: str | None, error: BaseException) -> HardwareError:
    smaller = max(1, plan.micro_batch_size // 2)
    hint = settings or f"--set train.micro_batch_size={smaller}"
    if settings is None and plan.micro_batch_size == 1:
        hint = "--set train.gradient_checkpointing=true, --set adapter.kind=qlora, or a smaller pack.max_length"
    return HardwareError(
        f"out of memory with micro_batch_size {plan.micro_batch_size} and max_length {recipe.pack.max_length}: "
        f"{str(error).splitlines()[0]}",
        hint=hint,
    )
