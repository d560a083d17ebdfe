"""From what eval measured and what the recipe's `decide` section states to the costs of every arm, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trainer.decide import cost
from trainer.decide.cost import ArmCost, BreakEven
from trainer.recipe.decide import DecideSection, Prices, TokenPrice

FACTORS = (0.5, 2.0, 10.0)
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
        found = _arm_cost(section, use, training_hours)
        if isinstance(found, str):
            missing[name] = found
        else:
            costs[name] = found
    return Budget(section, training_hours, uses, costs, missing)


def with_assumed_tuning(uses: Mapping[str, ArmUse]) -> dict[str, ArmUse]:
    """Add a stand-in for the tuned arm where there is none and the base model was measured without examples."""
    base = uses.get("base")
    if any(use.model == "tuned" for use in uses.values()) or base is None or base.model != "base":
        return dict(uses)
    fields = {**base.__dict__, "name": ASSUMED, "model": "tuned", "correct": None}
    return {**uses, ASSUMED: ArmUse(**fields)}


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


def arm_costs(budget: Budget) -> dict[str, dict[str, Any]]:
    """Return for each arm its cost per 1,000 requests, per accepted answer, a day and a month, or `missing`."""
    return {name: _arm_numbers(budget, name) for name in budget.uses}


def _arm_numbers(budget: Budget, name: str) -> dict[str, Any]:
    if name not in budget.costs:
        return {"missing": budget.missing[name]}
    section, use, arm = budget.section, budget.uses[name], budget.costs[name]
    volume, days = section.requests_per_day, section.lifetime_days
    one = cost.cost_per_request(arm, volume, days)
    fallback = fallback_cost(budget)
    per_day = None if volume is None else cost.cost_per_day(arm, volume, days)
    accepted = (
        None
        if use.correct is None or fallback is None
        else cost.cost_per_accepted(one, use.valid, fallback, use.correct)
    )
    return {
        "per_1000": 1000 * one,
        "per_accepted": accepted,
        "per_day": per_day,
        "per_month": None if per_day is None else per_day * cost.DAYS_PER_MONTH,
        "replicas": None if volume is None else cost.num_replicas(arm, volume),
        "per_request": arm.per_request,
        "per_replica_day": arm.per_replica_day,
        "capacity_per_day": arm.capacity_per_day if math.isfinite(arm.capacity_per_day) else None,
        "one_off": arm.one_off,
    }


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
    accepted = {name: numbers.get("per_accepted") for name, numbers in arm_costs(budget).items()}
    return {name: value for name, value in accepted.items() if value is not None}


def break_evens(budget: Budget, tuned: str | None) -> dict[str, dict[str, Any]]:
    """Return from which volume the tuned arm stays cheaper than each other arm, by the other's name."""
    if tuned is None or tuned not in budget.costs:
        return {}
    return {name: found.__dict__ for name in _others(budget, tuned) if (found := _break_even(budget, tuned, name))}


def _others(budget: Budget, tuned: str) -> list[str]:
    return [name for name in budget.costs if name != tuned and budget.uses[name].model not in ("tuned", "start")]


def _break_even(budget: Budget, tuned: str, other: str) -> BreakEven | None:
    if tuned not in budget.costs or other not in budget.costs:
        return None
    return cost.break_even(budget.costs[tuned], budget.costs[other], budget.section.lifetime_days)


def sensitivity(budget: Budget, tuned: str | None, other: str | None) -> list[dict[str, Any]]:
    """Return the break-even of two arms with each price halved, doubled and times ten, one entry a price."""
    prices = budget.section.prices
    if prices is None or tuned is None or other is None or not {tuned, other} <= budget.costs.keys():
        return []
    entries = []
    for key, scaled in _scalable(budget, prices, other).items():
        volumes = {}
        for factor in FACTORS:
            section = budget.section.model_copy(update={"prices": scaled(factor)})
            found = _break_even(make_budget(section, budget.uses, budget.training_hours), tuned, other)
            volumes[f"x{factor:g}"] = found.requests_per_day if found else None
        entries.append({"price": key, **volumes})
    return entries


def _scalable(budget: Budget, prices: Prices, other: str) -> dict[str, Any]:
    """Return for each price that is not zero a function from a factor to the changed prices."""
    single = {
        name: lambda factor, name=name: prices.model_copy(update={name: getattr(prices, name) * factor})
        for name in ("gpu_hour", "labelling", "development_hourly")
        if getattr(prices, name)
    }
    use = budget.uses[other]
    key = next((name for name in (use.name, use.endpoint) if name in prices.endpoints), None)
    if use.model != "endpoint" or key is None:
        return single
    price = prices.endpoints[key]
    fields = ("input_per_million", "cached_input_per_million", "output_per_million")
    tokens = {
        f"endpoints.{key}.{name}": lambda factor, name=name: _with_token_price(prices, key, price, name, factor)
        for name in fields
        if getattr(price, name)
    }
    return {**single, **tokens}


def _with_token_price(prices: Prices, key: str, price: TokenPrice, field: str, factor: float) -> Prices:
    changed = price.model_copy(update={field: getattr(price, field) * factor})
    return prices.model_copy(update={"endpoints": {**prices.endpoints, key: changed}})


def curve(budget: Budget, break_even_at: float | None) -> dict[str, Any]:
    """Return the cost of a day of every arm over volumes of at least three decades around what matters here."""
    if not budget.costs:
        return {"volumes": [], "arms": {}}
    wanted = [value for value in (budget.section.requests_per_day, break_even_at) if value]
    low = min([1000.0, *(value / 30 for value in wanted)])
    high = max([1_000_000.0, *(value * 30 for value in wanted)])
    at = cost.volumes(low, high, list(budget.costs.values()))
    days = budget.section.lifetime_days
    arms = {name: [cost.cost_per_day(arm, volume, days) for volume in at] for name, arm in budget.costs.items()}
    return {"volumes": at, "arms": arms}
