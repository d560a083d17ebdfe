"""Reduce the inputs of a decision to the yes and no of the questions that its branches ask."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from trainer.decide.budget import ASSUMED
from trainer.decide.inputs import ArmInputs, DecisionInputs, Interval

Kind = Literal["form", "knowledge", "other"]

LARGE_VOLUME = 1_000_000
"""Requests a day from which, without prices, a smaller tuned model is worth trying beside a prompt that is enough."""
MIN_ROWS = 20
"""Below this many held-out rows no verdict is given."""
MAX_LOSS = 0.02
"""A tuned arm holds the quality of a prompt when it is shown to lose less than this much."""


@dataclass(frozen=True)
class Case:
    """What was measured, reduced to what the branches ask."""

    inputs: DecisionInputs

    @cached_property
    def prompted(self) -> ArmInputs | None:
        """The best arm with untuned weights."""
        return chosen(self.inputs, prompted_arms(self.inputs))

    @cached_property
    def tuned(self) -> ArmInputs | None:
        """The best arm with this run's adapter; None before training."""
        return chosen(self.inputs, [arm for arm in self.inputs.arms.values() if arm.model == "tuned"])

    @cached_property
    def kind(self) -> Kind | None:
        """What most failures of the best prompted arm without documents are."""
        return failing_on(best(arm for arm in prompted_arms(self.inputs) if not arm.documents) or self.prompted)

    @property
    def few_rows(self) -> bool:
        """Fewer rows than any verdict needs."""
        return self.inputs.num_rows < MIN_ROWS

    @property
    def prompt_in_time(self) -> bool:
        """A prompted arm stays within the latency limit."""
        return self.prompted is not None and not too_slow(self.inputs, self.prompted)

    @property
    def tuned_in_time(self) -> bool:
        """A tuned arm stays within the latency limit."""
        return self.tuned is not None and not too_slow(self.inputs, self.tuned)

    @property
    def reached(self) -> bool:
        """The prompted arm's lower bound reaches the target."""
        return self.prompted is not None and self.prompted.quality.low >= self.inputs.target

    @cached_property
    def against(self) -> Interval | None:
        """Quality of the tuned arm less that of the prompted one."""
        return difference(self.inputs, self.tuned.name, self.prompted.name) if self.tuned and self.prompted else None

    @property
    def better(self) -> bool:
        """The tuned arm is shown better."""
        return self.against is not None and self.against.low > 0

    @property
    def worse(self) -> bool:
        """The tuned arm is shown worse."""
        return self.against is not None and self.against.high < 0

    @property
    def holds(self) -> bool:
        """The tuned arm reaches the target itself, or is shown to lose less than MAX_LOSS."""
        if self.tuned is None or self.against is None:
            return False
        return self.tuned.quality.low >= self.inputs.target or self.against.low > -MAX_LOSS

    @property
    def cheaper(self) -> bool:
        """The tuned arm, before training its stand-in, costs less at the stated volume."""
        tuned, prompt = self.cost_of_tuned, self.cost_of_prompt
        return tuned is not None and prompt is not None and tuned < prompt

    @property
    def cost_of_tuned(self) -> float | None:
        """Cost of a day with the tuned arm, or with its stand-in before training."""
        return self.inputs.cost_per_day.get(self.tuned.name if self.tuned else ASSUMED)

    @property
    def cost_of_prompt(self) -> float | None:
        """Cost of a day with the prompted arm."""
        return self.inputs.cost_per_day.get(self.prompted.name) if self.prompted else None

    @property
    def pays(self) -> bool:
        """What the tuned arm costs more, it earns: it alone reaches the target, or a right answer costs no more."""
        if self.tuned is None or self.prompted is None:
            return False
        accepted = self.inputs.cost_per_accepted
        tuned, prompt = accepted.get(self.tuned.name), accepted.get(self.prompted.name)
        if self.cheaper or tuned is None or prompt is None:
            return True
        return tuned <= prompt or (self.tuned.quality.low >= self.inputs.target and not self.reached)

    @property
    def large_volume(self) -> bool:
        """More requests a day than LARGE_VOLUME, and no prices that could tell what they cost."""
        priced = self.cost_of_tuned is not None and self.cost_of_prompt is not None
        return not priced and (self.inputs.requests_per_day or 0) > LARGE_VOLUME

    @property
    def target_unclear(self) -> bool:
        """The prompted arm's value reaches the target and its lower bound does not."""
        return (
            self.prompted is not None and self.prompted.quality.low < self.inputs.target <= self.prompted.quality.value
        )

    @property
    def rows_unclear(self) -> bool:
        """Fewer rows than could show the target, and they tell neither the target nor the two arms apart."""
        if self.prompted is None or self.inputs.num_rows >= rows_needed(self.inputs.target):
            return False
        return self.prompted.quality.high >= self.inputs.target or (self.tuned is not None and not self.worse)

    @property
    def documents_help(self) -> bool:
        """An arm with documents is shown better than the best prompted one without."""
        arms = prompted_arms(self.inputs)
        without = best(arm for arm in arms if not arm.documents)
        with_documents = best(arm for arm in arms if arm.documents)
        if without is None or with_documents is None:
            return False
        gain = difference(self.inputs, with_documents.name, without.name)
        return gain is not None and gain.low > 0

    @property
    def documents_tried(self) -> bool:
        """An arm with documents was measured."""
        return any(arm.documents for arm in self.inputs.arms.values())

    @property
    def documents_may_help(self) -> bool:
        """The answers may stand in documents: they are no closed set, or the recipe has documents."""
        return not self.inputs.closed_set or self.inputs.documents_exist

    @property
    def examples_tried(self) -> bool:
        """A prompted arm with examples was measured."""
        return any(arm.shots for arm in prompted_arms(self.inputs))


