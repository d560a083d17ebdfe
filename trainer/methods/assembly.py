"""Build a loop that is ready to train from a recipe and packed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments

from trainer.engine.batch import moved, of_rows
from trainer.engine.lora import is_sharded
from trainer.engine.prepare import Engine, prepare, rope_limit
from trainer.errors import HardwareError, Problem, RecipeError
from trainer.methods.batch_plan import BatchPlan, largest_batch
from trainer.methods.callbacks import EarlyStopping, Metrics, Progress, StopSignals
from trainer.methods.compile_layers import compile_layers
from trainer.methods.context import Inputs, Job, TrainingContext
from trainer.methods.loop import RecipeLoop
from trainer.methods.order import StepPlan, StreamSampler, order
from trainer.methods.shapes import shape_of
from trainer.methods.shapes.shape import LoopSettings
from trainer.methods.training_arguments import check_schedule, settings_of
from trainer.model import adapter as adapters
from trainer.model.adapter import Coverage
from trainer.model.experts import stacked_experts
from trainer.model.four_bit import keep_out_of_ddp, weight_bytes_of
from trainer.model.gradients import unreached
from trainer.model.load import Precision, check_base, load_model, weights_folder
from trainer.model.planning.planner import dequantises_once
from trainer.recipe.method import row_facts
from trainer.recipe.model import four_bit_of, low_rank
from trainer.tokens.arrays import Ints
from trainer.tokens.pack import one_by_one
from trainer.tokens.store import TokenStore

PROBE_ROWS, PROBE_TOKENS = 3, 64


def build_model(job: Job, types: Precision, say: Callable[[str], None]) -> tuple[PreTrainedModel | PeftModel, Coverage]:
    """Load the base model and attach the adapter; return the model and how much of it is trained."""
    recipe = job.recipe
    check_base(recipe.model, job.cache)
    weights_folder(recipe.model, job.cache, say)  # a conversion is worth a line
    model = load_model(recipe.model, job.cache, adapter=recipe.adapter, dtype=types.weights)
    held = weight_bytes_of(model) if four_bit_of(recipe.adapter) else None
    if held and is_sharded() and any(True for _ in stacked_experts(model)):
        raise HardwareError(
            "FSDP and DeepSpeed do not spread stacked experts that are held in 4 bits",
            hint="--set launch.strategy=ddp, or adapter.kind=lora",
        )
    if held:
        say(f"train: frozen weights: {held.summary()}")
    if adapter := low_rank(recipe.adapter):
        model = adapters.attach(model, adapter, say)
        keep_out_of_ddp(model)
    covered = adapters.coverage(model)
    layers = f", in {covered.adapted_modules} of {covered.linear_modules} linear layers"
    say(
        f"train: {covered.trained_parameters:,} of {covered.all_parameters:,} weights are trained"
        + (layers if covered.adapted_modules else "")
    )
    return model, replace(covered, four_bit_bytes=held.four_bit, wide_bytes=held.wide.total()) if held else covered


def build_engine(
    job: Job, model: torch.nn.Module, inputs: Inputs, autocast: torch.dtype | None, say: Callable[[str], None]
) -> Engine:
    """Test on the first rows which parts of the engine the model can use; unpack rows that would see each other.

    Raises:
        RecipeError: The recipe sets packing, and rows of a pack would see each other in this model.
    """
    store = inputs.train
    shape = shape_of(job.recipe.method)
    switched_off = 0.0 if row_facts(job.recipe.method).keeps_dropout else _switch_dropout_off(model)
    if switched_off:  # before LoRA layers are told apart by their dropout
        say(f"train: dropout {switched_off:g} is off: both answers of a pair must see the same policy")
    # a few rows of the data show what all rows would: same template, same special tokens
    rows = [shape.probe_ids(store, row) for row in range(min(PROBE_ROWS, len(store)))]
    engine = prepare(
        model,
        rows,
        attention=job.recipe.model.attn_implementation,
        say=say,
        autocast=autocast,
        may_dequantise=dequantises_once(job.recipe),
    )
    # after the engine is on: its own forward functions are what must pass gradients on
    names = unreached(model, lambda: _loss(model, engine, rows), autocast=autocast)
    _follow_gradients(job, model, names, say)
    dependence = _batch_dependence(model, store)
    inputs.go_alone = dependence is not None
    leak = engine.leak or dependence
    if inputs.is_packed and leak is not None:
        if job.recipe.pack.packing is True:
            raise RecipeError([Problem("recipe", None, "pack.packing", leak)], hint="--set pack.packing=false")
        say(f"train: not packed: {leak}")
        # packs of one row each: the same rows in the same order, other global batches
        inputs.plan, inputs.is_packed = one_by_one(inputs.plan.rows), False
    if dependence is not None:
        is_alone = job.recipe.train.micro_batch_size in ("auto", 1)
        say(f"train: {dependence}; " + ("items go one by one" if is_alone else "micro_batch_size 1 avoids it"))
    return engine


def _loss(model: torch.nn.Module, engine: Engine, rows: Sequence[Ints]) -> torch.Tensor:
    """Return the mean negative log-probability of rows, as training computes it, plus a router's loss."""
    cut = [row[:PROBE_TOKENS].astype(np.int64) for row in rows if len(row) > 1]
    batch = of_rows([[(ids, np.ones(len(ids), dtype=np.uint8)) for ids in cut]], engine.layout, 0)
    log_probs, router_loss = engine.score(model, moved(batch, next(model.parameters()).device))
    return -log_probs.mean() if router_loss is None else -log_probs.mean() + router_loss


