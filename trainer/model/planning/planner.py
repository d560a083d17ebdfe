"""Choose the fastest memory plan that fits: items of a micro-batch, and a level of recompute for each layer.

Bytes that layers keep are exact, short-lived bytes are estimated. So on a card the plan is tried on the longest
micro-batch: the difference, measured - predicted, corrects the estimates of all plans, and the choice is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

from trainer.errors import Problem, RecipeError
from trainer.model.planning.activations import WHOLE, Level
from trainer.model.planning.gpus import Card
from trainer.model.planning.predictor import TOKENS_PER_MICRO_BATCH, Memory, MicroBatch, Predictor
from trainer.model.planning.step_time import step_seconds
from trainer.recipe import Recipe
from trainer.recipe.model import four_bit_of
from trainer.recipe.train import TrainSection

GIB = 1 << 30
PAYS = 1.02
"""A micro-batch over the usual number of tokens must make a step this much faster."""
LARGEST = {"cpu": 1, "cuda": 4}
"""Times the usual number of tokens: larger micro-batches are not considered."""
PROBES = 3
"""The most plans that are tried."""
AFTER_FAILURE = 0.7
"""Share of the failed plan's bytes that the next one may need: it should run, so that there is a measurement."""


class PlanNumbers(TypedDict, total=False):
    """Keys of `stage.json` that a memory plan fills, in GiB where they end so; `tried_gib` only on a card."""

    micro_batch_tokens: int
    recompute: str
    predicted_gib: float
    predicted_parts_gib: dict[str, float]
    predicted_host_gib: float
    tried_gib: float


@dataclass(frozen=True)
class MemoryPlan:
    """One plan with its prediction, and its measurement once it has been tried."""

    micro_batch_size: int
    accumulation: int
    levels: tuple[Level, ...]
    is_lean: bool
    """Layers at level full or offload keep less in their second pass, and dequantise 4-bit weights once more."""
    batch: MicroBatch
    """The largest micro-batch."""
    memory: Memory
    card: Card
    seconds: float
    """Predicted time of a step, to compare plans by."""
    in_backward: bool = False
    """The optimizer steps each weight in the backward pass, and frees its gradient."""
    measured: int | None = field(default=None, compare=False)
    """Bytes at the peak of forward and backward pass of the longest micro-batch, where the plan was tried."""

    @property
    def fits(self) -> bool:
        """Tell whether card and host have enough memory."""
        return self.memory.total <= self.card.memory and self.memory.host <= self.card.host_memory

    def numbers(self) -> PlanNumbers:
        """Return the numbers for `stage.json`."""
        peak = self.memory.peak if self.card.is_cuda else self.memory.total  # as each is measured
        numbers: PlanNumbers = {
            "micro_batch_tokens": self.batch.tokens,
            "recompute": described(self.levels),
            "predicted_gib": round(peak / GIB, 3),
            "predicted_parts_gib": {name: round(size / GIB, 3) for name, size in self.memory.parts().items()},
            "predicted_host_gib": round(self.memory.host / GIB, 3),
        }
        if self.measured is not None:
            numbers["tried_gib"] = round(self.measured / GIB, 3)
        return numbers


def described(levels: Sequence[Level]) -> str:
    """Describe the levels of all layers.

    Example:
        >>> described(("full",) * 3 + ("elementwise",) * 5)
        'full in the first 3 of 8 layers, elementwise in the others'
    """
    kinds = list(dict.fromkeys(levels))
    if len(kinds) == 1:
        return kinds[0]
    return f"{kinds[0]} in the first {levels.count(kinds[0])} of {len(levels)} layers, {kinds[1]} in the others"


def mixtures(layers: int) -> Iterator[tuple[Level, ...]]:
    """Yield levels of all layers from the least recompute to the most.

    The first layers get the higher level: when their backward pass comes, the others have freed their activations.

    Example:
        >>> for levels in mixtures(2):
        ...     print(*levels)
        none none
        elementwise none
        elementwise elementwise
        full elementwise
        full full
        offload full
        offload offload
    """
    # two neighbouring levels at a time: 3 L + 1 mixtures in place of 4^L
    steps: tuple[tuple[Level, Level], ...] = (("elementwise", "none"), ("full", "elementwise"), ("offload", "full"))
    nothing: Level = "none"
    yield (nothing,) * layers
    for more, less in steps:
        for number in range(1, layers + 1):
            yield (more,) * number + (less,) * (layers - number)


def requested_level(train: TrainSection, *, is_cuda: bool) -> Level | None:
    """Return the level that a recipe sets for all layers; None where the plan chooses."""
    setting = train.gradient_checkpointing
    if setting == "auto":
        return None if is_cuda else "none"
    return ("full" if setting else "none") if isinstance(setting, bool) else setting


def dequantises_once(recipe: Recipe) -> bool:
    """Tell whether 4-bit weights may be kept dequantised: full recompute is set to save memory, not time."""
    return four_bit_of(recipe.adapter) is not None and requested_level(recipe.train, is_cuda=True) not in WHOLE


def micro_batch_sizes(train: TrainSection, num_processes: int) -> tuple[list[int], int]:
    """Return the possible sizes of a micro-batch, and the items that a process takes in a step.

    Raises:
        RecipeError: The processes do not divide the global batch, or the set size does not divide a process's share.

    Example:
        >>> micro_batch_sizes(TrainSection(global_batch_size=12), 2)
        ([1, 2, 3, 6], 6)
    """
    total, size = train.global_batch_size, train.micro_batch_size
    share, remainder = divmod(total, num_processes)
    if remainder:
        raise _wrong_batch(f"global_batch_size {total} is no multiple of {num_processes} processes")
    if size != "auto":
        if share % size:
            raise _wrong_batch(f"micro_batch_size {size} does not divide the {share} items a process takes in a step")
        return [size], share
    if train.optimizer_in_backward is True:
        return [share], share  # gradients that are freed cannot add up
    return [size for size in range(1, share + 1) if share % size == 0], share


