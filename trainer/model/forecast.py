"""Before a training: does it fit on a card, how little recompute is enough, what would make it fit, how long is a step.

Source of the counts of operations: 2 for each weight and token forward, as many for the gradient of the input, as many
again for the gradient of a trained weight (https://arxiv.org/abs/2001.08361, section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.errors import HardwareError
from trainer.model import cards
from trainer.model.memory import TOKENS_PER_MICRO_BATCH, Batch, Level, Memory, Predictor, micro_batch_size
from trainer.model.outline import NotPredictedError, Outline, read
from trainer.model.source import locate
from trainer.recipe import Recipe
from trainer.recipe.method import SftMethod
from trainer.recipe.model import LoraAdapter, NoAdapter, QloraAdapter

GIB = 1 << 30
TOO_CLOSE = 0.8
"""After running out of memory: what fits is at most this share of what was predicted."""
DEQUANTISED_BYTES = 2.52
"""Read and written for each 4-bit weight that is turned into 16 bits."""


@dataclass(frozen=True)
class Forecast:
    """What is predicted for one recipe on one card."""

    levels: tuple[Level, ...]
    batch: Batch
    memory: Memory
    capacity: int
    """Bytes of the card."""

    @property
    def fits(self) -> bool:
        """Tell whether the peak is within the card's memory."""
        return self.memory.peak <= self.capacity

    def numbers(self) -> dict[str, Any]:
        """Return what `stage.json` says of it, in GiB."""
        return {
            "recompute": described(self.levels),
            "predicted_gib": round(self.memory.peak / GIB, 3),
            "predicted_parts_gib": {name: round(size / GIB, 3) for name, size in self.memory.parts().items()},
        }


def described(levels: Sequence[Level]) -> str:
    """Write levels as `none`, `full`, or `full in the first 3 of 8 layers, elementwise in the others`."""
    kinds = list(dict.fromkeys(levels))
    if len(kinds) == 1:
        return kinds[0]
    return f"{kinds[0]} in the first {levels.count(kinds[0])} of {len(levels)} layers, {kinds[1]} in the others"


def choices(layers: int) -> Iterator[tuple[Level, ...]]:
    """Yield levels of all layers from the least recompute to the most.

    The first layers go first: by the time they are computed again, the others have freed what they kept.
    """
    steps: tuple[tuple[Level, Level], ...] = (("elementwise", "none"), ("full", "elementwise"))
    nothing: Level = "none"
    yield (nothing,) * layers
    for more, less in steps:
        for number in range(1, layers + 1):
            yield (more,) * number + (less,) * (layers - number)


def forecast(predictor: Predictor, batch: Batch, capacity: int) -> Forecast:
    """Choose the least recompute that fits, as far as `train.gradient_checkpointing` leaves the choice."""
    asked, layers = predictor.recipe.train.gradient_checkpointing, predictor.outline.layers
    if asked == "auto" and predictor.is_cuda:
        allowed = choices(layers)
    else:
        allowed = iter([("full" if asked is True else "none",) * layers])
    found = [Forecast(levels, batch, predictor.predict(levels, batch, capacity), capacity) for levels in allowed]
    return next((one for one in found if one.fits), None) or min(found, key=lambda one: one.memory.peak)


def predictor_of(recipe: Recipe, outline: Outline, *, is_cuda: bool) -> Predictor:
    """Return the predictor of a recipe.

    Raises:
        NotPredictedError: The recipe has a setting whose memory is not known.
    """
    predictor = Predictor(outline, recipe, is_cuda=is_cuda)
    problem = predictor.problem()
    if problem:
        raise NotPredictedError(f"{problem}: not predicted")
    return predictor


def planned(recipe: Recipe, outline: Outline, card: cards.Card) -> Forecast:
    """Predict a recipe on a card, for rows as long as `pack.max_length` allows, all of whose tokens are trained.

    Raises:
        NotPredictedError: The recipe has a setting whose memory is not known.
    """
    longest = item_tokens(recipe)
    budget = TOKENS_PER_MICRO_BATCH["cuda" if card.is_cuda else "cpu"]
    processes = 1 if recipe.launch.num_processes == "auto" else recipe.launch.num_processes
    share = max(1, recipe.train.global_batch_size // processes)
    tokens = micro_batch_size(recipe.train, share, budget // longest) * longest
    return forecast(predictor_of(recipe, outline, is_cuda=card.is_cuda), Batch(tokens, tokens), card.memory)


def item_tokens(recipe: Recipe) -> int:
    """Return the most tokens of an item: a pack, a row, or a pair, whose prompt is stored once."""
    return recipe.pack.max_length * (1 if isinstance(recipe.method, SftMethod) else 2)


def fixes(recipe: Recipe, outline: Outline, card: cards.Card) -> str | None:
    """Return the first settings that make a recipe fit, as `--set` options; each alone, then all together."""
    steps = list(_steps(recipe))
    for settings in [[step] for step in steps] + [steps[: number + 1] for number in range(1, len(steps))]:
        changed = recipe
        for section, update, _ in settings:
            changed = changed.model_copy(update={section: getattr(changed, section).model_copy(update=update)})
        changed = _with_adapter(changed)
        try:
            if planned(changed, outline, card).fits:
                return " ".join(f"--set {text}" for _, _, text in settings)
        except NotPredictedError:
            continue
    return None


def _steps(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any], str]]:
    train = recipe.train
    if train.gradient_checkpointing is not True:
        yield "train", {"gradient_checkpointing": True}, "train.gradient_checkpointing=true"
    if train.micro_batch_size != 1:
        yield "train", {"micro_batch_size": 1}, "train.micro_batch_size=1"
    if isinstance(recipe.adapter, NoAdapter):
        yield "adapter", {"kind": "lora"}, "adapter.kind=lora"
    elif not isinstance(recipe.adapter, QloraAdapter) and not train.float8_base:
        yield "adapter", {"kind": "qlora"}, "adapter.kind=qlora"
    if recipe.pack.max_length > 1024:
        half = recipe.pack.max_length // 2
        yield "pack", {"max_length": half}, f"pack.max_length={half}"


