"""Compute the cost of every arm from its measured use and the prices of the recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from trainer.decide import cost
from trainer.decide.cost import ArmCost, BreakEven
from trainer.recipe.decide import DecideSection, Prices
from trainer.shapes.decision import BreakEvenValues, CostCurve, CostValues, MissingCost, Sensitivity

ASSUMED = "tuned (assumed)"
"""Stands for the tuned arm before training: the base model's own speed, and its prompts without examples."""


@dataclass(frozen=True)
class ArmUse:
    """What one request of an arm takes, as measured; None where it was not."""

    name: str
    model: str
    """base, start, tuned or endpoint."""
    endpoint: str | None
    """Name of the endpoint's model."""
    prompt_tokens: float | None
    shared_prefix_tokens: float
    answer_tokens: float | None
    throughput_rps: float | None
    valid: float
    correct: float | None


@dataclass(frozen=True)
class Budget:
    """The costs of all arms that have one."""

    section: DecideSection
    training_hours: float
    uses: Mapping[str, ArmUse]
    costs: Mapping[str, ArmCost]
    missing: Mapping[str, str]
    """Why an arm has no cost."""


def make_budget(section: DecideSection, uses: Mapping[str, ArmUse], training_hours: float) -> Budget:
    """Return the cost of each arm at the recipe's prices, or the reason why there is none."""
    costs: dict[str, ArmCost] = {}
    missing: dict[str, str] = {}
    for name, use in uses.items():
        arm_cost = _arm_cost(section, use, training_hours)
        if isinstance(arm_cost, str):
            missing[name] = arm_cost
        else:
            costs[name] = arm_cost
    return Budget(section, training_hours, uses, costs, missing)


def with_assumed_tuning(uses: Mapping[str, ArmUse]) -> dict[str, ArmUse]:
    """Add a stand-in for the tuned arm where there is none and the base model was measured without examples."""
    base = uses.get("base")
    if any(use.model == "tuned" for use in uses.values()) or base is None or base.model != "base":
        return dict(uses)
    return {**uses, ASSUMED: replace(base, name=ASSUMED, model="tuned", correct=None)}


def _arm_cost(section: DecideSection, use: ArmUse, training_hours: float) -> ArmCost | str:
    prices = section.prices
    if prices is None:
        return "no prices in the recipe"
    if use.model == "endpoint":
        return _endpoint_cost(section, prices, use)
    if prices.gpu_hour is None:
        return "no decide.prices.gpu_hour"
    rate = _requests_per_second(section, use)
    if not rate:
        return "no throughput measured; state decide.hosting.requests_per_second"
    one_off = cost.one_off_cost(prices, training_hours) if use.model in ("tuned", "start") else 0.0
    return cost.hosted(rate, prices.gpu_hour, section.hosting, one_off)


def _endpoint_cost(section: DecideSection, prices: Prices, use: ArmUse) -> ArmCost | str:
    price = prices.endpoints.get(use.name) or prices.endpoints.get(use.endpoint or "")
    if price is None:
        return f"no decide.prices.endpoints.{use.name}"
    if use.prompt_tokens is None or use.answer_tokens is None:
        return "no tokens measured"
    cached = use.shared_prefix_tokens if section.cache_prompts else 0.0
    return ArmCost(cost.token_cost(use.prompt_tokens, cached, use.answer_tokens, price, section.batch_discount))


def _requests_per_second(section: DecideSection, use: ArmUse) -> float | None:
    stated = section.hosting.requests_per_second
    if isinstance(stated, dict):
        # the stand-in answers as fast as base, and what is stated for the tuned arm is stated for it
        names = ("tuned", "base") if use.name == ASSUMED else (use.name,)
        return next((stated[name] for name in names if name in stated), use.throughput_rps)
    return use.throughput_rps if stated == "auto" else stated


def arm_costs(budget: Budget) -> dict[str, CostValues | MissingCost]:
    """Return for each arm its cost per 1,000 requests, per accepted answer, a day and a month, or `missing`."""
    return {
        name: _cost_values(budget, name) if name in budget.costs else {"missing": budget.missing[name]}
        for name in budget.uses
    }


def _cost_values(budget: Budget, name: str) -> CostValues:
    section, use, arm = budget.section, budget.uses[name], budget.costs[name]
    volume, days = section.requests_per_day, section.lifetime_days
    per_request = cost.cost_per_request(arm, volume, days)
    per_day = None if volume is None else cost.cost_per_day(arm, volume, days)
    return {
        "per_1000": 1000 * per_request,
        "per_accepted": _per_accepted(budget, use, per_request),
        "per_day": per_day,
        "per_month": None if per_day is None else per_day * cost.DAYS_PER_MONTH,
        "replicas": None if volume is None else cost.num_replicas(arm, volume),
        "per_request": arm.per_request,
        "per_replica_day": arm.per_replica_day,
        "capacity_per_day": arm.capacity_per_day if math.isfinite(arm.capacity_per_day) else None,
        "one_off": arm.one_off,
    }


def _per_accepted(budget: Budget, use: ArmUse, per_request: float) -> float | None:
    fallback = fallback_cost(budget)
    if use.correct is None or fallback is None:
        return None
    return cost.cost_per_accepted(per_request, use.valid, fallback, use.correct)


