"""Plan a training from traced steps, where no formula covers the model or a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from trainer.engine.attention import NotCovered
from trainer.engine.lora import is_sharded
from trainer.engine.traced import traced_memory
from trainer.errors import HardwareError
from trainer.model.adapter import attach
from trainer.model.blueprint.meta import build, four_bit_names, read_config, traced_types
from trainer.model.fake import NOT_FAKED
from trainer.model.planning.gpus import Card
from trainer.model.planning.planner import GIB
from trainer.model.planning.traced import TracedPlan, WeightNumbers, choose, fresh, traced_levels
from trainer.recipe import Recipe
from trainer.recipe.model import low_rank
from trainer.shapes.blueprint import TracedMemory


class NotTracedError(Exception):
    """Memory cannot be traced; the message says why."""


def plan_traced(
    model: torch.nn.Module,
    recipe: Recipe,
    tokens: Mapping[int, int],
    *,
    is_flat: bool,
    share: int,
    processes: int,
    card: Card,
    say: Callable[[str], None],
) -> TracedPlan | None:
    """Return the fastest plan that fits by a traced step; None, with a line, where the step cannot be traced.

    Args:
        model: Loaded, with its adapter.
        recipe: What is asked for.
        tokens: Size of a micro-batch -> tokens of the largest one, padding included.
        is_flat: Rows follow each other without padding.
        share: Items that a process takes in a step.
        processes: Number of processes.
        card: Where the model trains.
        say: Takes a line about the choice.
    """
    try:
        traces, four_bit = _traces(recipe, max(tokens.values()) // max(tokens), is_flat=is_flat, is_cuda=card.is_cuda)
    except NotTracedError as error:
        say(f"train: peak not predicted: {error}")
        return None
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    plan = choose(recipe, traces, WeightNumbers(trained, four_bit), tokens, share=share, processes=processes, card=card)
    say(
        f"train: micro-batches of {plan.micro_batch_size}, recompute {plan.level}; "
        f"peak predicted {plan.total / GIB:.2f} GiB by a step traced without weights"
    )
    if not plan.fits:
        say(f"train: {card.name} has {card.memory / GIB:.1f} GiB: memory may run out")
    return plan


def _traces(recipe: Recipe, tokens: int, *, is_flat: bool, is_cuda: bool) -> tuple[list[TracedMemory], int]:
    """Return a traced step for each level that may be chosen, and the number of weights in 4 bits.

    Raises:
        NotTracedError: The model or a setting cannot be traced.
    """
    if is_sharded():
        raise NotTracedError("weights are spread over processes")
    levels = traced_levels(recipe, is_cuda=is_cuda)
    if not levels:
        raise NotTracedError(f"train.gradient_checkpointing={recipe.train.gradient_checkpointing} for this model")
    dtype, autocast = traced_types(recipe, is_cuda=is_cuda)
    try:
        # adapters draw numbers on the meta device, too: the training must begin with those of its seed
        with torch.random.fork_rng(devices=[]):
            base = build(read_config(recipe.model), recipe.model, dtype)
            four_bit = four_bit_names(recipe.model, recipe.adapter)
            quantised = sum(weight.numel() for name, weight in base.named_parameters() if name in four_bit)
            adapter = low_rank(recipe.adapter)
            opened: PreTrainedModel | PeftModel = base if adapter is None else attach(base, fresh(adapter), _silent)
            traces = [
                traced_memory(
                    opened,
                    is_flat=is_flat,
                    tokens=tokens,
                    recomputes=recomputes,
                    autocast=autocast,
                    four_bit=four_bit,
                )
                for recomputes in levels
            ]
    except (*NOT_FAKED, NotCovered, HardwareError) as error:
        raise NotTracedError(f"the model cannot run without numbers: {str(error).splitlines()[0]}") from error
    return traces, quantised


def _silent(_: str) -> None:
    return None
