"""From a recipe and packed rows to a loop that is ready to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainingArguments

from trainer.engine.optimizer.choice import is_rounded, is_sharded
from trainer.engine.prepare import Engine, prepare, rope_limit
from trainer.errors import HardwareError, Problem, RecipeError
from trainer.methods import memory
from trainer.methods.callbacks import EarlyStopping, Metrics, Progress, StopSignals
from trainer.methods.collate import PairCollator, PairDataset, RowCollator, RowDataset
from trainer.methods.loop import RecipeLoop
from trainer.methods.preference import PreferenceLoop
from trainer.methods.reference import reference_key, reference_log_probs, remembered
from trainer.methods.settings import check_schedule, settings_of
from trainer.methods.sft import SftLoop
from trainer.methods.stream import Plan, StreamSampler, order, solve_plan
from trainer.model import adapter as adapters
from trainer.model.load import Precision, commit, load_model
from trainer.model.memory import TOKENS_PER_MICRO_BATCH
from trainer.recipe import Recipe
from trainer.recipe.method import DpoMethod, OrpoMethod, SftMethod
from trainer.recipe.model import LoraAdapter, QloraAdapter
from trainer.recipe.schema import obstacles
from trainer.tokens.pack import PackPlan, one_by_one
from trainer.tokens.store import TokenStore

PROBE_ROWS = 3
PACKAGES = ("peft", "torch", "transformers")
"""Their releases may change what a model computes."""


@dataclass(frozen=True)
class Job:
    """Paths and settings of one training."""

    recipe: Recipe
    pack_dir: Path
    out_dir: Path
    cache: Path
    weights: dict[str, str]
    """Hashes of the base weights, and of the adapter that is continued."""
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
    go_alone: bool = False
    """A row's positions depend on the other rows of its batch."""


@dataclass(frozen=True)
class Parts:
    """What a loop is built from."""

    job: Job
    model: Any
    engine: Engine
    inputs: Inputs
    plan: Plan
    types: Precision
    tokenizer: PreTrainedTokenizerBase
    say: Callable[[str], None]

    @property
    def pad_id(self) -> int:
        """Return the token that fills lines up; no label ever depends on it."""
        pad = self.tokenizer.pad_token_id
        return int((pad if pad is not None else self.tokenizer.eos_token_id) or 0)


def build_model(job: Job, types: Precision, say: Callable[[str], None]) -> tuple[Any, dict[str, Any]]:
    """Load the base model, attach the adapter; return it with the numbers of its weights."""
    recipe = job.recipe
    model: Any = load_model(recipe.model, job.cache, adapter=recipe.adapter, dtype=types.weights)
    if isinstance(recipe.adapter, LoraAdapter):
        model = adapters.attach(model, recipe.adapter)
    covered = adapters.coverage(model)
    layers = f", in {covered.adapted_modules} of {covered.linear_modules} linear layers"
    say(
        f"train: {covered.trained_parameters:,} of {covered.all_parameters:,} weights are trained"
        + (layers if covered.adapted_modules else "")
    )
    return model, dict(covered.__dict__)


def read_inputs(job: Job) -> Inputs:
    """Open what `pack` wrote."""
    train_rows = TokenStore.load(job.pack_dir / "train.safetensors")
    validation = TokenStore.load(job.pack_dir / "validation.safetensors")
    plan = PackPlan.load(job.pack_dir / "packs.safetensors")
    is_packed = bool(np.diff(plan.offsets).max() > 1)
    return Inputs(train_rows, validation if len(validation) else None, plan, is_packed)


def build_engine(job: Job, model: Any, inputs: Inputs, say: Callable[[str], None]) -> Engine:
    """Test on the first rows what the model can use; unpack rows that would see each other.

    Raises:
        RecipeError: The recipe insists on packing and the model cannot.
    """
    store = inputs.train
    number = min(PROBE_ROWS, len(store))
    rows = [np.concatenate(store.pair(row)) if store.is_pairs else store.row(row)[0] for row in range(number)]
    engine = prepare(model, rows, attention=job.recipe.model.attn_implementation, say=say)
    turned = _turned_positions(model, store)
    inputs.go_alone = turned is not None
    leak = engine.leak or turned
    if inputs.is_packed and leak is not None:
        if job.recipe.pack.packing is True:
            raise RecipeError([Problem("recipe", None, "pack.packing", leak)], hint="--set pack.packing=false")
        say(f"train: not packed: {leak}")
        inputs.plan, inputs.is_packed = one_by_one(inputs.plan.rows), False
    if turned is not None:
        named = job.recipe.train.micro_batch_size
        say(f"train: {turned}; " + ("items go one by one" if named in ("auto", 1) else "micro_batch_size 1 avoids it"))
    return engine


