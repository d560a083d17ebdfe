"""decide: prompting against tuning, from what eval has measured and the prices of the recipe.

Generates nothing. Writes `verdict.json`, `index.html`, and `providers/*.jsonl` for the services that the recipe names.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from rich.console import Console

import trainer
from trainer.decide import budget as budgets
from trainer.decide import case, changes, explanation, inputs, price, providers, verdict
from trainer.decide.budget import ArmUse, Budget
from trainer.decide.closed_set import is_closed_set
from trainer.decide.headline import headline
from trainer.decide.inputs import ArmGrounds, DecisionInputs, Interval, Resamples
from trainer.decide.verdict import Choice
from trainer.errors import StageError
from trainer.recipe import Recipe
from trainer.recipe.arms import Endpoint
from trainer.recipe.decide import DecideSection
from trainer.render.decide import decide_summary, render_decide_page
from trainer.rundir import StageContext, read_json, read_json_lines, write_json
from trainer.scoring.gates.judge import OPERATIONS
from trainer.scoring.questions.from_rows import conversation

NOT_QUALITY = frozenset({"loss", "perplexity", "preference_margin", *OPERATIONS})
FACTS = ("shots", "documents", "retriever", "stronger_retriever", "concurrency", "valid", "repairs", "failures")
SECONDS_PER_HOUR = 3600
Json = dict[str, Any]


def run(recipe: Recipe, context: StageContext) -> None:
    """Decide, and say why.

    Raises:
        StageError: eval/scores.json lacks the metric that the recipe names.
    """
    section = recipe.decide or DecideSection()
    scores = read_json(context.input("eval", "scores.json"))
    predictions = read_json_lines(context.input("eval", "predictions.jsonl"))
    metric = _metric(section, scores)
    uses = _uses(scores, metric, _endpoint_names(recipe))
    hours = _training_hours(section, context)
    budget = budgets.make_budget(section, budgets.with_assumed_tuning(uses), hours)
    measured, resamples = _grounds(section, scores, predictions, metric, budget, recipe.seed)
    measured = replace(
        measured,
        closed_set=_closed_set(predictions, context),
        documents_exist=any(arm.documents for arm in recipe.eval.all_arms),
    )
    value = _decision(measured, resamples, scores, budget) | {"providers": _providers(section, context)}
    write_json(context.dir / "decision.json", value)
    page = render_decide_page(value, name=recipe.name, trainer_version=trainer.__version__)
    (context.dir / "index.html").write_text(page, encoding="utf-8")
    context.numbers.update(verdict=value["verdict"], confidence=value["confidence"])
    _show(value, context)


def _metric(section: DecideSection, scores: Json) -> str | None:
    """Return the quality metric that decides; None where eval has none that a target can be set for."""
    metrics = sorted({name for metrics in scores["arms"].values() for name in metrics if _is_quality(scores, name)})
    if section.metric == "auto":
        primary = scores.get("primary")
        return primary if primary in metrics else None
    if section.metric not in metrics:
        raise StageError(
            f"decide.metric: eval/scores.json has no quality metric {section.metric!r}; it has {', '.join(metrics)}",
            hint="name one of them, or leave decide.metric out",
        )
    return section.metric


def _is_quality(scores: Json, metric: str) -> bool:
    """Tell whether a metric runs from 0 to 1 and more is better: only of those a share can be asked for."""
    described = (scores.get("metrics") or {}).get(metric) or {}
    values = [_number(metrics, metric) for metrics in scores["arms"].values()]
    in_range = all(0 <= value <= 1 for value in values if value is not None)
    return metric not in NOT_QUALITY and described.get("better") != "lower" and in_range


def _endpoint_names(recipe: Recipe) -> dict[str, str]:
    """Return the model's name of each arm that is an endpoint: prices may be stated for it."""
    return {arm.name: arm.model.name for arm in recipe.eval.all_arms if isinstance(arm.model, Endpoint)}


def _model_of(scores: Json, arm: str) -> str:
    default = arm if arm in ("base", "start", "tuned") else "base"
    return str(((scores.get("facts") or {}).get(arm) or {}).get("model", default))


def _number(metrics: Mapping[str, Any], metric: str | None) -> float | None:
    value = (metrics.get(metric or "") or {}).get("value")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _uses(scores: Json, metric: str | None, endpoints: Mapping[str, str]) -> dict[str, ArmUse]:
    uses = {}
    for name, metrics in scores["arms"].items():
        facts = (scores.get("facts") or {}).get(name) or {}
        valid = facts.get("valid")
        uses[name] = ArmUse(
            name=name,
            model=_model_of(scores, name),
            endpoint=endpoints.get(name),
            prompt_tokens=_number(metrics, "prompt_tokens"),
            shared_prefix_tokens=float(facts.get("shared_prefix_tokens") or 0.0),
            answer_tokens=_number(metrics, "answer_tokens"),
            throughput_rps=_number(metrics, "throughput_rps"),
            valid=1.0 if valid is None else float(valid),
            correct=_number(metrics, metric),
        )
    return uses


def _training_hours(section: DecideSection, context: StageContext) -> float:
    """Return the GPU hours of the training; 0 before it."""
    if section.training_hours != "auto":
        return section.training_hours
    record = context.run.record("train")
    if record is None:
        return 0.0
    seconds = record.numbers.get("train_seconds", record.seconds)
    return float(seconds) * int(record.numbers.get("num_processes", 1)) / SECONDS_PER_HOUR