def fallback_cost(budget: Budget) -> float | None:
    """Return what an invalid answer costs on top; None where the fall-back arm has no cost."""
    fallback = budget.section.fallback
    if not isinstance(fallback, str):
        return fallback or 0.0
    if fallback not in budget.costs:
        return None
    return cost.cost_per_request(budget.costs[fallback], budget.section.requests_per_day, budget.section.lifetime_days)


def cost_at_volume(budget: Budget) -> dict[str, float]:
    """Return the cost of a day at the stated volume, by arm; empty without a volume."""
    volume, days = budget.section.requests_per_day, budget.section.lifetime_days
    return {} if volume is None else {name: cost.cost_per_day(arm, volume, days) for name, arm in budget.costs.items()}


def cost_per_1000(budget: Budget) -> dict[str, float]:
    """Return the cost of 1,000 requests on fully used replicas, by arm, what is paid once left out."""
    days = budget.section.lifetime_days
    return {name: 1000 * cost.cost_per_request(arm, None, days) for name, arm in budget.costs.items()}


def at_volume(budget: Budget, requests_per_day: float) -> Budget:
    """Return the same budget at another volume."""
    return replace(budget, section=budget.section.model_copy(update={"requests_per_day": requests_per_day}))


def cost_per_accepted(budget: Budget) -> dict[str, float]:
    """Return the cost of an answer that is right at the stated volume, by arm; empty without a volume."""
    if budget.section.requests_per_day is None:
        return {}
    volume, days = budget.section.requests_per_day, budget.section.lifetime_days
    accepted = {
        name: _per_accepted(budget, budget.uses[name], cost.cost_per_request(arm, volume, days))
        for name, arm in budget.costs.items()
    }
    return {name: value for name, value in accepted.items() if value is not None}


def break_evens(budget: Budget, tuned: str | None) -> dict[str, BreakEvenValues]:
    """Return from which volume the tuned arm stays cheaper than each other arm, by the other's name."""
    if tuned is None or tuned not in budget.costs:
        return {}
    untuned = [name for name in budget.costs if budget.uses[name].model not in ("tuned", "start")]
    crossings = {name: _break_even(budget, tuned, name) for name in untuned if name != tuned}
    return {
        name: {"requests_per_day": entry.requests_per_day, "first": entry.first, "replicas": entry.replicas}
        for name, entry in crossings.items()
    }


def _break_even(budget: Budget, tuned: str, rival: str) -> BreakEven:
    return cost.break_even(budget.costs[tuned], budget.costs[rival], budget.section.lifetime_days)


def sensitivity(budget: Budget, tuned: str | None, rival: str | None) -> list[Sensitivity]:
    """Return the break-even of two arms with each price halved, doubled and times ten, one entry a price."""
    prices = budget.section.prices
    if prices is None or tuned is None or rival is None or not {tuned, rival} <= budget.costs.keys():
        return []
    use = budget.uses[rival]
    halved, doubled, tenfold = (_scaled(prices, use, factor) for factor in (0.5, 2.0, 10.0))
    return [
        {
            "price": name,
            "x0.5": _crossing(budget, tuned, rival, halved[name]),
            "x2": _crossing(budget, tuned, rival, doubled[name]),
            "x10": _crossing(budget, tuned, rival, tenfold[name]),
        }
        for name in halved
    ]


def _crossing(budget: Budget, tuned: str, rival: str, prices: Prices) -> float | None:
    section = budget.section.model_copy(update={"prices": prices})
    return _break_even(make_budget(section, budget.uses, budget.training_hours), tuned, rival).requests_per_day


def _scaled(prices: Prices, use: ArmUse, factor: float) -> dict[str, Prices]:
    """Return for each price that is not zero all prices, that one multiplied by a factor."""
    scaled = {
        name: prices.model_copy(update={name: price * factor})
        for name in ("gpu_hour", "labelling", "development_hourly")
        if (price := getattr(prices, name))
    }
    key = next((name for name in (use.name, use.endpoint) if name in prices.endpoints), None)
    if use.model != "endpoint" or key is None:
        return scaled
    tokens = prices.endpoints[key]
    for name in ("input_per_million", "cached_input_per_million", "output_per_million"):
        if price := getattr(tokens, name):
            endpoints = {**prices.endpoints, key: tokens.model_copy(update={name: price * factor})}
            scaled[f"endpoints.{key}.{name}"] = prices.model_copy(update={"endpoints": endpoints})
    return scaled


def curve(budget: Budget, break_even: float | None) -> CostCurve:
    """Return the cost of a day of every arm over volumes of at least three decades around what matters here."""
    if not budget.costs:
        return {"volumes": [], "arms": {}}
    marks = [volume for volume in (budget.section.requests_per_day, break_even) if volume]
    low = min([1000.0, *(mark / 30 for mark in marks)])
    high = max([1_000_000.0, *(mark * 30 for mark in marks)])
    volumes = cost.volumes(low, high, list(budget.costs.values()))
    days = budget.section.lifetime_days
    arms = {name: [cost.cost_per_day(arm, volume, days) for volume in volumes] for name, arm in budget.costs.items()}
    return {"volumes": volumes, "arms": arms}
