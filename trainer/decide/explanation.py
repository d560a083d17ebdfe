"""Explain a verdict: the numbers that led to it, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainer.decide.case import (
    LARGE_VOLUME,
    MAX_LOSS,
    MIN_ROWS,
    Case,
    best,
    difference,
    failing_on,
    prompted_arms,
    rows_needed,
    too_slow,
)
from trainer.decide.headline import percent, points, rows, written
from trainer.decide.inputs import ArmInputs, DecisionInputs
from trainer.decide.verdict import Choice
from trainer.render.numbers import write_amount
from trainer.shapes.decision import CostValues, MissingCost

KINDS = {"form": "format or style", "knowledge": "missing knowledge", "other": "refusals and other causes"}
CLOSED_SET = "wrong labels of a closed set"


def because(choice: Choice, costs: Mapping[str, CostValues | MissingCost]) -> list[str]:
    """Return the sentences that lead to the verdict, each with its numbers.

    Args:
        choice: The verdict.
        costs: As `budget.arm_costs` gives them.
    """
    case = choice.case
    if case.prompted is None:
        metric = case.inputs.metric
        return [f"No untuned arm has a {metric} score, so there is nothing to compare a tuned model with."]
    return [
        f"This branch holds: {choice.branch.condition}.",
        *_quality(case.inputs, case.prompted),
        *_better_but_unfit(case),
        *_failures(case.inputs, case.prompted),
        *_tuned(case),
        *_documents(case.inputs),
        *_retrievers(case.inputs),
        *_operations(case),
        *_costs(case, costs),
    ]


def _quality(inputs: DecisionInputs, prompted: ArmInputs) -> Iterator[str]:
    quality, target = prompted.quality, percent(inputs.target)
    relation = "reaches" if quality.low >= inputs.target else "does not reach"
    yield (
        f"The prompted arm that counts, {prompted.name}, has {inputs.metric} {written(quality)} on "
        f"{rows(inputs.num_rows)}; its lower bound {relation} the target of {target}."
    )
    needed = rows_needed(inputs.target)
    if inputs.num_rows < MIN_ROWS:
        yield f"{rows(inputs.num_rows)}: fewer than the {MIN_ROWS} below which no verdict is given."
    elif inputs.num_rows < needed:
        yield f"{inputs.num_rows} rows cannot show {target} even without a failure: that takes {needed}."


def _better_but_unfit(case: Case) -> Iterator[str]:
    """Say why a prompted arm of higher quality does not count."""
    inputs, prompted = case.inputs, case.prompted
    assert prompted is not None
    for arm in prompted_arms(inputs):
        if arm.quality.value <= prompted.quality.value:
            continue
        if too_slow(inputs, arm):
            yield f"{arm.name} has {written(arm.quality)} and is slower than the limit: {arm.latency_p95_s:.2f} s."
        elif (cost := (inputs.cost_per_day or inputs.cost_per_1000).get(arm.name)) is not None:
            cheaper = (inputs.cost_per_day or inputs.cost_per_1000)[prompted.name]
            basis = "a day" if inputs.cost_per_day else "for 1,000 requests"
            yield (
                f"{arm.name} has {written(arm.quality)} and costs more: {write_amount(cost)} {basis} against "
                f"{write_amount(cheaper)}; the cheaper of those that reach the target counts."
            )


def _failures(inputs: DecisionInputs, prompted: ArmInputs) -> Iterator[str]:
    total, kind = sum(prompted.failures.values()), failing_on(prompted)
    if not total or kind is None:
        return
    listed = sorted(((count, name) for name, count in prompted.failures.items() if count), reverse=True)
    counts = ", ".join(f"{name} {count:g}" for count, name in listed)
    labels = kind == "knowledge" and inputs.closed_set and not inputs.documents_exist
    yield f"Of its {total:g} failures most are {CLOSED_SET if labels else KINDS[kind]} ({counts})."


def _tuned(case: Case) -> Iterator[str]:
    if case.tuned is None:
        yield "No tuned arm was measured: this is the verdict before training."
        return
    assert case.prompted is not None and case.against is not None
    standing = "is shown better" if case.better else "is shown worse" if case.worse else "is not shown better"
    quality = written(case.tuned.quality)
    yield f"{case.tuned.name} has {quality} and {standing} than {case.prompted.name}: {points(case.against)}."


def _documents(inputs: DecisionInputs) -> Iterator[str]:
    arms = prompted_arms(inputs)
    without = best(arm for arm in arms if not arm.documents)
    for arm in arms:
        if arm.documents and without is not None:
            gain = difference(inputs, arm.name, without.name)
            assert gain is not None
            effect = "help" if gain.low > 0 else "are not shown to help"
            yield f"Documents {effect}: {arm.name} against {without.name} {points(gain)}."


def _retrievers(inputs: DecisionInputs) -> Iterator[str]:
    """Say that prompting may be better than measured, where a stronger retriever is not installed."""
    weak = [arm.name for arm in inputs.arms.values() if arm.stronger_retriever is not None]
    hint = next((arm.stronger_retriever for arm in inputs.arms.values() if arm.stronger_retriever), None)
    if weak:
        yield (
            f"{', '.join(weak)}: what is shown was found by BM25, since no embedding model is installed; with one "
            f"prompting may do better than here ({hint})."
        )


def _operations(case: Case) -> Iterator[str]:
    inputs, limit = case.inputs, case.inputs.latency_limit_s
    for arm in (case.prompted, case.tuned):
        if limit is None or arm is None:
            continue
        if arm.latency_p95_s is None:
            yield f"The limit of {limit:g} s is not tested: no p95 latency was measured for {arm.name}."
            continue
        relation = "is above" if too_slow(inputs, arm) else "is within"
        yield f"The p95 latency of {arm.name}, {arm.latency_p95_s:.2f} s, {relation} the limit of {limit:g} s."
    if case.large_volume:
        yield f"{inputs.requests_per_day or 0:,.0f} requests a day are more than {LARGE_VOLUME:,}."


def _costs(case: Case, costs: Mapping[str, CostValues | MissingCost]) -> Iterator[str]:
    volume, tuned, prompt = case.inputs.requests_per_day, case.cost_of_tuned, case.cost_of_prompt
    if not any("per_1000" in numbers for numbers in costs.values()):
        yield "Costs play no part: the recipe states no prices."
        return
    if volume is None:
        yield "Costs do not decide between tuning and prompting: the recipe states no volume (decide.requests_per_day)."
        return
    if tuned is None or prompt is None or case.prompted is None:
        return
    name = case.tuned.name if case.tuned else "a tuned arm as fast as base"
    yield (
        f"At {volume:,.0f} requests a day {name} costs {write_amount(tuned)} a day, what is paid once included, and "
        f"{case.prompted.name} {write_amount(prompt)}."
    )
    gain = case.against.value if case.against is not None else 0.0
    if tuned > prompt and gain > 0:
        price = write_amount((tuned - prompt) / (volume * gain))
        yield f"Each further right answer costs {price}: it pays if one is worth more."
    if tuned < prompt and case.tuned is not None and not case.better:
        yield f"A tuned arm that is cheaper is worth it when it is shown to lose less than {MAX_LOSS:.0%} quality."
