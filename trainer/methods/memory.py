"""How much of each layer this training computes again: planned from the model's sizes, tried on the longest batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from trainer.engine import recompute
from trainer.engine.lora import SHARDED
from trainer.engine.optimizer.backward import freed_gradients
from trainer.engine.prepare import Engine
from trainer.model import cards
from trainer.model.forecast import GIB, Forecast, after_running_out, described, forecast, predictor_of
from trainer.model.memory import Batch, Level
from trainer.model.outline import NotPredictedError, Outline
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter
from trainer.tokens.pack import PackPlan
from trainer.tokens.store import TokenStore


def plan_memory(
    model: Any, engine: Engine, recipe: Recipe, batch: Batch, say: Callable[[str], None]
) -> Forecast | None:
    """Choose the level of each layer; None where the memory of this model or recipe is not known.

    Args:
        model: On the device where it trains, prepared.
        engine: What was prepared.
        recipe: Asks for recompute, or leaves it to the plan.
        batch: The largest micro-batch.
        say: Told what is chosen, or why nothing is.
    """
    problem = _not_covered(model, engine, recipe)
    if problem is None:
        try:
            card = card_of(model)
            found = forecast(predictor_of(recipe, outline_of(model), is_cuda=card.is_cuda), batch, card.memory)
            if len(recompute.decoder_layers(model)) == len(found.levels):
                say(f"train: recompute {described(found.levels)}; peak predicted {found.memory.peak / GIB:.2f} GiB")
                return found
            problem = "its layers are not those of its configuration"
        except NotPredictedError as error:
            problem = str(error)
    say(f"train: peak not predicted: {problem}")
    return None


def outline_of(model: Any) -> Outline:
    """Return the sizes of a loaded model.

    Raises:
        NotPredictedError: The family is not covered.
    """
    return Outline.of(model.config.get_text_config().to_dict())


def _not_covered(model: Any, engine: Engine, recipe: Recipe) -> str | None:
    if any(os.environ.get(name) == "true" for name in SHARDED):
        return "weights are spread over processes"
    if engine.layout != "flat" or engine.scorer is None:
        return "attention or head are the model's own"
    products = [module for module in model.modules() if hasattr(module, "_product")]
    if isinstance(recipe.adapter, LoraAdapter) and not products:
        return "LoRA goes through PEFT's own forward"
    return None


def card_of(model: Any) -> cards.Card:
    """Return the card that a model is on, with the memory that is free or already this process's; or the CPU."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return cards.host()
    free, _ = torch.cuda.mem_get_info(device)
    return cards.Card(torch.cuda.get_device_name(device), free + torch.cuda.memory_reserved(device))


def largest_batch(store: TokenStore, plan: PackPlan, micro_batch_size: int) -> tuple[list[int], Batch]:
    """Return the items of the longest micro-batch that chance may bring, and what it holds."""
    rows, starts = plan.rows, plan.offsets[:-1]
    tokens = np.add.reduceat(store.lengths()[rows], starts)
    trained = np.add.reduceat(store.num_trained()[rows], starts)
    items = np.argsort(tokens, kind="stable")[::-1][:micro_batch_size]
    return items.tolist(), Batch(int(tokens[items].sum()), int(trained[items].sum()))


def apply(model: Any, chosen: Forecast | None) -> None:
    """Set the levels of a plan; a full one is transformers' own to set."""
    if chosen is not None and not is_full(chosen):
        recompute.apply(model, chosen.levels)


def is_full(chosen: Forecast) -> bool:
    """Tell whether every layer is computed again in whole."""
    return set(chosen.levels) == {"full"}


def first_that_runs(
    levels: Sequence[Level], runs: Callable[[Sequence[Level]], bool]
) -> tuple[Sequence[Level], list[Sequence[Level]]]:
    """Return the first levels that run, of the planned ones and those with more recompute, and those that did not."""
    failed: list[Sequence[Level]] = []
    for tried in _harder(levels):
        if runs(tried):
            return tried, failed
        failed.append(tried)
    return failed[-1], failed


def _harder(levels: Sequence[Level]) -> Iterator[Sequence[Level]]:
    less: Level = "elementwise"
    least: Level = "full"
    yield levels
    if set(levels) == {"none"}:
        yield (less,) * len(levels)
    if set(levels) != {"full"}:
        yield (least,) * len(levels)


def settle(loop: Any, chosen: Forecast | None, items: Sequence[int], say: Callable[[str], None]) -> None:
    """On a card, try the plan on the longest batch before the first step, and recompute more where it does not run."""
    if chosen is None or loop.args.device.type != "cuda" or is_full(chosen):
        return
    batch = loop.data_collator([loop.train_dataset[item] for item in items])
    waiting = chosen.memory.optimizer

    def runs(levels: Sequence[Level]) -> bool:
        recompute.apply(loop.model, levels)
        return _runs(loop, batch, waiting)

    levels, failed = first_that_runs(chosen.levels, runs)
    if failed:
        say(f"train: recompute {described(levels)}: with {described(failed[0])} the longest batch does not fit")


def _runs(loop: Any, batch: Any, waiting: int) -> bool:
    """Tell whether a forward and backward pass fits beside what the optimizer will take."""
    device = loop.args.device
    try:
        hold = torch.empty(waiting, dtype=torch.uint8, device=device)
        inputs = loop._prepare_inputs({name: batch[name] for name in ("inputs", "targets")})
        with loop.compute_loss_context_manager():
            found, _ = loop.engine.score(loop.model, inputs)
        with freed_gradients(loop.model) if loop.steps_in_backward else nullcontext():
            found.mean().backward()
        del hold, inputs, found
    except torch.OutOfMemoryError:
        return False
    finally:
        loop.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return True


def what_fits(model: Any, recipe: Recipe) -> str | None:
    """Return settings that need clearly less memory than the ones that have just run out of it."""
    try:
        return after_running_out(recipe, outline_of(model), card_of(model))
    except NotPredictedError:
        return None
