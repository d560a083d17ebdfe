"""Before a training: does it fit on a card, what would make it fit, how long is a step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.errors import HardwareError, Problem, RecipeError
from trainer.model.planning import gpus
from trainer.model.planning.activations import WHOLE
from trainer.model.planning.model_shape import NotPredictedError, Outline, read
from trainer.model.planning.planner import GIB, MemoryPlan, asked_level, best, candidates, described, divisors
from trainer.model.planning.predictor import RESERVE_CUDA, MicroBatch, Predictor
from trainer.model.planning.quantised_sizes import DEQUANTISED_SHARE
from trainer.model.source import locate
from trainer.recipe import Recipe
from trainer.recipe.method import row_facts
from trainer.recipe.model import Adapter, four_bit_of, low_rank

OTHER_MODULES = ("model.embed_tokens", "lm_head")
TOO_CLOSE = 0.8
"""After running out of memory: what fits is at most this share of what was predicted."""


def predictor_of(
    recipe: Recipe, outline: Outline, *, is_cuda: bool, is_dequantised: bool = False, processes: int = 1
) -> Predictor:
    """Return the predictor of a recipe.

    Raises:
        NotPredictedError: The recipe has a setting whose memory is not known.
        RecipeError: `adapter.target_modules` matches no layer.
    """
    _check_pattern(recipe, outline)
    predictor = Predictor(outline, recipe, is_cuda=is_cuda, is_dequantised=is_dequantised, processes=processes)
    problem = predictor.problem()
    if problem:
        raise NotPredictedError(f"{problem}: not predicted")
    return predictor


def _check_pattern(recipe: Recipe, outline: Outline) -> None:
    adapter = low_rank(recipe.adapter)
    pattern = adapter.target_modules if adapter and not adapter.init_from else "all-linear"
    if pattern == "all-linear":
        return
    if not isinstance(pattern, str):
        _check_names(pattern, outline)
    elif not any(outline.matched(pattern)) and not any(re.fullmatch(pattern, name) for name in OTHER_MODULES):
        example = r".*\.(q_proj|v_proj)"
        problem = Problem("recipe", None, "adapter.target_modules", f"the pattern {pattern!r} matches no layer")
        names = ", ".join(linear.name for linear in outline.linears)
        raise RecipeError([problem], hint=f"it must match whole names, such as {example!r}; this model has {names}")


def _check_names(wanted: Sequence[str], outline: Outline) -> None:
    """Refuse a name that is nearly that of a layer; another one may be a part that the outline does not know."""
    known = [*(linear.name for linear in outline.linears), *(name.rpartition(".")[2] for name in OTHER_MODULES)]
    for name in wanted:
        last = name.rpartition(".")[2]
        near = [] if last in known or last.isdecimal() else get_close_matches(last, known, n=1, cutoff=0.75)
        if near:
            said = f"no layer is called {last!r}; did you mean `{near[0]}`?"
            raise RecipeError([Problem("recipe", None, "adapter.target_modules", said)])


def planned(recipe: Recipe, outline: Outline, card: gpus.Card, *, longest: int | None = None) -> MemoryPlan:
    """Predict a recipe on a card, for items whose tokens are all trained.

    Args:
        recipe: Of the training.
        outline: Of the model.
        card: Where it trains.
        longest: Tokens of an item at most; those that `pack.max_length` allows where it is not known.

    Raises:
        NotPredictedError: The recipe has a setting whose memory is not known.
        RecipeError: The batch sizes do not fit the number of processes.
    """
    processes = 1 if recipe.launch.num_processes == "auto" else recipe.launch.num_processes
    sizes, share = _sizes(recipe, processes)
    predictor = predictor_of(recipe, outline, is_cuda=card.is_cuda, processes=processes)
    if dequantises_once(recipe) and _dequantised_fits(predictor, card):
        predictor = predictor_of(recipe, outline, is_cuda=True, is_dequantised=True, processes=processes)
    longest = min(item_tokens(recipe), longest or item_tokens(recipe))
    batches = {size: MicroBatch(size * longest, size * longest) for size in sizes}
    return best(candidates(predictor, batches, share, card))


def _sizes(recipe: Recipe, processes: int) -> tuple[list[int], int]:
    """Return the sizes that a micro-batch may have, and the items that a process takes in a step."""
    share, rest = divmod(recipe.train.global_batch_size, processes)
    message = f"global_batch_size {recipe.train.global_batch_size} is no multiple of {processes} processes"
    if not rest:
        try:
            return divisors(recipe.train, share), share
        except ValueError as error:
            message = str(error)
    problem = Problem("recipe", None, "train.global_batch_size", message)
    raise RecipeError([problem], hint="choose a multiple, or another launch.num_processes")


def dequantises_once(recipe: Recipe) -> bool:
    """Tell whether 4-bit weights may be kept dequantised: who asks for full recompute wants memory, not time."""
    return four_bit_of(recipe.adapter) is not None and asked_level(recipe.train, is_cuda=True) not in WHOLE


def _dequantised_fits(predictor: Predictor, card: gpus.Card) -> bool:
    free = card.memory - RESERVE_CUDA - predictor.weights()
    return card.is_cuda and predictor.dequantised() <= DEQUANTISED_SHARE * free


def item_tokens(recipe: Recipe) -> int:
    """Return the most tokens of an item: a pack, a row, or a pair, whose prompt is stored once."""
    return recipe.pack.max_length * row_facts(recipe.method).sequences


Setting = tuple[str, str, Any]
"""Section, key and value."""


def fixes(
    recipe: Recipe, outline: Outline, card: gpus.Card, *, given: Sequence[Setting] = (), longest: int | None = None
) -> str | None:
    """Return the first settings that make a recipe fit, as `--set` options; each alone, then all together.

    Args:
        recipe: That does not fit.
        outline: Of the model.
        card: Where it is to fit.
        given: Settings that are made in any case.
        longest: See `planned`.
    """
    steps = [one for one in _steps(recipe, card) if one not in given]
    together = [steps[: number + 1] for number in range(1, len(steps))]
    alone = [[step] for step in steps]
    empty: list[list[Setting]] = [[]] if given else []
    for settings in empty + alone + together:
        named = {(section, key): value for section, key, value in [*given, *settings]}
        changed = _with(recipe, named)
        if changed is None:
            continue
        try:
            if planned(changed, outline, card, longest=longest).fits:
                return " ".join(
                    f"--set {section}.{key}={str(value).lower()}" for (section, key), value in named.items()
                )
        except NotPredictedError:
            continue
    return None


def _with(recipe: Recipe, settings: Mapping[tuple[str, str], Any]) -> Recipe | None:
    """Return the recipe with other settings; None where it would be refused."""
    for (section, key), value in settings.items():
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={key: value})})
    changed = _with_adapter(recipe)
    try:
        Recipe.model_validate(changed.model_dump())
    except ValidationError:
        return None
    return changed


def _steps(recipe: Recipe, card: gpus.Card) -> Iterator[Setting]:
    """Yield settings that save memory."""
    level = asked_level(recipe.train, is_cuda=card.is_cuda)
    if level not in WHOLE:
        yield "train", "gradient_checkpointing", True
    if recipe.train.micro_batch_size != 1:
        yield "train", "micro_batch_size", 1
    if not low_rank(recipe.adapter):
        yield "adapter", "kind", "lora"
    elif not four_bit_of(recipe.adapter) and not recipe.train.float8_base:
        yield "adapter", "kind", "qlora"
    if level != "offload" and card.is_cuda:
        yield "train", "gradient_checkpointing", "offload"
    if recipe.pack.max_length > 1024:
        yield "pack", "max_length", recipe.pack.max_length // 2


def _with_adapter(recipe: Recipe) -> Recipe:
    """Return the recipe with the adapter class that its kind asks for."""
    adapter: Adapter = TypeAdapter(Adapter).validate_python(recipe.adapter.model_dump())
    return recipe.model_copy(update={"adapter": adapter})


def after_running_out(recipe: Recipe, outline: Outline, failed: MemoryPlan) -> str | None:
    """Return settings that need clearly less than what has just run out of memory.

    Nothing is left to a plan: it would choose again what uses the whole card.
    """
    given: list[Setting] = []
    if asked_level(recipe.train, is_cuda=failed.card.is_cuda) not in WHOLE:
        given.append(("train", "gradient_checkpointing", True))
    if recipe.train.micro_batch_size == "auto":
        given.append(("train", "micro_batch_size", failed.micro_batch_size))
    less = min(failed.card.memory, int(TOO_CLOSE * failed.memory.total))
    longest = -(-failed.batch.tokens // failed.micro_batch_size)
    return fixes(recipe, outline, replace(failed.card, memory=less), given=given, longest=longest)


def lines(recipe: Recipe) -> Iterator[str]:
    """Yield what `check` says about memory and time.

    Raises:
        HardwareError: `launch.card` names no known card, or `train.float8_base` asks too much of one.
    """
    asked = [_named(recipe.launch.card)] if recipe.launch.card else gpus.found() or [gpus.host()]
    if recipe.train.float8_base:
        _refuse_float8(asked)
    try:
        outline = read(locate(recipe.model.name_or_path, revision=recipe.model.revision))
        for card in {(card.name, card.memory): card for card in asked}.values():
            card = replace(card, host_memory=gpus.host_free())
            found = planned(recipe, outline, card)
            yield _memory_line(recipe, outline, card, found)
            if card.flops is not None:
                yield f"step:   {found.seconds:.2g} s at the rates of the data sheet, if all items are of full length"
    except NotPredictedError as error:
        yield f"memory: {error}"


def _named(name: str) -> gpus.Card:
    if name not in gpus.CARDS:
        raise HardwareError(f"launch.card: {name!r} is not in the table", hint=f"one of {', '.join(gpus.CARDS)}")
    return gpus.CARDS[name]


def _refuse_float8(asked: Sequence[gpus.Card]) -> None:
    """Refuse cards that are known not to multiply 8-bit floating point."""
    for card in asked:
        if card.capability is not None and card.capability < gpus.LEAST_FLOAT8:
            needed, has = (".".join(map(str, one)) for one in (gpus.LEAST_FLOAT8, card.capability))
            raise HardwareError(
                f"train.float8_base needs compute capability {needed}, {card.name} has {has}",
                hint="--set train.float8_base=false",
            )


def _memory_line(recipe: Recipe, outline: Outline, card: gpus.Card, found: MemoryPlan) -> str:
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.memory.parts().items())
    waits = f", {found.memory.host / GIB:.1f} GiB wait on the host" if found.memory.host else ""
    start = (
        f"memory: {card.name} has {card.memory / GIB:.1f} GiB, predicted peak {found.memory.total / GIB:.2f} GiB "
        f"at {found.batch.tokens:,} tokens a micro-batch, recompute {described(found.levels)} ({parts}){waits}"
    )
    if found.fits:
        return f"{start}: fits"
    settings = fixes(recipe, outline, card)
    return f"{start}: does not fit; " + (f"this would: {settings}" if settings else "no setting tried here would")