def _turned_positions(model: Any, store: TokenStore) -> str | None:
    """Return why rows of one batch are not independent, where the model's positions depend on the longest of them."""
    limit, longest = rope_limit(model.config), int(store.sequence_lengths().max())
    if limit is None or longest <= limit:
        return None
    return f"rows reach {longest} tokens: over {limit}, this model turns all rows of a batch as it turns the longest"


def build_plan(job: Job, inputs: Inputs, world_size: int) -> Plan:
    """Cut the run into steps and micro-batches.

    Raises:
        RecipeError: The batch sizes do not fit the number of processes.
    """
    longest = job.recipe.pack.max_length if inputs.is_packed else int(inputs.train.lengths().max())
    budget = 0 if inputs.go_alone else TOKENS_PER_MICRO_BATCH["cuda" if torch.cuda.is_available() else "cpu"]
    largest = max(1, budget // longest)
    try:
        return solve_plan(job.recipe.train, num_items=len(inputs.plan), world_size=world_size, largest_micro=largest)
    except ValueError as error:
        problem = Problem("recipe", None, "train.global_batch_size", str(error))
        raise RecipeError([problem], hint="choose a multiple, or another launch.num_processes") from error


def build_loop(parts: Parts, signals: StopSignals) -> tuple[RecipeLoop, Metrics]:
    """Build the loop of the recipe's method, with its data, order and callbacks."""
    job, recipe, plan, inputs = parts.job, parts.job.recipe, parts.plan, parts.inputs
    items = order(plan, recipe.seed)
    metrics = Metrics(
        job.out_dir / "metrics.jsonl",
        tokens_per_step=_tokens_per_step(inputs, items, plan),
        items_per_epoch=plan.num_items / plan.global_batch_size,
    )
    callbacks: list[Any] = [metrics, Progress(metrics, parts.say), signals]
    if recipe.train.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(recipe.train.early_stopping_patience))
    check_schedule(recipe, plan)
    recipe = settle_optimizer(recipe, plan, parts)
    longest, batch = memory.largest_batch(inputs.train, inputs.plan, plan.micro_batch_size)
    chosen = memory.plan_memory(parts.model, parts.engine, recipe, batch, parts.say)
    settings = settings_of(
        recipe,
        job.out_dir,
        plan,
        parts.types,
        validates=inputs.validation is not None,
        recompute=_recompute(recipe) if chosen is None else memory.is_full(chosen),
    )
    memory.apply(parts.model, chosen)
    common = {"model": parts.model, "engine": parts.engine, "callbacks": callbacks}
    try:
        common["args"] = TrainingArguments(**settings)
        if isinstance(recipe.method, SftMethod):
            loop: RecipeLoop = _sft_loop(parts, common)
        else:
            loop = _preference_loop(parts, common)
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
    loop.forecast = chosen
    loop.steps_in_backward = recipe.train.optimizer_in_backward is True
    memory.settle(loop, chosen, longest, parts.say)
    return loop, metrics


def settle_optimizer(recipe: Recipe, plan: Plan, parts: Parts) -> Recipe:
    """Return the recipe with `train.optimizer_in_backward` settled.

    Raises:
        RecipeError: It is asked for, and the number of processes or of micro-batches does not allow it.
    """
    processes = plan.global_batch_size // (plan.micro_batch_size * plan.accumulation)
    found = obstacles(recipe, processes=processes, accumulation=plan.accumulation)
    if is_sharded():
        found.append("weights are spread over processes: launch.strategy=auto")
    if parts.inputs.go_alone and recipe.train.micro_batch_size == "auto" and plan.micro_batch_size > 1:
        found.append("items of this model go one by one: train.global_batch_size=1")
    asked = recipe.train.optimizer_in_backward
    if asked is True and found:
        problem = Problem("recipe", None, "train.optimizer_in_backward", "; ".join(found))
        raise RecipeError([problem], hint="--set train.optimizer_in_backward=auto")
    is_on = asked is not False and not found
    if is_on:
        parts.say("train: each weight steps in the backward pass, its gradient is freed")
    if is_rounded(parts.model):
        how = "to nearest by what spreads them over processes" if is_sharded() else "stochastically"
        parts.say(f"train: bfloat16 weights are rounded {how}")
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"optimizer_in_backward": is_on})})


