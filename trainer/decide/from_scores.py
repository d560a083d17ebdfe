"""Read from eval/scores.json what a decision rests on: its metric, the use of each arm, and the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from trainer.decide import budget as budgets
from trainer.decide.budget import ArmUse, Budget
from trainer.decide.inputs import ArmInputs, DecisionInputs, Interval
from trainer.decide.resamples import Resamples, make_table, paired_differences, reported_differences, resample
from trainer.errors import StageError
from trainer.recipe.decide import DecideSection
from trainer.render.numbers import finite
from trainer.scoring.gates.metrics import OPERATIONS
from trainer.shapes.predictions import Prediction
from trainer.shapes.scores import ArmFacts, Score, Scores

NOT_QUALITY = frozenset({"loss", "perplexity", "preference_margin", *OPERATIONS})
ARMS_OF_THE_RUN = ("base", "start", "tuned")


def deciding_metric(section: DecideSection, scores: Scores) -> str | None:
    """Return the quality metric that decides; None where eval has none that a target can be set for."""
    metrics = sorted({name for metrics in scores["arms"].values() for name in metrics if _is_quality(scores, name)})
    if section.metric == "auto":
        primary = scores["primary"]
        return primary if primary in metrics else None
    if section.metric not in metrics:
        raise StageError(
            f"decide.metric: eval/scores.json has no quality metric {section.metric!r}; it has {', '.join(metrics)}",
            hint="name one of them, or leave decide.metric out",
        )
    return section.metric


def _is_quality(scores: Scores, metric: str) -> bool:
    """Tell whether a metric runs from 0 to 1 and more is better: only of those a share can be asked for."""
    description = scores["metrics"].get(metric)
    is_better_lower = description is not None and description["better"] == "lower"
    values = [number_of(metrics, metric) for metrics in scores["arms"].values()]
    in_range = all(0 <= value <= 1 for value in values if value is not None)
    return metric not in NOT_QUALITY and not is_better_lower and in_range


def model_of(scores: Scores, arm: str) -> str:
    """Return which model an arm asked: base, start, tuned or endpoint."""
    default = arm if arm in ARMS_OF_THE_RUN else "base"
    return facts_of(scores, arm).get("model", default)


def number_of(metrics: Mapping[str, Score], metric: str | None) -> float | None:
    """Return the value of a metric; None where it was not measured or is not finite."""
    return None if metric is None or metric not in metrics else finite(metrics[metric]["value"])


def uses_of(scores: Scores, metric: str | None, endpoints: Mapping[str, str]) -> dict[str, ArmUse]:
    """Return what a request costs each arm, in tokens and time.

    Args:
        scores: eval/scores.json.
        metric: Metric that decides; None where there is none.
        endpoints: Arm to the name of its endpoint's model.
    """
    uses = {}
    for name, metrics in scores["arms"].items():
        facts = facts_of(scores, name)
        uses[name] = ArmUse(
            name=name,
            model=model_of(scores, name),
            endpoint=endpoints.get(name),
            prompt_tokens=number_of(metrics, "prompt_tokens"),
            shared_prefix_tokens=facts.get("shared_prefix_tokens", 0),
            answer_tokens=number_of(metrics, "answer_tokens"),
            throughput_rps=number_of(metrics, "throughput_rps"),
            valid=facts.get("valid", 1.0),
            correct=number_of(metrics, metric),
        )
    return uses


def inputs_of(
    section: DecideSection, scores: Scores, predictions: list[Prediction], metric: str | None, budget: Budget, seed: int
) -> tuple[DecisionInputs, Resamples | None]:
    """Return what the verdict rests on, and the resamples of the rows (None where no arm has the metric).

    Args:
        section: `decide` of the recipe.
        scores: eval/scores.json.
        predictions: Lines of eval/predictions.jsonl.
        metric: Metric that decides; None where there is none.
        budget: Prices and the use of each arm.
        seed: Of the resamples.
    """
    scored = [arm for arm, metrics in scores["arms"].items() if number_of(metrics, metric) is not None]
    table = make_table(predictions, metric or "", scored)
    resamples = resample(table, seed) if scored else None
    pairs = paired_differences(table, seed)
    pairs |= reported_differences(scores["comparisons"], metric or "")
    measured = DecisionInputs(
        metric=metric or "quality",
        target=section.target,
        num_rows=table.num_rows or scores["heldout_rows"],
        arms={arm: _arm_inputs(scores, arm, metric or "") for arm in scored},
        differences=pairs,
        requests_per_day=section.requests_per_day,
        latency_limit_s=section.latency_limit_s,
        cost_per_1000=budgets.cost_per_1000(budget),
    )
    return with_costs(measured, budget), resamples


def with_costs(measured: DecisionInputs, budget: Budget) -> DecisionInputs:
    """Return the inputs at the volume of a budget."""
    return replace(
        measured,
        requests_per_day=budget.section.requests_per_day,
        cost_per_day=budgets.cost_at_volume(budget),
        cost_per_accepted=budgets.cost_per_accepted(budget),
    )


def _arm_inputs(scores: Scores, arm: str, metric: str) -> ArmInputs:
    metrics, facts = scores["arms"][arm], facts_of(scores, arm)
    value, low, high = (
        finite(number) for number in (metrics[metric]["value"], metrics[metric]["low"], metrics[metric]["high"])
    )
    assert value is not None
    return ArmInputs(
        name=arm,
        model=model_of(scores, arm),
        quality=Interval(value, 0.0 if low is None else low, 1.0 if high is None else high),
        failures={kind: float(count) for kind, count in facts.get("failures", {}).items()},
        documents=facts.get("documents", False),
        shots=facts.get("shots", 0),
        latency_p95_s=number_of(metrics, "latency_p95_s"),
        stronger_retriever=facts.get("stronger_retriever"),
    )


def facts_of(scores: Scores, arm: str) -> ArmFacts:
    """Return how an arm was asked; nothing where the scores do not say it."""
    return scores["facts"].get(arm, {})
