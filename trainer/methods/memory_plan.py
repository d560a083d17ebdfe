"""Choose items of a micro-batch and levels of recompute, and set the levels in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from peft.tuners.lora import LoraLayer

from trainer.engine import recompute
from trainer.engine.lora import is_sharded
from trainer.engine.prepare import Engine
from trainer.methods.hardware import lowest
from trainer.model.planning.activations import Level
from trainer.model.planning.coverage import predictor_of
from trainer.model.planning.gpus import Card
from trainer.model.planning.model_shape import NotPredictedError, Outline
from trainer.model.planning.planner import GIB, MemoryPlan, best, calibrate, candidates, described, requested_level
from trainer.model.planning.predictor import MicroBatch, Predictor
from trainer.recipe import Recipe
from trainer.recipe.model import low_rank


def plan_memory(
    model: torch.nn.Module,
    engine: Engine,
    recipe: Recipe,
    batches: Mapping[int, MicroBatch],
    *,
    share: int,
    card: Card,
    run: Callable[[MemoryPlan], int | None],
    say: Callable[[str], None],
) -> MemoryPlan:
    """Choose the plan and set its levels.

    Args:
        model: Prepared, on the device where it trains.
        engine: Of the model.
        recipe: Sets size and level, or leaves them to the plan.
        batches: The largest micro-batch of each allowed size.
        share: Items that a process takes in a step.
        card: Where the model trains.
        run: Tries a plan on a card; returns the bytes at its peak, None where memory ran out.
        say: Takes a line about the choice.

    Raises:
        NotPredictedError: No formula covers this model or recipe.
    """
    _check_coverage(model, engine, recipe)
    predictor = predictor_for(model, recipe, card)
    # an encoder or a tower for images beside the decoder: its activations are in no formula
    if len(recompute.decoder_layers(model)) != predictor.outline.layers:
        raise NotPredictedError("its layers are not those of its configuration")
    plan = _choose(candidates(predictor, batches, share, card), run, say)
    recompute.apply(model, plan.levels, is_lean=plan.is_lean)
    return plan


def _check_coverage(model: torch.nn.Module, engine: Engine, recipe: Recipe) -> None:
    """Raise NotPredictedError where the engine computes otherwise than the prediction assumes."""
    if is_sharded():
        raise NotPredictedError("weights are spread over processes")
    if engine.layout != "flat" or engine.scorer is None:
        raise NotPredictedError("attention or head are the model's own")
    if low_rank(recipe.adapter) and not any(_product_layers(model)):
        raise NotPredictedError("LoRA goes through PEFT's own forward")


def _choose(plans: list[MemoryPlan], run: Callable[[MemoryPlan], int | None], say: Callable[[str], None]) -> MemoryPlan:
    """Return the first plan that fits; on a card, the first that also runs."""
    plan = best(plans)
    if plan.card.is_cuda:
        calibration = calibrate(plans, run)
        for failed in calibration.failed:
            say(f"train: the longest micro-batch does not fit: {_summary(failed)}")
        plan = calibration.final_plan()
    memory = plan.memory
    measured = (
        ""
        if plan.measured is None
        else f", measured {plan.measured / GIB:.2f} GiB (predicted {memory.passes / GIB:.2f})"
    )
    say(f"train: {_summary(plan)}; peak predicted {plan.numbers()['predicted_gib']:.2f} GiB{measured}")
    if memory.host:
        spare = f", which has {plan.card.host_memory / GIB:.1f} GiB to spare" if plan.card.is_cuda else ""
        say(f"train: {memory.host / GIB:.1f} GiB of layer inputs wait on the host{spare}")
    return plan


def _summary(plan: MemoryPlan) -> str:
    lean = " (lean)" if plan.is_lean else ""
    return f"micro-batches of {plan.micro_batch_size}, recompute {described(plan.levels)}{lean}"


def predictor_for(model: torch.nn.Module, recipe: Recipe, card: Card) -> Predictor:
    """Return the predictor of a loaded model.

    Raises:
        NotPredictedError: The family or a setting is not covered.
    """
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    # one process that dequantises decides for all: the lowest of 0 and -1
    lowest_flag = lowest([-float(_is_dequantised(model))], next(model.parameters()).device)[0]
    return predictor_of(
        recipe, outline_of(model), is_cuda=card.is_cuda, is_dequantised=lowest_flag < 0, processes=processes
    )


def outline_of(model: torch.nn.Module) -> Outline:
    """Return the sizes of a loaded model.

    Raises:
        NotPredictedError: The family is not covered.
    """
    return Outline.of(model.config.get_text_config().to_dict())


def _product_layers(model: torch.nn.Module) -> Iterator[LoraLayer]:
    """Yield the LoRA layers that compute with the engine's product."""
    return (module for module in model.modules() if getattr(module, "_product", None) is not None)


def _is_dequantised(model: torch.nn.Module) -> bool:
    return any(
        module._product.block is not None and module.get_base_layer().weight.dtype == torch.uint8
        for module in _product_layers(model)
    )


def recompute_without_plan(model: torch.nn.Module, recipe: Recipe, say: Callable[[str], None]) -> bool:
    """Set the requested level where nothing is predicted; return whether transformers is to recompute all layers."""
    level = requested_level(recipe.train, is_cuda=torch.cuda.is_available())
    if level is None or level == "full":
        return True
    layers = recompute.decoder_layers(model)
    if level == "none":
        return recompute_all(model, recomputes=False)
    # an offloaded layer returns its hidden states alone: a router's loss would be lost
    is_possible = bool(layers) and not is_sharded() and (level != "offload" or _is_covered(model, len(layers)))
    if is_possible:
        levels: list[Level] = [level] * len(layers)
        recompute.apply(model, levels)
        return False
    say(f"train: recompute full: {level} is not known for this model")
    return True


def recompute_all(model: torch.nn.Module, *, recomputes: bool) -> bool:
    """Set one level for all layers where transformers' own recompute may do it; return whether it is to."""
    if not recomputes:
        nothing: Level = "none"
        recompute.apply(model, [nothing] * len(recompute.decoder_layers(model)))
    return recomputes


def _is_covered(model: torch.nn.Module, num_layers: int) -> bool:
    try:
        return num_layers == outline_of(model).layers
    except NotPredictedError:
        return False
