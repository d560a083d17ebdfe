"""How a training shares out its memory: items of a micro-batch, and how much of each layer is computed again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from trainer.engine import recompute
from trainer.engine.lora import is_sharded
from trainer.engine.prepare import Engine
from trainer.methods.memory_trial import Trial, least
from trainer.model.planning import gpus
from trainer.model.planning.activations import Level
from trainer.model.planning.advice import after_running_out, predictor_of
from trainer.model.planning.model_shape import NotPredictedError, Outline
from trainer.model.planning.planner import (
    GIB,
    MemoryPlan,
    asked_level,
    best,
    calibrated,
    candidates,
    described,
    settled,
)
from trainer.model.planning.predictor import RESERVE_CUDA, MicroBatch, Predictor
from trainer.recipe import Recipe
from trainer.recipe.model import low_rank
from trainer.tokens.pack import PackPlan
from trainer.tokens.store import TokenStore

HOST_SHARE = 0.8
"""Of the host's free memory, for layer inputs: the rest is for the data and the page cache."""


@dataclass(frozen=True)
class Chosen:
    """The plan of a training, and what trying it has shown."""

    forecast: MemoryPlan
    tried: int | None = None
    """Bytes at the peak of a forward and backward pass of the longest micro-batch, where it was tried."""

    def numbers(self) -> dict[str, Any]:
        """Return what `stage.json` says of it, in GiB."""
        tried = {} if self.tried is None else {"tried_gib": round(self.tried / GIB, 3)}
        return self.forecast.numbers() | tried


def plan_memory(
    model: Any,
    engine: Engine,
    recipe: Recipe,
    batches: Mapping[int, MicroBatch],
    share: int,
    trial: Trial,
    say: Callable[[str], None],
) -> Chosen | None:
    """Choose the plan and set the levels; None where the memory of this model or recipe is not known.

    Args:
        model: On the device where it trains, prepared.
        engine: What was prepared.
        recipe: Names size and level, or leaves them to the plan.
        batches: The largest micro-batch of each size that is allowed.
        share: Items that a process takes in a step.
        trial: Tries plans, on a card.
        say: Told what is chosen, or why nothing is.
    """
    problem = _not_covered(model, engine, recipe)
    if problem is None:
        try:
            card = card_of(model)
            predictor = predictor_for(model, recipe, card)
            if len(recompute.decoder_layers(model)) == predictor.outline.layers:
                chosen = _choose(candidates(predictor, batches, share, card), trial, say)
                recompute.apply(model, chosen.forecast.levels, is_lean=chosen.forecast.is_lean)
                return chosen
            problem = "its layers are not those of its configuration"
        except NotPredictedError as error:
            problem = str(error)
    say(f"train: peak not predicted: {problem}")
    return None


def _choose(plans: list[MemoryPlan], trial: Trial, say: Callable[[str], None]) -> Chosen:
    """Take the first plan that fits; on a card, the first that runs as well."""
    found = Chosen(best(plans))
    if found.forecast.card.is_cuda:
        known = calibrated(plans, trial.run)
        for failed in known.failed:
            say(f"train: the longest micro-batch does not fit: {_summary(failed)}")
        plan = settled(known)
        found = Chosen(plan, known.ran.get(plan))
    memory = found.forecast.memory
    tried = (
        "" if found.tried is None else f", measured {found.tried / GIB:.2f} GiB (predicted {memory.passes / GIB:.2f})"
    )
    peak = found.forecast.numbers()["predicted_gib"]
    say(f"train: {_summary(found.forecast)}; peak predicted {peak:.2f} GiB{tried}")
    if memory.host:
        card = found.forecast.card
        spare = f", which has {card.host_memory / GIB:.1f} GiB to spare" if card.is_cuda else ""
        say(f"train: {memory.host / GIB:.1f} GiB of layer inputs wait on the host{spare}")
    return found


def _summary(plan: MemoryPlan) -> str:
    lean = " (lean)" if plan.is_lean else ""
    return f"micro-batches of {plan.micro_batch_size}, recompute {described(plan.levels)}{lean}"


