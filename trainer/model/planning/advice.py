"""Advise on a recipe before it trains: whether it fits on a card, which settings would make it fit, time of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from trainer.errors import HardwareError
from trainer.model.planning import gpus
from trainer.model.planning.activations import WHOLE
from trainer.model.planning.coverage import predictor_of
from trainer.model.planning.model_shape import NotPredictedError, Outline, read
from trainer.model.planning.planner import (
    GIB,
    MemoryPlan,
    best,
    candidates,
    dequantises_once,
    described,
    micro_batch_sizes,
    requested_level,
)
from trainer.model.planning.predictor import RESERVE_CUDA, MicroBatch, Predictor
from trainer.model.planning.quantised_sizes import DEQUANTISED_SHARE
from trainer.model.planning.traced import TracedPlan, WeightNumbers, choose
from trainer.model.source import locate
from trainer.recipe import Recipe
from trainer.recipe.method import row_facts
from trainer.recipe.model import Adapter, four_bit_of, low_rank
from trainer.shapes.blueprint import Blueprint

TOO_CLOSE = 0.8
"""Largest share of the failed plan's predicted bytes that a plan after running out of memory may need."""


def planned(recipe: Recipe, outline: Outline, card: gpus.Card, *, longest: int | None = None) -> MemoryPlan:
    """Predict a recipe on a card, for items whose tokens are all trained.

    Args:
        recipe: Of the training.
        outline: Of the model.
        card: Where it trains.
        longest: Tokens of the longest item; None: those that `pack.max_length` allows.

    Raises:
        NotPredictedError: The recipe has a setting whose memory is not known.
        RecipeError: The batch sizes do not fit the number of processes.
    """
    processes = 1 if recipe.launch.num_processes == "auto" else recipe.launch.num_processes
    sizes, share = micro_batch_sizes(recipe.train, processes)
    predictor = predictor_of(recipe, outline, is_cuda=card.is_cuda, processes=processes)
    if dequantises_once(recipe) and _dequantised_fits(predictor, card):
        predictor = predictor_of(recipe, outline, is_cuda=True, is_dequantised=True, processes=processes)
    longest = min(item_tokens(recipe), longest or item_tokens(recipe))
    batches = {size: MicroBatch(size * longest, size * longest) for size in sizes}
    return best(candidates(predictor, batches, share, card))


def _dequantised_fits(predictor: Predictor, card: gpus.Card) -> bool:
    # the same share of the same number as `lora.dequantised_fits` measures once the weights are loaded
    free = card.memory - RESERVE_CUDA - predictor.weights()
    return card.is_cuda and predictor.dequantised() <= DEQUANTISED_SHARE * free


def item_tokens(recipe: Recipe) -> int:
    """Return the most tokens of an item: a pack, a row, or a pair, whose prompt is stored once."""
    return recipe.pack.max_length * row_facts(recipe.method).sequences


Setting = tuple[str, str, str | int | bool]
"""Section, key and value."""


def fixes(
    recipe: Recipe, outline: Outline, card: gpus.Card, *, fixed: Sequence[Setting] = (), longest: int | None = None
) -> str | None:
    """Return the first settings that make a recipe fit, as `--set` options; each alone, then several together.

    Args:
        recipe: Does not fit.
        outline: Of the model.
        card: Where it is to fit.
        fixed: Settings that every result includes.
        longest: See `planned`.
    """
    steps = [step for step in _steps(recipe, card) if step not in fixed]
    together = [steps[: count + 1] for count in range(1, len(steps))]
    alone = [[step] for step in steps]
    nothing: list[list[Setting]] = [[]] if fixed else []
    for choice in nothing + alone + together:
        settings = {(section, key): value for section, key, value in [*fixed, *choice]}
        changed = _with_settings(recipe, settings)
        if changed is None:
            continue
        try:
            if planned(changed, outline, card, longest=longest).fits:
                return " ".join(
                    f"--set {section}.{key}={str(value).lower()}" for (section, key), value in settings.items()
                )
        except NotPredictedError:
            continue
    return None


def _with_settings(recipe: Recipe, settings: Mapping[tuple[str, str], object]) -> Recipe | None:
    """Return the recipe with other settings; None where it would be refused."""
    for (section, key), value in settings.items():
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={key: value})})
    # an adapter of another kind is of another class
    adapter: Adapter = TypeAdapter(Adapter).validate_python(recipe.adapter.model_dump())
    changed = recipe.model_copy(update={"adapter": adapter})
    try:
        Recipe.model_validate(changed.model_dump())
    except ValidationError:
        return None
    return changed