def prompted_arms(inputs: DecisionInputs) -> list[ArmInputs]:
    """Return the arms with untuned weights, the plain base model among them."""
    return [arm for arm in inputs.arms.values() if arm.model in ("base", "endpoint")]


def chosen(inputs: DecisionInputs, arms: Sequence[ArmInputs]) -> ArmInputs | None:
    """Return the arm to use among several of a kind.

    Of those in time that reach the target the cheapest, where the cost of each is known; else the best of those in
    time; where none is in time, the best of all.
    """
    in_time = [arm for arm in arms if not too_slow(inputs, arm)]
    enough = [arm for arm in in_time if arm.quality.low >= inputs.target]
    costs = inputs.cost_per_day or inputs.cost_per_1000
    if enough and all(arm.name in costs for arm in enough):
        return min(enough, key=lambda arm: (costs[arm.name], -arm.quality.value))
    return best(enough or in_time or arms)


def best(arms: Iterable[ArmInputs]) -> ArmInputs | None:
    """Return the arm of the highest quality, the first of equals; None without arms."""
    return max(arms, key=lambda arm: arm.quality.value, default=None)


def failing_on(arm: ArmInputs | None) -> Kind | None:
    """Return what the largest part of an arm's failures is; form is format and style together."""
    if arm is None or not sum(arm.failures.values()):
        return None
    form = arm.failures.get("format", 0) + arm.failures.get("style", 0)
    counts: dict[Kind, float] = {
        "form": form,
        "knowledge": arm.failures.get("knowledge", 0),
        "other": arm.failures.get("refusal", 0) + arm.failures.get("other", 0),
    }
    return max(counts, key=lambda kind: counts[kind])


def rows_needed(target: float) -> int:
    """Return how many rows without a failure show a quality of `target` with 95 % confidence: target^n <= 0.05."""
    return math.ceil(math.log(0.05) / math.log(target))


def too_slow(inputs: DecisionInputs, arm: ArmInputs) -> bool:
    """Tell whether an arm's p95 latency is above the stated limit."""
    limit = inputs.latency_limit_s
    return limit is not None and arm.latency_p95_s is not None and arm.latency_p95_s > limit


def difference(inputs: DecisionInputs, first: str, second: str) -> Interval | None:
    """Return the quality of one arm less another's; where it was not paired, from intervals of both."""
    paired = inputs.differences.get((first, second))
    if paired or first not in inputs.arms or second not in inputs.arms:
        return paired
    left, right = inputs.arms[first].quality, inputs.arms[second].quality
    return Interval(left.value - right.value, left.low - right.high, left.high - right.low)