def _grounds(
    section: DecideSection, scores: Json, predictions: list[Json], metric: str | None, budget: Budget, seed: int
) -> tuple[DecisionInputs, Resamples | None]:
    scored = [arm for arm, metrics in scores["arms"].items() if _number(metrics, metric) is not None]
    table = inputs.make_table(predictions, metric or "", scored)
    resamples = inputs.resample(table, seed) if scored else None
    pairs = inputs.paired_differences(table, seed)
    pairs |= inputs.reported_differences(scores.get("comparisons") or [], metric or "")
    measured = DecisionInputs(
        metric=metric or "quality",
        target=section.target,
        num_rows=table.num_rows or int(scores.get("heldout_rows") or 0),
        arms={arm: _arm_grounds(scores, arm, metric or "") for arm in scored},
        differences=pairs,
        requests_per_day=section.requests_per_day,
        latency_limit_s=section.latency_limit_s,
        cost_per_1000=budgets.cost_per_1000(budget),
    )
    return _with_costs(measured, budget), resamples


def _with_costs(measured: DecisionInputs, budget: Budget) -> DecisionInputs:
    """Return the grounds at the volume of a budget."""
    return replace(
        measured,
        requests_per_day=budget.section.requests_per_day,
        cost_per_day=budgets.cost_at_volume(budget),
        cost_per_accepted=budgets.cost_per_accepted(budget),
    )


def _closed_set(predictions: list[Json], context: StageContext) -> bool:
    """Tell whether the right answers are labels that the training rows know."""
    turns = (conversation(row) for row in read_json_lines(context.input("data", "train.jsonl")))
    known = (str(turn[-1].get("content") or "") for turn in turns if turn)
    return is_closed_set([str(row.get("reference") or "") for row in predictions], known)


def _arm_grounds(scores: Json, arm: str, metric: str) -> ArmGrounds:
    metrics, facts = scores["arms"][arm], (scores.get("facts") or {}).get(arm) or {}
    value, entry = _number(metrics, metric), metrics[metric]
    assert value is not None
    low, high = (entry.get(key) if isinstance(entry.get(key), int | float) else None for key in ("low", "high"))
    return ArmGrounds(
        name=arm,
        model=_model_of(scores, arm),
        quality=Interval(value, 0.0 if low is None else float(low), 1.0 if high is None else float(high)),
        failures={kind: float(count) for kind, count in (facts.get("failures") or {}).items()},
        documents=bool(facts.get("documents")),
        shots=int(facts.get("shots") or 0),
        latency_p95_s=_number(metrics, "latency_p95_s"),
        stronger_retriever=facts.get("stronger_retriever"),
    )


def _decision(measured: DecisionInputs, resamples: Resamples | None, scores: Json, budget: Budget) -> Json:
    choice = verdict.decide(measured)
    share, shares = verdict.confidence(measured, resamples, choice.verdict)
    costs = budgets.arm_costs(budget)
    tuned = choice.tuned or (budgets.ASSUMED if budgets.ASSUMED in budget.uses else None)
    crossings = budgets.break_evens(budget, tuned)
    crossing = crossings.get(choice.prompted or "")
    at = crossing["requests_per_day"] if crossing else None
    damages = price.price_of(scores, choice.tuned) if choice.tuned else []
    priced = budget.section.prices is not None and bool(budget.costs)
    return {
        "verdict": choice.verdict,
        "branch": choice.branch.name,
        "headline": price.with_price(headline(choice), choice.verdict, damages),
        "because": explanation.because(choice, costs),
        "would_change": changes.would_change(
            choice, (lambda volume: _with_costs(measured, budgets.at_volume(budget, volume))) if priced else None
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
        "break_even_requests_per_day": at,
        "break_even_by_arm": crossings,
        "sensitivity": budgets.sensitivity(budget, tuned, choice.prompted),
        "curve": budgets.curve(budget, at),
        "assumptions": _assumptions(budget),
    }


def _arms(measured: DecisionInputs, choice: Choice, scores: Json, costs: Mapping[str, Json]) -> Json:
    """Return every number of every arm, with its difference to the best prompted one."""
    arms = {}
    for name, metrics in scores["arms"].items():
        quality = measured.arms.get(name)
        against = case.difference(measured, name, choice.prompted or "") if name != choice.prompted else None
        facts = (scores.get("facts") or {}).get(name) or {}
        arms[name] = {
            "model": _model_of(scores, name),
            "quality": quality.quality.__dict__ if quality else None,
            "against_best_prompted": against.__dict__ if against else None,
            **{metric: _number(metrics, metric) for metric in OPERATIONS},
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


def _providers(section: DecideSection, context: StageContext) -> Json:
    """Check the training rows against each service, and write the files of those that the recipe names."""
    services = providers.services()
    names = list(services) if section.providers == "auto" else section.providers
    sides = {side: read_json_lines(context.input("data", f"{side}.jsonl")) for side in ("train", "validation")}
    for name in section.export_providers:
        folder = context.dir / "providers"
        folder.mkdir(exist_ok=True)
        for side, rows in sides.items():
            if rows:
                (folder / f"{name}.{side}.jsonl").write_bytes(providers.export(services[name], rows))
    return {name: providers.readiness(services[name], sides["train"], date.today()) for name in names}


def _show(value: Json, context: StageContext) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with console.capture() as capture:
        console.print(decide_summary(value))
    context.say(capture.get().rstrip())