def _steps(recipe: Recipe, card: gpus.Card) -> Iterator[Setting]:
    """Yield settings that save memory."""
    level = requested_level(recipe.train, is_cuda=card.is_cuda)
    if level not in WHOLE:
        yield "train", "gradient_checkpointing", True
    if recipe.train.micro_batch_size != 1:
        yield "train", "micro_batch_size", 1
    if not low_rank(recipe.adapter):
        yield "adapter", "kind", "lora"
    elif not four_bit_of(recipe.adapter):
        yield "adapter", "kind", "qlora"
    if level != "offload" and card.is_cuda:
        yield "train", "gradient_checkpointing", "offload"
    if recipe.pack.max_length > 1024:
        yield "pack", "max_length", recipe.pack.max_length // 2


def after_running_out(recipe: Recipe, outline: Outline, failed: MemoryPlan) -> str | None:
    """Return settings that need clearly less than a plan that has just run out of memory.

    No setting is left to the plan, which would again use the whole card.
    """
    fixed: list[Setting] = []
    if requested_level(recipe.train, is_cuda=failed.card.is_cuda) not in WHOLE:
        fixed.append(("train", "gradient_checkpointing", True))
    if recipe.train.micro_batch_size == "auto":
        fixed.append(("train", "micro_batch_size", failed.micro_batch_size))
    # the prediction has just been wrong: ask for a fifth less than it
    less = min(failed.card.memory, int(TOO_CLOSE * failed.memory.total))
    longest = -(-failed.batch.tokens // failed.micro_batch_size)
    return fixes(recipe, outline, replace(failed.card, memory=less), fixed=fixed, longest=longest)


def lines(recipe: Recipe, blueprint: Blueprint | None = None) -> Iterator[str]:
    """Yield the lines of `check` about memory and time.

    Args:
        recipe: What is planned.
        blueprint: Of the opened model; its traced step stands in where the formulas do not cover model or recipe.

    Raises:
        HardwareError: `launch.card` names no known card.
    """
    cards = cards_of(recipe)
    try:
        outline = read(locate(recipe.model.name_or_path, revision=recipe.model.revision))
        for card in {(card.name, card.memory): card for card in cards}.values():
            card = replace(card, host_memory=gpus.host_free())
            plan = planned(recipe, outline, card)
            yield _memory_line(recipe, outline, card, plan)
            if card.flops is not None:
                yield f"step:   {plan.seconds:.2g} s at the rates of the data sheet, if all items are of full length"
    except NotPredictedError as error:
        if blueprint is None or not blueprint["memory"]:
            yield f"memory: {error}"
            return
        for card in {(card.name, card.memory): card for card in cards}.values():
            yield _traced_plan(recipe, blueprint, card).line()


def _traced_plan(recipe: Recipe, blueprint: Blueprint, card: gpus.Card) -> TracedPlan:
    """Return the plan by the traced steps of a blueprint; all items are taken to be of full length."""
    processes = 1 if recipe.launch.num_processes == "auto" else recipe.launch.num_processes
    sizes, share = micro_batch_sizes(recipe.train, processes)
    weights = WeightNumbers(blueprint["trained"], sum(count["four_bit"] for count in blueprint["counts"].values()))
    tokens = {size: size * item_tokens(recipe) for size in sizes}
    return choose(recipe, blueprint["memory"], weights, tokens, share=share, processes=processes, card=card)


def cards_of(recipe: Recipe) -> list[gpus.Card]:
    """Return the cards that a recipe is planned for: the named one, else those of this machine, else its CPU.

    Raises:
        HardwareError: `launch.card` names no known card.
    """
    return [_listed_card(recipe.launch.card)] if recipe.launch.card else gpus.installed_cards() or [gpus.host()]


def _listed_card(name: str) -> gpus.Card:
    if name not in gpus.CARDS:
        raise HardwareError(f"launch.card: {name!r} is not in the table", hint=f"one of {', '.join(gpus.CARDS)}")
    return gpus.CARDS[name]


def _memory_line(recipe: Recipe, outline: Outline, card: gpus.Card, plan: MemoryPlan) -> str:
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in plan.memory.parts().items())
    waits = f", {plan.memory.host / GIB:.1f} GiB wait on the host" if plan.memory.host else ""
    start = (
        f"memory: {card.name} has {card.memory / GIB:.1f} GiB, predicted peak {plan.memory.total / GIB:.2f} GiB "
        f"at {plan.batch.tokens:,} tokens a micro-batch, recompute {described(plan.levels)} ({parts}){waits}"
    )
    if plan.fits:
        return f"{start}: fits"
    settings = fixes(recipe, outline, card)
    return f"{start}: does not fit; " + (f"this would: {settings}" if settings else "no setting tried here would")
