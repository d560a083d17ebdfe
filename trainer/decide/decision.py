"""Put a decision together as decide/decision.json holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.decide import budget as budgets
from trainer.decide import case, changes, explanation, price, verdict
from trainer.decide.budget import Budget
from trainer.decide.grounds import facts_of, model_of, number_of, with_costs
from trainer.decide.headline import headline
from trainer.decide.inputs import DecisionInputs, Resamples
from trainer.decide.verdict import Choice
from trainer.scoring.gates.metrics import OPERATIONS
from trainer.shapes.scores import Scores

FACTS = ("shots", "documents", "retriever", "stronger_retriever", "concurrency", "valid", "repairs", "failures")
Json = dict[str, Any]


def decision_of(measured: DecisionInputs, resamples: Resamples | None, scores: Scores, budget: Budget) -> Json:
    """Decide, and return decide/decision.json but for its providers.

    Args:
        measured: What the verdict rests on.
        resamples: Of the held-out rows, for the confidence; None where there are none.
        scores: eval/scores.json.
        budget: Prices and the use of each arm.
    """
    choice = verdict.decide(measured)
    share, shares = verdict.confidence(measured, resamples, choice.verdict)
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
            choice, (lambda volume: with_costs(measured, budgets.at_volume(budget, volume))) if priced else None
        ),
        "price": damages,
        "price_measured": price.is_measured(scores, choice.tuned or "tuned"),
        "confidence": share,
        "confidence_by_verdict": shares,
        "confidence_covers": "which rows were held out, not the rule, the prices or the latencies",
        "metric": measured.metric,
        "target": measured.target,
        "heldout_rows": measured.num_rows,
        "best_prompted": choice.prompted,
        "best_tuned": choice.tuned,
        "arms": _arms(measured, choice, scores, costs),
        "assumed_tuned": costs.get(budgets.ASSUMED),
        "break_even_requests_per_day": break_even,
        "break_even_by_arm": crossings,
        "sensitivity": budgets.sensitivity(budget, tuned, choice.prompted),
        "curve": budgets.curve(budget, break_even),
        "assumptions": _assumptions(budget),
    }


def _arms(measured: DecisionInputs, choice: Choice, scores: Scores, costs: Mapping[str, Json]) -> Json:
    """Return every number of every arm, with its difference to the best prompted one."""
    arms = {}
    for name, metrics in scores["arms"].items():
        quality = measured.arms.get(name)
        against = case.difference(measured, name, choice.prompted or "") if name != choice.prompted else None
        facts = facts_of(scores, name)
        arms[name] = {
            "model": model_of(scores, name),
            "quality": quality.quality.__dict__ if quality else None,
            "against_best_prompted": against.__dict__ if against else None,
            **{metric: number_of(metrics, metric) for metric in OPERATIONS},
            **{key: facts.get(key) for key in FACTS},
            "shared_prefix_tokens": facts.get("shared_prefix_tokens"),
            "cost": costs.get(name),
        }
    return arms


def _assumptions(budget: Budget) -> Json:
    section = budget.section
    keys = {"prices", "hosting", "requests_per_day", "lifetime_days", "cache_prompts", "batch_discount", "fallback"}
    stated: Json = section.model_dump(mode="json", include=keys | {"latency_limit_s"})
    return stated | {"training_hours": budget.training_hours}
