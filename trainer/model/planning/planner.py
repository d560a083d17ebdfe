"""Which plan of a training is taken: items of a micro-batch and the level of each layer, the fastest that fits.

What layers keep is exact, what lives for a moment is estimated. So on a card the plan is tried on the longest
micro-batch: measured less predicted corrects the estimates of all other plans, and the choice is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.model.planning.activations import WHOLE, Level
from trainer.model.planning.gpus import Card
from trainer.model.planning.predictor import TOKENS_PER_MICRO_BATCH, Memory, MicroBatch, Predictor
from trainer.model.planning.step_time import step_seconds
from trainer.recipe.train import TrainSection

GIB = 1 << 30
PAYS = 1.02
"""A micro-batch over the usual number of tokens must make a step this much faster."""
LARGEST = {"cpu": 1, "cuda": 4}
"""Times the usual number of tokens: no larger micro-batch is looked at."""
PROBES = 3
"""Plans that are tried at most."""
AFTER_FAILURE = 0.7
"""Share of what failed that the next plan may need: it is to run for certain, so that something is measured."""


@dataclass(frozen=True)
class MemoryPlan:
    """One plan, and what is predicted for it."""

    micro_batch_size: int
    accumulation: int
    levels: tuple[Level, ...]
    is_lean: bool
    """Layers computed again in whole keep less meanwhile, and dequantise 4-bit weights once more."""
    batch: MicroBatch
    """The largest micro-batch."""
    memory: Memory
    card: Card
    seconds: float
    """Of a step, for comparison."""
    in_backward: bool = False
    """The optimizer steps each weight in the backward pass, and frees its gradient."""

    @property
    def fits(self) -> bool:
        """Tell whether the card holds it, and the host what waits there."""
        return self.memory.total <= self.card.memory and self.memory.host <= self.card.host_memory

    def numbers(self) -> dict[str, Any]:
        """Return what `stage.json` says of it, in GiB."""
        peak = self.memory.peak if self.card.is_cuda else self.memory.total  # as each is measured
        return {
            "micro_batch_tokens": self.batch.tokens,
            "recompute": described(self.levels),
            "predicted_gib": round(peak / GIB, 3),
            "predicted_parts_gib": {name: round(size / GIB, 3) for name, size in self.memory.parts().items()},
            "predicted_host_gib": round(self.memory.host / GIB, 3),
        }


def described(levels: Sequence[Level]) -> str:
    """Write levels as `none`, `full`, or `full in the first 3 of 8 layers, elementwise in the others`."""
    kinds = list(dict.fromkeys(levels))
    if len(kinds) == 1:
        return kinds[0]
    return f"{kinds[0]} in the first {levels.count(kinds[0])} of {len(levels)} layers, {kinds[1]} in the others"


def mixtures(layers: int) -> Iterator[tuple[Level, ...]]:
    """Yield levels of all layers from the least recompute to the most.

    The first layers go first: by the time they are computed again, the others have freed what they kept.
    """
    steps: tuple[tuple[Level, Level], ...] = (("elementwise", "none"), ("full", "elementwise"), ("offload", "full"))
    nothing: Level = "none"
    yield (nothing,) * layers
    for more, less in steps:
        for number in range(1, layers + 1):
            yield (more,) * number + (less,) * (layers - number)


def asked_level(train: TrainSection, *, is_cuda: bool) -> Level | None:
    """Return the level that a recipe asks for in all layers; None where the plan chooses."""
    asked = train.gradient_checkpointing
    if asked == "auto":
        return None if is_cuda else "none"
    return ("full" if asked else "none") if isinstance(asked, bool) else asked


def divisors(train: TrainSection, share: int) -> list[int]:
    """Return the sizes that a micro-batch may have: what is asked, or every divisor of a process's share.

    Raises:
        ValueError: The named size does not divide the share.
    """
    named = train.micro_batch_size
    if named == "auto" and train.optimizer_in_backward is True:
        return [share]  # gradients that are freed cannot add up
    if named == "auto":
        return [size for size in range(1, share + 1) if share % size == 0]
    if share % named:
        raise ValueError(f"micro_batch_size {named} does not divide the {share} items a process takes in a step")
    return [named]


def candidates(predictor: Predictor, batches: Mapping[int, MicroBatch], share: int, card: Card) -> list[MemoryPlan]:
    """Return all plans, the fastest first.

    Args:
        predictor: Of the recipe on the model.
        batches: The largest micro-batch of each size that is allowed.
        share: Items that a process takes in a step.
        card: Its memory and rates.
    """
    level = asked_level(predictor.recipe.train, is_cuda=predictor.is_cuda)
    layers = predictor.outline.layers
    # what is asked for by name takes the least memory; a plan does so where nothing else fits
    tried = [(one, False) for one in mixtures(layers)] if level is None else [((level,) * layers, level in WHOLE)]
    tried += [(one, True) for one, _ in tried if one[0] in WHOLE] if level is None else []
    device = "cuda" if predictor.is_cuda else "cpu"
    usual, least = TOKENS_PER_MICRO_BATCH[device], min(batches)
    found = []
    for size, batch in batches.items():
        is_large = batch.tokens > usual and size > least
        if is_large and batch.tokens > LARGEST[device] * usual:
            continue
        for levels, is_lean in tried:
            number = share // size
            seconds = step_seconds(predictor, levels, batch, card, accumulation=number, is_lean=is_lean)
            memory = predictor.predict(levels, batch, accumulation=number, is_lean=is_lean)
            within = predictor.steps_in_backward(number)
            plan = MemoryPlan(size, number, levels, is_lean, batch, memory, card, seconds, within)
            found.append((seconds * (PAYS if is_large else 1), plan))
    return [plan for _, plan in sorted(found, key=lambda one: one[0])]


def best(plans: Sequence[MemoryPlan]) -> MemoryPlan:
    """Return the first plan that fits, or the one that comes nearest."""
    return next((plan for plan in plans if plan.fits), None) or most_sparing(plans)


def most_sparing(plans: Sequence[MemoryPlan]) -> MemoryPlan:
    """Return the plan that needs the least memory of those whose inputs the host can hold."""
    return min(_on_hosts(plans) or plans, key=lambda plan: plan.memory.total)


def _on_hosts(plans: Sequence[MemoryPlan]) -> list[MemoryPlan]:
    return [plan for plan in plans if plan.memory.host <= plan.card.host_memory]


@dataclass
class Calibration:
    """What trying plans has shown; `choose` is a function of it."""

    plans: Sequence[MemoryPlan]
    correction: int = 0
    """Measured less predicted bytes of forward and backward pass."""
    ran: dict[MemoryPlan, int] = field(default_factory=dict)
    """Plans that ran, with the bytes that were measured."""
    failed: list[MemoryPlan] = field(default_factory=list)

    def needs(self, plan: MemoryPlan) -> int:
        """Return what a plan is now thought to take."""
        memory = plan.memory
        return max(memory.passes + self.correction, memory.update) + memory.reserve

    def choose(self) -> MemoryPlan:
        """Return the first plan that fits by what is known, less than those that failed; or the most sparing one."""
        room = min([plan.card.memory for plan in self.plans] + [self.needs(plan) - 1 for plan in self.failed])
        if self.failed and not self.ran:
            room = int(AFTER_FAILURE * room)
        fitting = (plan for plan in _on_hosts(self.plans) if plan not in self.failed and self.needs(plan) <= room)
        return next(fitting, None) or most_sparing(self.plans)

    def learn(self, plan: MemoryPlan, measured: int | None) -> None:
        """Note how a plan went: the bytes at its peak, or None where memory ran out."""
        if measured is None:
            self.failed.append(plan)
        else:
            self.ran[plan] = measured
            self.correction = measured - plan.memory.passes


def calibrated(plans: Sequence[MemoryPlan], run: Callable[[MemoryPlan], int | None]) -> Calibration:
    """Try plans until the choice is one that ran; its last word is `settled`.

    Args:
        plans: The fastest first.
        run: Tries one on the longest micro-batch; returns the bytes at its peak, or None where memory ran out.
    """
    known = Calibration(plans)
    for _ in range(PROBES):
        plan = known.choose()
        if plan in known.ran or plan in known.failed:
            break
        known.learn(plan, run(plan))
    return known


def settled(known: Calibration) -> MemoryPlan:
    """Return the plan to train with: the fastest that ran with room to spare, or at all; else the most sparing one."""
    ran = [plan for plan in known.plans if plan in known.ran]
    roomy = [plan for plan in ran if max(known.ran[plan], plan.memory.update) + plan.memory.reserve <= plan.card.memory]
    return roomy[0] if roomy else ran[-1] if ran else most_sparing(known.plans)