def predictor_for(model: Any, recipe: Recipe, card: gpus.Card) -> Predictor:
    """Return the predictor of a loaded model.

    Raises:
        NotPredictedError: The family or a setting is not covered.
    """
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    device = next(model.parameters()).device
    is_dequantised = least([-float(_is_dequantised(model))], device)[0] < 0
    return predictor_of(
        recipe, outline_of(model), is_cuda=card.is_cuda, is_dequantised=is_dequantised, processes=processes
    )


def outline_of(model: Any) -> Outline:
    """Return the sizes of a loaded model.

    Raises:
        NotPredictedError: The family is not covered.
    """
    return Outline.of(model.config.get_text_config().to_dict())


def _is_dequantised(model: Any) -> bool:
    products = [module for module in model.modules() if getattr(module, "_product", None) is not None]
    return any(
        module._product.block is not None and module.get_base_layer().weight.dtype == torch.uint8 for module in products
    )


def _not_covered(model: Any, engine: Engine, recipe: Recipe) -> str | None:
    if is_sharded():
        return "weights are spread over processes"
    if engine.layout != "flat" or engine.scorer is None:
        return "attention or head are the model's own"
    products = [module for module in model.modules() if hasattr(module, "_product")]
    if low_rank(recipe.adapter) and not products:
        return "LoRA goes through PEFT's own forward"
    return None


def card_of(model: Any) -> gpus.Card:
    """Return the card that a model is on, as the weakest of all processes has it; or the CPU."""
    device = next(model.parameters()).device
    card = seen_card(device)
    own = [card.memory, card.host_memory, card.flops or 0.0, card.bandwidth or 0.0]
    memory, host, flops, bandwidth = least([float(value) for value in own], device)
    return replace(card, memory=int(memory), flops=flops or None, bandwidth=bandwidth or None, host_memory=int(host))


def seen_card(device: torch.device) -> gpus.Card:
    """Return this process's card, with what is free or already this process's; or the CPU."""
    if device.type != "cuda":
        return gpus.host()
    name, (free, total) = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
    known = gpus.known_as(name, total)
    host = HOST_SHARE * gpus.host_free() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # a prediction counts the context, which has been taken
    room = min(total, free + torch.cuda.memory_reserved(device) + RESERVE_CUDA)
    rates = (known.flops, known.bandwidth) if known else (None, None)
    return gpus.Card(name, room, *rates, host_memory=int(host))


def largest_batch(store: TokenStore, plan: PackPlan, micro_batch_size: int) -> tuple[list[int], MicroBatch]:
    """Return the items of the longest micro-batch that chance may bring, and what it holds."""
    rows, starts = plan.rows, plan.offsets[:-1]
    tokens = np.add.reduceat(store.lengths()[rows], starts)
    trained = np.add.reduceat(store.num_trained()[rows], starts)
    shared = np.add.reduceat(store.prompt_lengths()[rows], starts)
    copies = -(-micro_batch_size // len(starts))  # of so few items, a step takes each several times
    items = np.argsort(tokens, kind="stable")[::-1].repeat(copies)[:micro_batch_size]
    return items.tolist(), MicroBatch(*(int(one[items].sum()) for one in (tokens, trained, shared)))


def without_plan(model: Any, recipe: Recipe, say: Callable[[str], None]) -> bool:
    """Set the level that is asked for where nothing is predicted; return whether transformers is to recompute all."""
    level = asked_level(recipe.train, is_cuda=torch.cuda.is_available())
    if level is None or level == "full":
        return True
    layers = recompute.decoder_layers(model)
    # a layer computed apart may lose what it gives beside its hidden states, such as a router's loss
    is_known = bool(layers) and not is_sharded() and (level != "offload" or _is_covered(model))
    if level == "none" or is_known:
        levels: list[Level] = [level] * len(layers)
        recompute.apply(model, levels)
        return False
    say(f"train: recompute full: {level} is not known for this model")
    return True


def _is_covered(model: Any) -> bool:
    try:
        return len(recompute.decoder_layers(model)) == outline_of(model).layers
    except NotPredictedError:
        return False


def what_fits(model: Any, recipe: Recipe, chosen: Chosen | None) -> str | None:
    """Return settings that need clearly less memory than the ones that have just run out of it."""
    if chosen is None:
        return None
    try:
        return after_running_out(recipe, outline_of(model), chosen.forecast)
    except NotPredictedError:
        return None
