"""Put a decision together as decide/decision.json holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from trainer.decide import budget as budgets
from trainer.decide import case, changes, explanation, price, verdict
from trainer.decide.budget import Budget
from trainer.decide.from_scores import facts_of, model_of, number_of, with_costs
from trainer.decide.headline import headline
from trainer.decide.inputs import DecisionInputs, Interval
from trainer.decide.resamples import Resamples
from trainer.decide.verdict import Choice
from trainer.shapes.decision import (
    ArmDecision,
    Assumptions,
    CostValues,
    Decision,
    IntervalValues,
    MissingCost,
    ServiceReadiness,
)
from trainer.shapes.scores import Scores


def decision_of(
    inputs: DecisionInputs,
    resamples: Resamples | None,
    scores: Scores,
    budget: Budget,
    services: dict[str, ServiceReadiness],
) -> Decision:
    """Decide, and return decide/decision.json.

    Args:
        inputs: What the verdict rests on.
        resamples: Of the held-out rows, for the confidence; None where there are none.
        scores: eval/scores.json.
        budget: Prices and the use of each arm.
        services: Hosted services, and how the training rows fit them.
    """
    choice = verdict.decide(inputs)
    share, shares = verdict.confidence(inputs, resamples, choice.verdict)
    costs = budgets.arm_costs(budget)
    tuned = choice.tuned or (budgets.ASSUMED if budgets.ASSUMED in budget.uses else None)
    crossings = budgets.break_evens(budget, tuned)
    crossing = crossings.get(choice.prompted or "")
    break_even = crossing["requests_per_day"] if crossing else None
    damages = price.price_of(scores, choice.tuned) if choice.tuned else []
    priced = budget.section.prices is not None and bool(budget.costs)
    return {
        "verdict": choice.verdict,
        "branch": choice.branch.name,
        "headline": price.with_price(headline(choice), choice.verdict, damages),
        "because": explanation.because(choice, costs),
        "would_change": changes.would_change(
            choice, (lambda volume: with_costs(inputs, budgets.at_volume(budget, volume))) if priced else None
        ),
        "price": damages,
        "price_measured": price.is_measured(scores, choice.tuned or "tuned"),
        "confidence": share,
        "confidence_by_verdict": shares,
        "confidence_covers": "which rows were held out, not the rule, the prices or the latencies",
        "metric": inputs.metric,
        "target": inputs.target,
        "heldout_rows": inputs.num_rows,
        "best_prompted": choice.prompted,
        "best_tuned": choice.tuned,
        "arms": _arms(inputs, choice, scores, costs),
        "assumed_tuned": costs.get(budgets.ASSUMED),
        "break_even_requests_per_day": break_even,
        "break_even_by_arm": crossings,
        "sensitivity": budgets.sensitivity(budget, tuned, choice.prompted),
        "curve": budgets.curve(budget, break_even),
        "assumptions": _assumptions(budget),
        "providers": services,
    }


def _arms(
    inputs: DecisionInputs, choice: Choice, scores: Scores, costs: Mapping[str, CostValues | MissingCost]
) -> dict[str, ArmDecision]:
    """Return every number of every arm, with its difference to the best prompted one."""
    arms: dict[str, ArmDecision] = {}
    for name, metrics in scores["arms"].items():
        facts, arm = facts_of(scores, name), inputs.arms.get(name)
        against = case.difference(inputs, name, choice.prompted or "") if name != choice.prompted else None
        arms[name] = {
            "model": model_of(scores, name),
            "quality": _values(arm.quality if arm else None),
            "against_best_prompted": _values(against),
            "latency_p50_s": number_of(metrics, "latency_p50_s"),
            "latency_p95_s": number_of(metrics, "latency_p95_s"),
            "ttft_p50_s": number_of(metrics, "ttft_p50_s"),
            "throughput_rps": number_of(metrics, "throughput_rps"),
            "prompt_tokens": number_of(metrics, "prompt_tokens"),
            "answer_tokens": number_of(metrics, "answer_tokens"),
            "peak_memory_gib": number_of(metrics, "peak_memory_gib"),
            "clean_stop": number_of(metrics, "clean_stop"),
            "shots": facts.get("shots"),
            "documents": facts.get("documents"),
            "retriever": facts.get("retriever"),
            "stronger_retriever": facts.get("stronger_retriever"),
            "concurrency": facts.get("concurrency"),
            "valid": facts.get("valid"),
            "repairs": facts.get("repairs"),
            "failures": facts.get("failures"),
            "shared_prefix_tokens": facts.get("shared_prefix_tokens"),
            "cost": costs.get(name),
        }
    return arms


def _values(interval: Interval | None) -> IntervalValues | None:
    return None if interval is None else {"value": interval.value, "low": interval.low, "high": interval.high}


def _assumptions(budget: Budget) -> Assumptions:
    keys = Assumptions.__required_keys__ - {"training_hours"}
    stated = budget.section.model_dump(mode="json", include=set(keys))
    return cast(Assumptions, stated | {"training_hours": budget.training_hours})