def _recompute(recipe: Recipe) -> bool:
    """Return whether all layers are recomputed where nothing is planned: on a card, unless the recipe says."""
    asked = recipe.train.gradient_checkpointing
    return torch.cuda.is_available() if asked == "auto" else asked


def _sft_loop(parts: Parts, common: dict[str, Any]) -> SftLoop:
    inputs, engine = parts.inputs, parts.engine
    layout = engine.packed_layout if inputs.is_packed else engine.layout
    assert layout is not None, "rows that would see each other are not packed"
    held = inputs.validation
    return SftLoop(
        train_dataset=RowDataset(inputs.train, inputs.plan),
        eval_dataset=RowDataset(held, one_by_one(range(len(held)))) if held is not None else None,
        data_collator=RowCollator(layout=layout, pad_id=parts.pad_id),
        **common,
    )


def _preference_loop(parts: Parts, common: dict[str, Any]) -> PreferenceLoop:
    method = parts.job.recipe.method
    assert not isinstance(method, SftMethod)
    switched_off = _switch_dropout_off(parts.model)
    if switched_off:
        parts.say(f"train: dropout {switched_off:g} is off: both answers of a pair must see the same policy")
    inputs = parts.inputs
    loop = PreferenceLoop(
        method=method,
        train_dataset=PairDataset(inputs.train, inputs.plan.rows.tolist()),
        eval_dataset=None
        if inputs.validation is None
        else PairDataset(inputs.validation, range(len(inputs.validation))),
        data_collator=PairCollator(
            layout=parts.engine.layout, pad_id=parts.pad_id, with_prompts=isinstance(method, OrpoMethod)
        ),
        **common,
    )
    if isinstance(method, DpoMethod):
        for dataset in (loop.train_dataset, loop.eval_dataset):
            if dataset is not None:
                _add_reference(parts, dataset, loop.accelerator)
    return loop


def _add_reference(parts: Parts, dataset: Dataset[Any], accelerator: Any) -> None:
    """Give a data set the log-probabilities of the policy at step 0."""
    assert isinstance(dataset, PairDataset)
    job, store, adapter = parts.job, dataset.store, parts.job.recipe.adapter

    def compute() -> torch.Tensor:
        return reference_log_probs(
            parts.model,
            parts.engine,
            store,
            pad_id=parts.pad_id,
            accelerator=accelerator,
            is_fresh=isinstance(adapter, LoraAdapter) and adapter.init_from is None,
            go_alone=parts.inputs.go_alone,
        )

    key = reference_key(store, _policy(parts))
    dataset.reference = remembered(job.cache, key, compute, accelerator=accelerator, say=parts.say)


def _policy(parts: Parts) -> dict[str, Any]:
    """Return all that decides what the policy at step 0 says; a fresh adapter changes nothing."""
    adapter, model = parts.job.recipe.adapter, parts.job.recipe.model
    quantised = adapter.model_dump(include=set(QloraAdapter.model_fields) - set(LoraAdapter.model_fields) | {"kind"})
    return {
        "weights": parts.job.weights,
        "commit": commit(model.name_or_path, model.revision),
        "start": adapters.settings(adapter.init_from)
        if isinstance(adapter, LoraAdapter) and adapter.init_from
        else None,
        "packages": {name: version(name) for name in PACKAGES},
        "quantised": quantised if isinstance(adapter, QloraAdapter) else None,
        "types": [str(parts.types.weights), str(parts.types.autocast)],
        "device": next(parts.model.parameters()).device.type,
        "attention": parts.model.config._attn_implementation,
        "go_alone": parts.inputs.go_alone,
    }


def _switch_dropout_off(model: Any) -> float:
    """Set every dropout to 0; return the largest that there was."""
    largest = 0.0
    for module in model.modules():
        names = ["p"] if isinstance(module, torch.nn.Dropout) else []
        # attention layers of transformers keep their rate as a number
        names += [name for name, value in vars(module).items() if "drop" in name and type(value) is float]
        for name in names:
            largest = max(largest, getattr(module, name))
            setattr(module, name, 0.0)
    return largest


def _tokens_per_step(inputs: Inputs, items: np.ndarray[Any, Any], plan: Plan) -> np.ndarray[Any, Any]:
    """Return the real tokens (no padding) of each step over all processes, shape (num_steps,)."""
    lengths = inputs.train.lengths()
    totals = np.add.reduceat(lengths[inputs.plan.rows], inputs.plan.offsets[:-1])
    return totals[items].reshape(plan.num_steps, plan.global_batch_size).sum(axis=1)