def _follow_gradients(job: Job, model: torch.nn.Module, names: list[str], say: Callable[[str], None]) -> None:
    """Refuse an adapter with weights that no gradient reaches; freeze such weights of a full fine-tuning.

    DDP waits for the gradient of every trained weight. Weights without one would be saved as if they were trained.

    Raises:
        HardwareError: Weights of the adapter get no gradient.
    """
    if not names:
        return
    examples = ", ".join(names[:3])
    if low_rank(job.recipe.adapter) is None:  # towers for images, for example
        for name in names:
            model.get_parameter(name).requires_grad_(False)
        say(f"train: {len(names)} weights are frozen, no gradient of text reaches them: {examples}")
        return
    layer = names[0].partition(".lora_")[0].rpartition(".")[2]
    raise HardwareError(
        f"no gradient reaches {len(names)} weights of the adapter, the first are {examples}",
        hint=f"--set 'adapter.exclude_modules=[{layer}]' leaves such layers out",
    )


def _batch_dependence(model: torch.nn.Module, store: TokenStore) -> str | None:
    """Return why rows of one batch depend on each other, where position encodings depend on the longest row."""
    limit, longest = rope_limit(model.config), int(store.sequence_lengths().max())
    if limit is None or longest <= limit:
        return None
    return f"rows reach {longest} tokens: over {limit}, this model turns all rows of a batch as it turns the longest"


def build_loop(context: TrainingContext, plan: BatchPlan, signals: StopSignals) -> tuple[RecipeLoop, Metrics]:
    """Build the loop of the recipe's method, with its data, order and callbacks."""
    job, recipe, steps, inputs = context.job, context.job.recipe, plan.steps, context.inputs
    items = order(steps, recipe.seed)
    metrics = Metrics(
        job.out_dir / "metrics.jsonl",
        tokens_per_step=_tokens_per_step(inputs, items, steps),
        # not a whole number: a step may hold items of two epochs
        steps_per_epoch=steps.num_items / steps.global_batch_size,
    )
    callbacks: list[TrainerCallback] = [metrics, Progress(metrics, context.say), signals]
    if recipe.train.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(recipe.train.early_stopping_patience))
    check_schedule(recipe, steps)
    settings = settings_of(
        recipe,
        job.out_dir,
        steps,
        context.types,
        validates=inputs.validation is not None,
        recompute=plan.recomputes_all,
    )
    try:
        arguments = TrainingArguments(**settings)
        common = LoopSettings(model=context.model, engine=context.engine, callbacks=callbacks, args=arguments)
        loop = shape_of(recipe.method).build_loop(context, common)
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
    loop.steps_in_backward = plan.in_backward
    if recipe.train.torch_compile:
        longest, largest = largest_batch(inputs.train, inputs.plan, steps.micro_batch_size)
        # a router would count the tokens that fill packs up
        is_static = inputs.is_packed and context.engine.packed_layout == "flat" and not loop.router_share
        compile_layers(loop, longest, largest.tokens if is_static else None, context.types, context.say)
    return loop, metrics


def _switch_dropout_off(model: torch.nn.Module) -> float:
    """Set every dropout to 0; return the largest rate before."""
    largest = 0.0
    for module in model.modules():
        names = ["p"] if isinstance(module, torch.nn.Dropout) else []
        # attention layers of transformers keep their rate as a float attribute
        names += [name for name, value in vars(module).items() if "drop" in name and type(value) is float]
        for name in names:
            largest = max(largest, getattr(module, name))
            setattr(module, name, 0.0)
    return largest


def _tokens_per_step(inputs: Inputs, items: Ints, steps: StepPlan) -> Ints:
    """Return the real tokens (no padding) of each step over all processes, shape (num_steps,)."""
    lengths = inputs.train.lengths()
    # (items,): tokens of all rows of each item
    # lengths 3 2 4 in packs [0 1] [2]: 5 4
    totals = np.add.reduceat(lengths[inputs.plan.rows], inputs.plan.offsets[:-1])
    # order of `items`: (steps * global batch,), one row of the table a step
    tokens: Ints = totals[items].reshape(steps.num_steps, steps.global_batch_size).sum(axis=1)
    return tokens
