"""What each process of `accelerate launch` does: load, train, save, check.

Takes values and paths; knows no run folder. The first process alone writes.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from peft import PeftModel
from transformers import PrinterCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from trainer.errors import HardwareError, InterruptedRunError, RecipeError
from trainer.errors import Problem as RecipeProblem
from trainer.methods import checkpoints
from trainer.methods.callbacks import EarlyStopping, Metrics, Progress, StopSignals
from trainer.methods.collate import Collator, ItemDataset
from trainer.methods.loop import RecipeLoop, best_step
from trainer.methods.preference import dpo_config, dpo_loop, pair_dataset
from trainer.methods.probe import packing_leak
from trainer.methods.settings import check_schedule, settings_of
from trainer.methods.sft import SftLoop
from trainer.methods.stream import Plan, StreamSampler, order, solve_plan
from trainer.model import adapter as adapters
from trainer.model.load import Precision, load_model, load_tokenizer, precision
from trainer.recipe import Recipe
from trainer.recipe.method import DpoMethod, SftMethod
from trainer.recipe.model import LoraAdapter
from trainer.tokens.pack import PackPlan, one_by_one
from trainer.tokens.store import TokenStore

CUDA_TOKENS_PER_MICRO_BATCH = 8192
CPU_ITEMS_PER_MICRO_BATCH = 8


@dataclass(frozen=True)
class Job:
    """Paths and settings of one training."""

    recipe: Recipe
    pack_dir: Path
    out_dir: Path
    cache: Path
    say: Callable[[str], None]
    resume_from: str | None = None
    expected_world_size: int | None = None


@dataclass
class Inputs:
    """What `pack` wrote."""

    train: TokenStore
    validation: TokenStore | None
    plan: PackPlan
    is_packed: bool


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
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    say = job.say if state.is_main_process else _silent
    types = precision(job.recipe.model, job.recipe.adapter)
    model, numbers = _model(job, types, say)
    inputs = _inputs(job, model, say)
    plan = _plan(job, inputs, state.num_processes)
    loop, metrics = _loop(job, model, inputs, plan, types, signals, say)
    checkpoint = _checkpoint(job, say)
    loaded = time.monotonic()
    try:
        loop.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(plan, job.recipe, error) from error
    if signals.stopped_by:
        raise InterruptedRunError(
            f"stopped by signal {signals.stopped_by} after step {loop.state.global_step} of {plan.num_steps}; "
            "the state is saved",
            hint="the same command continues",
            exit_code=143 if signals.stopped_by == signal.SIGTERM else 130,
        )
    best = _restore_best(job, loop)
    numbers |= _numbers(loop, plan, inputs, metrics, best) | {
        "load_seconds": round(loaded - started, 2),
        "train_seconds": round(time.monotonic() - loaded, 2),
        "num_processes": state.num_processes,
        "weights_dtype": str(types.weights).removeprefix("torch."),
    }
    numbers |= _save(job, loop)
    return numbers


def _silent(_: str) -> None:
    return None


def _model(job: Job, types: Precision, say: Callable[[str], None]) -> tuple[Any, dict[str, Any]]:
    recipe = job.recipe
    model: Any = load_model(recipe.model, job.cache, adapter=recipe.adapter, dtype=types.weights)
    if isinstance(recipe.adapter, LoraAdapter):
        model = adapters.attach(model, recipe.adapter)
    covered = adapters.coverage(model)
    say(
        f"train: {covered.trained_parameters:,} of {covered.all_parameters:,} weights are trained"
        + (
            f", in {covered.adapted_modules} of {covered.linear_modules} linear layers"
            if covered.adapted_modules
            else ""
        )
    )
    return model, dict(covered.__dict__)


def _inputs(job: Job, model: Any, say: Callable[[str], None]) -> Inputs:
    train_rows = TokenStore.load(job.pack_dir / "train.safetensors")
    validation = TokenStore.load(job.pack_dir / "validation.safetensors")
    plan = PackPlan.load(job.pack_dir / "packs.safetensors")
    is_packed = bool(max(np.diff(plan.offsets)) > 1)
    if is_packed:
        leak = packing_leak(model, [train_rows.row(row)[0] for row in range(min(3, len(train_rows)))])
        if leak is not None:
            if job.recipe.pack.packing is True:
                problem = RecipeProblem("recipe", None, "pack.packing", leak)
                raise RecipeError([problem], hint="--set pack.packing=false")
            say(f"train: not packed: {leak}")
            plan, is_packed = one_by_one([int(row) for row in plan.rows]), False
    return Inputs(train_rows, validation if len(validation) else None, plan, is_packed)


def _plan(job: Job, inputs: Inputs, world_size: int) -> Plan:
    largest = CPU_ITEMS_PER_MICRO_BATCH
    if inputs.is_packed or torch.cuda.is_available():
        longest = job.recipe.pack.max_length if inputs.is_packed else int(inputs.train.lengths().max())
        longest *= 2 if inputs.train.is_pairs else 1
        largest = max(1, CUDA_TOKENS_PER_MICRO_BATCH // longest)
    try:
        return solve_plan(job.recipe.train, num_items=len(inputs.plan), world_size=world_size, largest_micro=largest)
    except ValueError as error:
        problem = RecipeProblem("recipe", None, "train.global_batch_size", str(error))
        raise RecipeError([problem], hint="choose a multiple, or another launch.num_processes") from error


def _loop(
    job: Job,
    model: Any,
    inputs: Inputs,
    plan: Plan,
    types: Precision,
    signals: StopSignals,
    say: Callable[[str], None],
) -> tuple[RecipeLoop, Metrics]:
    recipe = job.recipe
    tokenizer = load_tokenizer(recipe.model, job.cache)
    items = order(plan, recipe.seed)
    metrics = Metrics(
        job.out_dir / "metrics.jsonl",
        tokens_per_step=_tokens_per_step(inputs, items, plan),
        items_per_epoch=plan.num_items / plan.global_batch_size,
    )
    callbacks: list[Any] = [metrics, Progress(metrics, say), signals]
    if recipe.train.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(recipe.train.early_stopping_patience))
    check_schedule(recipe, plan)
    settings = settings_of(recipe, job.out_dir, plan, types, validates=inputs.validation is not None)
    if settings["gradient_checkpointing"] and isinstance(model, PeftModel):
        model.enable_input_require_grads()
    try:
        match recipe.method:
            case SftMethod():
                loop: RecipeLoop = _sft_loop(settings, model, inputs, tokenizer, callbacks)
            case DpoMethod():
                loop = _dpo_loop(job, settings, model, inputs, tokenizer, types, callbacks)
    except (RuntimeError, ImportError) as error:
        if not recipe.track.report_to or "install" not in str(error):
            raise
        raise HardwareError(
            f"track.report_to {recipe.track.report_to}: {str(error).splitlines()[0]}",
            hint="install the tracker's package, or --set track.report_to=[]",
        ) from error
    loop.remove_callback(PrinterCallback)
    loop.configure(
        stream=StreamSampler(items), checkpoint_dir=job.out_dir / "checkpoints", keep=recipe.train.save_total_limit
    )
    return loop, metrics


def _sft_loop(settings: dict[str, Any], model: Any, inputs: Inputs, tokenizer: Any, callbacks: list[Any]) -> SftLoop:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    held = inputs.validation
    return SftLoop(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=ItemDataset(inputs.train, inputs.plan),
        eval_dataset=ItemDataset(held, one_by_one(list(range(len(held))))) if held is not None else None,
        data_collator=Collator(pad_id=pad or 0, is_packed=inputs.is_packed),
        callbacks=callbacks,
    )


def _dpo_loop(
    job: Job,
    settings: dict[str, Any],
    model: Any,
    inputs: Inputs,
    tokenizer: Any,
    types: Precision,
    callbacks: list[Any],
) -> RecipeLoop:
    assert isinstance(job.recipe.method, DpoMethod)
    reference = None
    if not isinstance(job.recipe.adapter, LoraAdapter):
        reference = load_model(job.recipe.model, job.cache, dtype=types.autocast or types.weights)
    held = inputs.validation
    return dpo_loop(
        model=model,
        reference=reference,
        config=dpo_config(job.recipe.method, settings, max_length=job.recipe.pack.max_length),
        tokenizer=tokenizer,
        train=pair_dataset(inputs.train, inputs.plan),
        validation=pair_dataset(held, one_by_one(list(range(len(held))))) if held is not None else None,
        callbacks=callbacks,
    )


def _tokens_per_step(inputs: Inputs, items: np.ndarray[Any, Any], plan: Plan) -> np.ndarray[Any, Any]:
    """Return the real tokens (no padding) of each step over all processes, shape (num_steps,)."""
    lengths = inputs.train.lengths()
    totals = np.add.reduceat(lengths[inputs.plan.rows], inputs.plan.offsets[:-1])
    return totals[items].reshape(plan.num_steps, plan.global_batch_size).sum(axis=1)


def _checkpoint(job: Job, say: Callable[[str], None]) -> Path | None:
    folder = job.out_dir / "checkpoints"
    if job.resume_from:
        return checkpoints.chosen(folder, job.resume_from)
    found = checkpoints.newest(folder, say)
    if found:
        say(f"train: continued from {found.name}")
    return found


def _restore_best(job: Job, loop: RecipeLoop) -> int | None:
    """Put the weights with the lowest validation loss back, when the recipe asks for them."""
    best = best_step(loop.state.log_history)
    if not job.recipe.train.load_best_model_at_end or best is None or best == loop.state.global_step:
        return best
    loop.accelerator.wait_for_everyone()
    folder = checkpoints.chosen(job.out_dir / "checkpoints", checkpoints.step_name(best))
    loop._load_from_checkpoint(str(folder))
    return best


def _numbers(loop: RecipeLoop, plan: Plan, inputs: Inputs, metrics: Metrics, best: int | None) -> dict[str, Any]:
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


def _out_of_memory(plan: Plan, recipe: Recipe, error: BaseException) -> HardwareError:
    smaller = max(1, plan.micro_batch_size // 2)
    hint = f"--set train.micro_batch_size={smaller}"
    if plan.micro_batch_size == 1:
        hint = "--set train.gradient_checkpointing=true, --set adapter.kind=qlora, or a smaller pack.max_length"
    return HardwareError(
        f"out of memory with micro_batch_size {plan.micro_batch_size} and max_length {recipe.pack.max_length}: "
        f"{str(error).splitlines()[0]}",
        hint=hint,
    )