def _with_adapter(recipe: Recipe) -> Recipe:
    """Return the recipe with the adapter class that its kind asks for."""
    kinds: dict[str, type[LoraAdapter]] = {"lora": LoraAdapter, "qlora": QloraAdapter}
    wanted = kinds.get(recipe.adapter.kind)
    if wanted is None or type(recipe.adapter) is wanted:
        return recipe
    return recipe.model_copy(update={"adapter": wanted.model_validate(recipe.adapter.model_dump())})


def after_running_out(recipe: Recipe, outline: Outline, card: cards.Card) -> str | None:
    """Return settings that need clearly less than what has just run out of memory."""
    failed = planned(recipe, outline, card).memory.peak
    less = min(card.memory, int(TOO_CLOSE * failed))
    return fixes(recipe, outline, cards.Card(card.name, less, is_cuda=card.is_cuda))


def step_seconds(predictor: Predictor, forecast: Forecast, card: cards.Card) -> float | None:
    """Return the seconds of an optimizer step at the card's full rate, for items of the greatest length."""
    if card.flops is None or card.bandwidth is None:
        return None
    outline, recipe = predictor.outline, predictor.recipe
    tokens = recipe.train.global_batch_size * item_tokens(recipe)
    passes = 6 if predictor.adapter is None else 4
    again = 2 * forecast.levels.count("full") / outline.layers
    attention = (7 + again) * outline.layers * outline.query * recipe.pack.max_length
    head = (6 if predictor.adapter is None else 4) * outline.vocabulary * outline.hidden
    seconds = tokens * ((passes + again) * outline.linear_weights + attention + head) / card.flops
    if predictor.four_bit:
        batches = tokens / forecast.batch.tokens
        seconds += batches * 2 * DEQUANTISED_BYTES * outline.linear_weights / card.bandwidth
    return seconds


def lines(recipe: Recipe) -> Iterator[str]:
    """Yield what `check` says about memory and time.

    Raises:
        HardwareError: `launch.card` names no known card, or `train.float8_base` asks too much of one.
    """
    asked = [_named(recipe.launch.card)] if recipe.launch.card else cards.found() or [cards.host()]
    if recipe.train.float8_base:
        _refuse_float8(asked)
    try:
        outline = read(locate(recipe.model.name_or_path, revision=recipe.model.revision))
        for card in {(card.name, card.memory): card for card in asked}.values():
            found = planned(recipe, outline, card)
            yield _memory_line(recipe, outline, card, found)
            seconds = step_seconds(predictor_of(recipe, outline, is_cuda=card.is_cuda), found, card)
            if seconds is not None:
                yield f"step:   {seconds:.2g} s at the rate of the data sheet, if all items are of full length"
    except NotPredictedError as error:
        yield f"memory: {error}"


def _named(name: str) -> cards.Card:
    if name not in cards.CARDS:
        raise HardwareError(f"launch.card: {name!r} is not in the table", hint=f"one of {', '.join(cards.CARDS)}")
    return cards.CARDS[name]


def _refuse_float8(asked: Sequence[cards.Card]) -> None:
    """Refuse cards that are known not to multiply 8-bit floating point."""
    for card in asked:
        if card.capability is not None and card.capability < cards.LEAST_FLOAT8:
            needed, has = (".".join(map(str, one)) for one in (cards.LEAST_FLOAT8, card.capability))
            raise HardwareError(
                f"train.float8_base needs compute capability {needed}, {card.name} has {has}",
                hint="--set train.float8_base=false",
            )


def _memory_line(recipe: Recipe, outline: Outline, card: cards.Card, found: Forecast) -> str:
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.memory.parts().items())
    start = (
        f"memory: {card.name} has {card.memory / GIB:.1f} GiB, predicted peak {found.memory.peak / GIB:.2f} GiB "
        f"at {found.batch.tokens:,} tokens a micro-batch, recompute {described(found.levels)} ({parts})"
    )
    if found.fits:
        return f"{start}: fits"
    settings = fixes(recipe, outline, card)
    return f"{start}: does not fit; " + (f"this would: {settings}" if settings else "no setting tried here would")
