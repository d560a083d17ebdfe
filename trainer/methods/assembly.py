"""From a recipe and packed rows to a loop that is ready to train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainingArguments

from trainer.engine import float8
from trainer.engine.lora import is_sharded
from trainer.engine.prepare import Engine, prepare, rope_limit
from trainer.errors import HardwareError, Problem, RecipeError
from trainer.methods import memory_plan
from trainer.methods.batch_plan import BatchPlan
from trainer.methods.callbacks import EarlyStopping, Metrics, Progress, StopSignals
from trainer.methods.compile_layers import compile_layers
from trainer.methods.context import Inputs, Job, TrainingContext
from trainer.methods.loop import RecipeLoop
from trainer.methods.order import StepPlan, StreamSampler, order
from trainer.methods.shapes import shape_of
from trainer.methods.training_arguments import check_schedule, settings_of
from trainer.model import adapter as adapters
from trainer.model.load import Precision, device, load_model
from trainer.model.planning.advice import dequantises_once
from trainer.recipe.method import row_facts
from trainer.recipe.model import low_rank
from trainer.tokens.pack import one_by_one
from trainer.tokens.store import TokenStore

PROBE_ROWS = 3


def build_model(job: Job, types: Precision, say: Callable[[str], None]) -> tuple[Any, dict[str, Any]]:
    """Load the base model, attach the adapter; return it with the numbers of its weights."""
    recipe = job.recipe
    place = torch.device("cpu") if recipe.train.float8_base else None  # a card need never hold the wider weights
    model: Any = load_model(recipe.model, job.cache, adapter=recipe.adapter, dtype=types.weights, place=place)
    if adapter := low_rank(recipe.adapter):
        model = adapters.attach(model, adapter)
    if recipe.train.float8_base:
        hold_in_float8(model, device(), say)
    covered = adapters.coverage(model)
    layers = f", in {covered.adapted_modules} of {covered.linear_modules} linear layers"
    say(
        f"train: {covered.trained_parameters:,} of {covered.all_parameters:,} weights are trained"
        + (layers if covered.adapted_modules else "")
    )
    return model, dict(covered.__dict__)


def hold_in_float8(model: Any, place: torch.device, say: Callable[[str], None]) -> None:
    """Round the frozen weights of a model's LoRA layers, and move the model to where it trains.

    Raises:
        HardwareError: That device, or a launch over shards, does not go with 8-bit weights.
    """
    if is_sharded():
        raise HardwareError(
            "train.float8_base: FSDP and DeepSpeed do not spread 8-bit weights", hint="--set train.float8_base=false"
        )
    for reason, number in sorted(float8.hold(model, place).items()):
        how = f"as they are: {reason}" if reason else "in 8 bits (e4m3)"
        say(f"train: frozen weights of {number} layers {how}")
    if place.type != "cuda":
        say("train: no card: 8-bit products are computed in float32, exact and slow")
    model.to(place)
    base = model.get_base_model()
    if getattr(base, "hf_device_map", None):  # where transformers believes that the model is
        base.hf_device_map = {"": place}


def build_engine(job: Job, model: Any, inputs: Inputs, say: Callable[[str], None]) -> Engine:
    """Test on the first rows what the model can use; unpack rows that would see each other.

    Raises:
        RecipeError: The recipe insists on packing and the model cannot.
    """
    store = inputs.train
    shape = shape_of(job.recipe.method)
    switched_off = 0.0 if row_facts(job.recipe.method).keeps_dropout else _switch_dropout_off(model)
    if switched_off:  # before LoRA layers are told apart by their dropout
        say(f"train: dropout {switched_off:g} is off: both answers of a pair must see the same policy")
    rows = [shape.probe_ids(store, row) for row in range(min(PROBE_ROWS, len(store)))]
    engine = prepare(
        model,
        rows,
        attention=job.recipe.model.attn_implementation,
        say=say,
        may_dequantise=dequantises_once(job.recipe),
    )
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


def build_loop(parts: TrainingContext, settled: BatchPlan, signals: StopSignals) -> tuple[RecipeLoop, Metrics]:
    """Build the loop of the recipe's method, with its data, order and callbacks."""
    job, recipe, plan, inputs = parts.job, parts.job.recipe, settled.plan, parts.inputs
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
    settings = settings_of(
        recipe,
        job.out_dir,
        plan,
        parts.types,
        validates=inputs.validation is not None,
        recompute=settled.recomputes,
    )
    common = {"model": parts.model, "engine": parts.engine, "callbacks": callbacks}
    try:
        common["args"] = TrainingArguments(**settings)
        loop = shape_of(recipe.method).build_loop(parts, common)
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
    loop.steps_in_backward = settled.in_backward
    if recipe.train.torch_compile:
        longest, largest = memory_plan.largest_batch(inputs.train, inputs.plan, plan.micro_batch_size)
        # what fills packs up would count in a router's loss
        is_static = inputs.is_packed and parts.engine.packed_layout == "flat" and not loop.router_share
        compile_layers(loop, longest, largest.tokens if is_static else None, parts.types, parts.say)
    return loop, metrics


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


def _tokens_per_step(inputs: Inputs, items: np.ndarray[Any, Any], plan: StepPlan) -> np.ndarray[Any, Any]:
    """Return the real tokens (no padding) of each step over all processes, shape (num_steps,)."""
    lengths = inputs.train.lengths()
    totals = np.add.reduceat(lengths[inputs.plan.rows], inputs.plan.offsets[:-1])
    return totals[items].reshape(plan.num_steps, plan.global_batch_size).sum(axis=1)