def _wrong_batch(message: str) -> RecipeError:
    problem = Problem("recipe", None, "train.global_batch_size", message)
    return RecipeError([problem], hint="choose a multiple, or another launch.num_processes")


def candidates(predictor: Predictor, batches: Mapping[int, MicroBatch], share: int, card: Card) -> list[MemoryPlan]:
    """Return all plans, the fastest first.

    Args:
        predictor: Of the recipe on the model.
        batches: The largest micro-batch of each allowed size.
        share: Items that a process takes in a step.
        card: Its memory and rates.
    """
    device = "cuda" if predictor.is_cuda else "cpu"
    usual, smallest = TOKENS_PER_MICRO_BATCH[device], min(batches)
    ranked = []
    for size, batch in batches.items():
        is_large = batch.tokens > usual and size > smallest
        if is_large and batch.tokens > LARGEST[device] * usual:
            continue
        accumulation = share // size
        in_backward = predictor.steps_in_backward(accumulation)
        for levels, is_lean in _level_choices(predictor):
            seconds = step_seconds(predictor, levels, batch, card, accumulation=accumulation, is_lean=is_lean)
            memory = predictor.predict(levels, batch, accumulation=accumulation, is_lean=is_lean)
            plan = MemoryPlan(size, accumulation, levels, is_lean, batch, memory, card, seconds, in_backward)
            ranked.append((seconds * (PAYS if is_large else 1), plan))
    return [plan for _, plan in sorted(ranked, key=lambda pair: pair[0])]


def _level_choices(predictor: Predictor) -> list[tuple[tuple[Level, ...], bool]]:
    """Return levels with and without lean recompute; a level that the recipe sets is as lean as it can be."""
    level = requested_level(predictor.recipe.train, is_cuda=predictor.is_cuda)
    layers = predictor.outline.layers
    if level is not None:
        return [((level,) * layers, level in WHOLE)]
    mixed = list(mixtures(layers))
    return [(levels, False) for levels in mixed] + [(levels, True) for levels in mixed if levels[0] in WHOLE]


def best(plans: Sequence[MemoryPlan]) -> MemoryPlan:
    """Return the first plan that fits, else the one with the smallest excess."""
    return next((plan for plan in plans if plan.fits), None) or most_sparing(plans)


def most_sparing(plans: Sequence[MemoryPlan]) -> MemoryPlan:
    """Return the plan that needs the least memory of those whose inputs the host can hold."""
    return min(_on_hosts(plans) or plans, key=lambda plan: plan.memory.total)


def _on_hosts(plans: Sequence[MemoryPlan]) -> list[MemoryPlan]:
    return [plan for plan in plans if plan.memory.host <= plan.card.host_memory]


@dataclass
class Calibration:
    """Results of trying plans; `next_plan` and `final_plan` are functions of them."""

    plans: Sequence[MemoryPlan]
    """The fastest first."""
    correction: int = 0
    """Measured - predicted, in bytes of forward and backward pass."""
    ran: dict[MemoryPlan, int] = field(default_factory=dict)
    """Measured bytes of each plan that ran."""
    failed: list[MemoryPlan] = field(default_factory=list)

    def corrected_bytes(self, plan: MemoryPlan) -> int:
        """Return the bytes that a plan needs by prediction and correction."""
        memory = plan.memory
        return max(memory.passes + self.correction, memory.update) + memory.reserve

    def next_plan(self) -> MemoryPlan:
        """Return the first plan that fits by its corrected bytes and needs less than failed ones; else the smallest."""
        # no plan that needs as much as one that failed
        limit = min(
            [plan.card.memory for plan in self.plans] + [self.corrected_bytes(plan) - 1 for plan in self.failed]
        )
        if self.failed and not self.ran:
            limit = int(AFTER_FAILURE * limit)
        fitting = (
            plan for plan in _on_hosts(self.plans) if plan not in self.failed and self.corrected_bytes(plan) <= limit
        )
        return next(fitting, None) or most_sparing(self.plans)

    def record(self, plan: MemoryPlan, measured: int | None) -> None:
        """Record the bytes at a plan's peak, or None where memory ran out."""
        if measured is None:
            self.failed.append(plan)
        else:
            self.ran[plan] = measured
            # taken to be the same for all plans: kernels' own buffers, fragments
            self.correction = measured - plan.memory.passes

    def final_plan(self) -> MemoryPlan:
        """Return the fastest plan that ran with its reserve to spare, else one that ran, else the smallest."""
        ran = [replace(plan, measured=self.ran[plan]) for plan in self.plans if plan in self.ran]
        roomy = (
            plan for plan in ran if max(self.ran[plan], plan.memory.update) + plan.memory.reserve <= plan.card.memory
        )
        return next(roomy, None) or (ran[-1] if ran else most_sparing(self.plans))


def calibrate(plans: Sequence[MemoryPlan], run: Callable[[MemoryPlan], int | None]) -> Calibration:
    """Try plans until the next choice has been tried already, `PROBES` plans at most.

    Args:
        plans: The fastest first.
        run: Tries a plan on the longest micro-batch; returns the bytes at its peak, None where memory ran out.
    """
    calibration = Calibration(plans)
    for _ in range(PROBES):
        plan = calibration.next_plan()
        if plan in calibration.ran or plan in calibration.failed:
            break
        calibration.record(plan, run(plan))
    return calibration
