"""The verdict in sentences: which numbers led to it, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, assert_never

from trainer.scoring.decision import (
    LARGE_VOLUME,
    MAX_LOSS,
    MIN_ROWS,
    Choice,
    difference,
    failing_on,
    prompted_arms,
    rows_needed,
    shown_better,
    too_slow,
    tuned_arms,
)
from trainer.scoring.grounds import ArmGrounds, Grounds, Interval

KINDS = {"form": "format or style", "knowledge": "missing knowledge", "other": "refusals and other causes"}


def headline(grounds: Grounds, choice: Choice) -> str:
    """Return the verdict as one line."""
    if choice.verdict == "insufficient_evidence" or choice.prompted is None:
        return f"Too little evidence for a decision: {grounds.num_rows:,} held-out rows."
    quality = grounds.arms[choice.prompted].quality
    match choice.verdict:
        case "prompt":
            return f"Prompt: {choice.prompted} has {written(quality)}, there is no need to tune."
        case "smaller_tuned_model":
            slow = too_slow(grounds, grounds.arms[choice.prompted])
            said = f"{choice.prompted} is too slow" if slow else f"more than {LARGE_VOLUME:,} requests a day"
            return f"A smaller tuned model: {said}."
        case "tune":
            return _tune(grounds, choice.prompted, choice.tuned)
        case "rag_first":
            return "RAG first: give the model the missing knowledge before tuning it."
        case "do_not_tune":
            return f"Do not tune: {choice.tuned} is not shown better than {choice.prompted}."
        case "refine_prompt_or_data":
            return f"Refine the prompt or add data: {choice.prompted} has {written(quality)}."
        case _:
            assert_never(choice.verdict)


def _tune(grounds: Grounds, prompted: str, tuned: str | None) -> str:
    found = difference(grounds, tuned, prompted) if tuned else None
    if found is None:
        return "Tune: the prompts fail on format or style, which tuning teaches."
    if found.low > 0:
        return f"Tune: {tuned} beats {prompted} by {points(found)}."
    return f"Tune: {tuned} is as good as {prompted} and cheaper at {grounds.requests_per_day:,.0f} requests a day."


def because(grounds: Grounds, choice: Choice, costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the sentences that lead to the verdict, each with its numbers."""
    if choice.prompted is None:
        return [f"No untuned arm has a {grounds.metric} score, so there is nothing to compare a tuned model with."]
    prompted = grounds.arms[choice.prompted]
    return [
        *_quality(grounds, prompted),
        *_failures(grounds, prompted),
        *_tuned(grounds, choice),
        *_documents(grounds),
        *_operations(grounds, prompted),
        *_costs(grounds, choice, costs),
    ]


def _quality(grounds: Grounds, prompted: ArmGrounds) -> Iterator[str]:
    quality, target = prompted.quality, percent(grounds.target)
    place = "reaches" if quality.low >= grounds.target else "does not reach"
    yield (
        f"The best prompted arm, {prompted.name}, has {grounds.metric} {written(quality)} on {grounds.num_rows:,} "
        f"held-out rows; its lower bound {place} the target of {target}."
    )
    needed = rows_needed(grounds.target)
    if grounds.num_rows < MIN_ROWS:
        yield f"{grounds.num_rows} rows are fewer than the {MIN_ROWS} below which no verdict is given."
    elif grounds.num_rows < needed:
        yield f"{grounds.num_rows} rows cannot show {target} even without a failure: that takes {needed}."


def _failures(grounds: Grounds, prompted: ArmGrounds) -> Iterator[str]:
    total, kind = sum(prompted.failures.values()), failing_on(prompted)
    if not total or kind is None:
        return
    listed = sorted(((count, name) for name, count in prompted.failures.items() if count), reverse=True)
    counts = ", ".join(f"{name} {count:g}" for count, name in listed)
    yield f"Of its {total:g} failures most are {KINDS[kind]} ({counts})."


def _tuned(grounds: Grounds, choice: Choice) -> Iterator[str]:
    if choice.tuned is None:
        yield "No tuned arm was measured: this is the verdict before training."
        return
    assert choice.prompted is not None
    found = difference(grounds, choice.tuned, choice.prompted)
    assert found is not None
    better = shown_better(grounds, choice.tuned, choice.prompted)
    worse = shown_better(grounds, choice.prompted, choice.tuned)
    said = "is shown better than" if better else "is shown worse than" if worse else "is not shown better than"
    quality = grounds.arms[choice.tuned].quality
    yield f"{choice.tuned} has {written(quality)} and {said} {choice.prompted}: {points(found)}."


def _documents(grounds: Grounds) -> Iterator[str]:
    arms = prompted_arms(grounds)
    without = max((arm for arm in arms if not arm.documents), key=lambda arm: arm.quality.value, default=None)
    for arm in arms:
        if arm.documents and without is not None:
            found = difference(grounds, arm.name, without.name)
            assert found is not None
            said = "help" if found.low > 0 else "are not shown to help"
            yield f"Documents {said}: {arm.name} against {without.name} {points(found)}."


