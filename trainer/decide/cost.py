"""Compute what each arm costs at a volume, and from which volume tuning is cheaper; no price is built in.

With N requests a day:

    cost of a request  t = ((prompt - cached) x input + cached x cached_input + answer x output) / 10^6 x (1 - discount)
    capacity a day     C = requests_per_second x utilisation x hours_per_day x 3600, of one replica
    replicas           R(N) = max(1, ceil(N / C)); none for an endpoint
    hosting a day      H = gpus_per_replica x gpu_hour x hours_per_day, of one replica
    cost a day         N x t + R(N) x H + one_off / lifetime_days
    one_off            training_hours x gpu_hour + labelling + development_hours x development_hourly
    accepted answer    (cost of a request + (1 - valid) x fallback) / share correct

Endpoints have t and no H; local models have H and no t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.recipe.decide import Hosting, Prices, TokenPrice

Floats = np.ndarray[Any, np.dtype[np.float64]]

SECONDS_PER_HOUR = 3600
DAYS_PER_MONTH = 365 / 12
MAX_STEPS = 1_000_000
"""Replica steps that a scan for the break-even looks at; more machines than anyone has."""


@dataclass(frozen=True)
class ArmCost:
    """What an arm costs, in the currency of the prices."""

    per_request: float
    per_replica_day: float = 0.0
    capacity_per_day: float = math.inf
    """Requests a day that one replica takes, utilisation included; infinite for an endpoint."""
    one_off: float = 0.0


@dataclass(frozen=True)
class BreakEven:
    """From which volume one arm is cheaper than another."""

    requests_per_day: float | None
    """Above this volume it stays cheaper; None where it never does."""
    first: float | None
    """Volume from which it is cheaper for the first time; a further replica may undo that."""
    replicas: int | None
    """Replicas of it at the break-even."""


def token_cost(
    prompt_tokens: float, cached_tokens: float, answer_tokens: float, price: TokenPrice, discount: float = 0.0
) -> float:
    """Return the cost of one request at an endpoint.

    Args:
        prompt_tokens: mean tokens of a prompt, cached ones included.
        cached_tokens: those that the endpoint has seen before.
        answer_tokens: mean tokens of an answer.
        price: per million tokens.
        discount: share taken off for requests that can wait.
    """
    cached_price = price.input_per_million if price.cached_input_per_million is None else price.cached_input_per_million
    cached = min(cached_tokens, prompt_tokens)
    millions = (
        (prompt_tokens - cached) * price.input_per_million
        + cached * cached_price
        + answer_tokens * price.output_per_million
    )
    return millions / 1e6 * (1 - discount)


def hosted(requests_per_second: float, gpu_hour: float, hosting: Hosting, one_off: float = 0.0) -> ArmCost:
    """Return what a local arm costs: replicas, whatever they answer."""
    capacity = requests_per_second * hosting.utilisation * hosting.hours_per_day * SECONDS_PER_HOUR
    per_replica_day = hosting.gpus_per_replica * gpu_hour * hosting.hours_per_day
    return ArmCost(0.0, per_replica_day, capacity, one_off)


def one_off_cost(prices: Prices, training_hours: float) -> float:
    """Return what tuning costs once: GPU hours, labelled rows and work."""
    work = prices.development_hours * prices.development_hourly
    return training_hours * (prices.gpu_hour or 0.0) + prices.labelling + work


def num_replicas(cost: ArmCost, requests_per_day: float) -> int:
    """Return the replicas that a volume needs: a step function, 0 for an endpoint."""
    if math.isinf(cost.capacity_per_day):
        return 0
    return max(1, math.ceil(requests_per_day / cost.capacity_per_day - 1e-9))


def cost_per_day(cost: ArmCost, requests_per_day: float, lifetime_days: float) -> float:
    """Return the cost of a day at a volume, what is paid once spread over the lifetime."""
    running = requests_per_day * cost.per_request + num_replicas(cost, requests_per_day) * cost.per_replica_day
    return running + cost.one_off / lifetime_days


def cost_per_request(cost: ArmCost, requests_per_day: float | None, lifetime_days: float) -> float:
    """Return the cost of one request at a volume; without one, at full replicas and without what is paid once."""
    if requests_per_day is None:
        return cost.per_request + cost.per_replica_day / cost.capacity_per_day
    return cost_per_day(cost, requests_per_day, lifetime_days) / requests_per_day


def cost_per_accepted(per_request: float, valid: float, fallback: float, correct: float) -> float | None:
    """Return the cost of an answer that is right: (cost + (1 - valid) x fallback) / share correct; None if none is."""
    return (per_request + (1 - valid) * fallback) / correct if correct > 0 else None


def break_even(arm: ArmCost, rival: ArmCost, lifetime_days: float) -> BreakEven:
    """Return the volume from which `arm` stays cheaper than `rival`.

    On one replica this is N* = (hosting per day + one-off / lifetime - the rival's fixed cost per day) / (difference of
    the cost per request). Each further replica is a step up, after which `arm` may be dearer again: so all steps below
    a volume that bounds the last crossing are looked at.
    """
    slope = _full_load(arm) - _full_load(rival)
    once = (arm.one_off - rival.one_off) / lifetime_days
    if slope >= 0:
        return BreakEven(None, _first_cheaper(arm, rival, lifetime_days), None)
    # ceil(x) <= x + 1 bounds arm from above, and rival costs at least its full load: beyond this arm is cheaper
    last = max(
        (arm.per_replica_day + once) / -slope, arm.capacity_per_day if math.isfinite(arm.capacity_per_day) else 0
    )
    ends = _step_ends(arm, rival, last)
    if ends is None:
        return BreakEven(None, None, None)
    starts = np.concatenate([[0.0], ends[:-1]])
    dearer = _dearer_until(arm, rival, once, starts, ends)
    crossing = next((float(value) for value in dearer[::-1] if not math.isnan(value)), 0.0)
    return BreakEven(crossing, _first_cheaper(arm, rival, lifetime_days), num_replicas(arm, crossing))


def _full_load(cost: ArmCost) -> float:
    return cost.per_request + cost.per_replica_day / cost.capacity_per_day


def _step_ends(arm: ArmCost, rival: ArmCost, last: float) -> Floats | None:
    """Return the volumes up to `last` after which one of the two needs another replica; None if too many."""
    steps = [np.array([last])]
    for capacity in (arm.capacity_per_day, rival.capacity_per_day):
        if math.isfinite(capacity):
            if last / capacity > MAX_STEPS:
                return None
            steps.append(np.arange(1, math.floor(last / capacity) + 1) * capacity)
    return np.unique(np.concatenate(steps))


def _dearer_until(arm: ArmCost, rival: ArmCost, once: float, starts: Floats, ends: Floats) -> Floats:
    """Return for each step (start, end] the volume up to which `arm` is not cheaper, NaN where it is throughout."""
    middles = (starts + ends) / 2
    fixed = once + _hosting(arm, middles) - _hosting(rival, middles)
    gain = rival.per_request - arm.per_request  # what each further request saves
    if gain == 0:
        return np.where(fixed >= 0, ends, np.nan)
    crossing = fixed / gain
    if gain > 0:
        return np.where(crossing > starts, np.minimum(crossing, ends), np.nan)
    return np.where(crossing < ends, ends, np.nan)


def _hosting(cost: ArmCost, volumes: Floats) -> Floats:
    if math.isinf(cost.capacity_per_day):
        return np.zeros_like(volumes)
    return np.maximum(1, np.ceil(volumes / cost.capacity_per_day)) * cost.per_replica_day


def _first_cheaper(arm: ArmCost, rival: ArmCost, lifetime_days: float) -> float | None:
    """Return where `arm` is cheaper for the first time, on its first thousand replicas; None where it never is."""
    capacities = [cost.capacity_per_day for cost in (arm, rival) if math.isfinite(cost.capacity_per_day)]
    once = (arm.one_off - rival.one_off) / lifetime_days
    if not capacities:
        gain = rival.per_request - arm.per_request
        return max(0.0, once / gain) if gain > 0 else None
    ends = _step_ends(arm, rival, 1000 * max(capacities))
    if ends is None:
        return None
    starts = np.concatenate([[0.0], ends[:-1]])
    dearer = _dearer_until(arm, rival, once, starts, ends)
    for start, end, until in zip(starts, ends, dearer, strict=True):
        if math.isnan(until):
            return float(start)
        if until < end:
            return float(until)
    return None


def volumes(low: float, high: float, costs: Sequence[ArmCost], count: int = 120) -> list[float]:
    """Return volumes for a curve, evenly spread on a log axis, with both sides of the first replica steps."""
    spread = np.geomspace(low, high, count)
    steps = [
        step * cost.capacity_per_day * side
        for cost in costs
        if math.isfinite(cost.capacity_per_day)
        for step in range(1, 25)
        for side in (1.0, 1.000001)
    ]
    return sorted({float(value) for value in [*spread, *steps] if low <= value <= high})