def _operations(grounds: Grounds, prompted: ArmGrounds) -> Iterator[str]:
    limit, volume = grounds.latency_limit_s, grounds.requests_per_day
    if limit is not None and prompted.latency_p95_s is None:
        yield f"The limit of {limit:g} s is not tested: no p95 latency was measured for {prompted.name}."
    elif limit is not None:
        said = "is above" if too_slow(grounds, prompted) else "is within"
        yield f"The p95 latency of {prompted.name}, {prompted.latency_p95_s:.2f} s, {said} the limit of {limit:g} s."
    for arm in tuned_arms(grounds):
        if limit is not None and arm.latency_p95_s is not None and too_slow(grounds, prompted):
            said = "is too slow as well" if too_slow(grounds, arm) else "is fast enough"
            yield f"{arm.name} {said}, at {arm.latency_p95_s:.2f} s."
    if volume is not None and volume > LARGE_VOLUME:
        yield f"{volume:,.0f} requests a day are more than {LARGE_VOLUME:,}."


def _costs(grounds: Grounds, choice: Choice, costs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    volume = grounds.requests_per_day
    if not any("per_1000" in numbers for numbers in costs.values()):
        yield "Costs play no part: the recipe states no prices."
        return
    one, other = (grounds.cost_per_day.get(name or "") for name in (choice.tuned, choice.prompted))
    if volume is None or one is None or other is None:
        return
    yield (
        f"At {volume:,.0f} requests a day {choice.tuned} costs {one:,.2f} a day, what is paid once included, and "
        f"{choice.prompted} {other:,.2f}."
    )
    if one < other and not shown_better(grounds, choice.tuned or "", choice.prompted or ""):
        yield f"A tuned arm that is cheaper is worth it when it is shown to lose less than {MAX_LOSS:.0%} quality."


def would_change(grounds: Grounds, choice: Choice, break_even: Mapping[str, Any] | None) -> list[str]:
    """Return what would lead to another verdict."""
    if choice.prompted is None:
        return ["Measure a prompted arm: eval.arms: [base, few_shot, dynamic_few_shot]."]
    return [
        *_change_of_evidence(grounds, choice),
        *_change_of_arms(grounds, choice),
        *_change_of_cost(grounds, choice, break_even),
    ]


def _change_of_evidence(grounds: Grounds, choice: Choice) -> Iterator[str]:
    quality = grounds.arms[choice.prompted or ""].quality
    if choice.verdict == "prompt":
        yield f"A target above {percent(quality.low)}, the lower bound of {choice.prompted}."
    elif quality.low < grounds.target <= quality.value:
        rows = rows_for(quality.value, grounds.target)
        yield f"If {percent(quality.value)} holds on about {rows:,} held-out rows, the prompt is enough."
    elif quality.value < grounds.target:
        yield f"A prompt whose lower bound reaches {percent(grounds.target)}; the best one has {percent(quality.low)}."
    found = difference(grounds, choice.tuned, choice.prompted or "") if choice.tuned else None
    if found is not None and found.low <= 0 <= found.high and grounds.num_rows:
        half = (found.high - found.low) / 2
        yield (
            f"A gain of about {100 * half:.1f} points or more would show on {grounds.num_rows:,} rows; "
            f"half of that takes about {4 * grounds.num_rows:,}."
        )


def _change_of_arms(grounds: Grounds, choice: Choice) -> Iterator[str]:
    arms = prompted_arms(grounds)
    if not any(arm.shots or arm.documents or arm.model == "endpoint" for arm in arms) and len(arms) == 1:
        yield "A better prompt: only the zero-shot one was measured. Add few_shot and dynamic_few_shot to eval.arms."
    if choice.kind == "knowledge" and not any(arm.documents for arm in grounds.arms.values()):
        yield "An arm with `documents`: failures look like missing knowledge, and none was measured."
    if choice.tuned is None and choice.verdict != "prompt":
        yield "A trained adapter that is measured on the same rows: trainer train, then eval with the arm `tuned`."


def _change_of_cost(grounds: Grounds, choice: Choice, break_even: Mapping[str, Any] | None) -> Iterator[str]:
    if break_even is None:
        if not grounds.cost_per_day:
            yield "Prices and a volume: decide.prices and decide.requests_per_day."
        return
    at, volume = break_even["requests_per_day"], grounds.requests_per_day
    if at is None:
        yield f"Other prices: at these tuning never stays cheaper than {choice.prompted}."
    elif volume is None or volume < at:
        yield f"More than {at:,.0f} requests a day, from where tuning is cheaper than {choice.prompted}."
    else:
        yield f"Fewer than {at:,.0f} requests a day, below which {choice.prompted} is cheaper."


def rows_for(value: float, target: float) -> int:
    """Return about how many rows put the lower Wilson bound of a share `value` at `target`, which is below it.

    Source: the Wilson bound is where |value - target| = z sqrt(target (1 - target) / n).
    """
    return math.ceil(1.959964**2 * target * (1 - target) / (value - target) ** 2) if value > target else 0


def percent(value: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def written(interval: Interval) -> str:
    """Write a share with its interval: 84.5% [81.9 to 87.0]."""
    return f"{percent(interval.value)} [{100 * interval.low:.1f} to {100 * interval.high:.1f}]"


def points(interval: Interval) -> str:
    """Write a difference of shares: +3.1 points [+1.2 to +5.0]."""
    return f"{100 * interval.value:+.1f} points [{100 * interval.low:+.1f} to {100 * interval.high:+.1f}]"
