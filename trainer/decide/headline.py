"""Say a verdict in one line, with the numbers that decide it."""

from __future__ import annotations

from trainer.decide.case import LARGE_VOLUME, Case, too_slow
from trainer.decide.inputs import ArmInputs, Interval
from trainer.decide.verdict import Choice
from trainer.render.numbers import write_amount


def headline(choice: Choice) -> str:
    """Return the verdict as one line."""
    case = choice.case
    match choice.verdict:
        case "insufficient_evidence":
            return f"Too little evidence for a decision: {rows(case.inputs.num_rows)}."
        case "prompt":
            return f"Prompt: {choice.prompted} has {_quality(case.prompted)}, there is no need to tune."
        case "smaller_tuned_model":
            return _smaller(choice)
        case "nothing_fits":
            return f"Nothing that was measured fits: {_unfit(choice)}."
        case "tune":
            return f"Tune: {_tune(choice)}."
        case "rag_first":
            return _documents(choice)
        case "do_not_tune":
            return f"Do not tune: {_not(choice)}."
        case "refine_prompt_or_data":
            return _refine(choice)


def _smaller(choice: Choice) -> str:
    case, prompted, tuned = choice.case, choice.prompted, choice.tuned
    breach = f"{prompted} {_breach(case, prompted)}"
    match choice.branch.name:
        case "tuned_in_time":
            return f"A smaller tuned model: {tuned} is in time and holds the quality, {breach}."
        case "tuned_as_good_cheaper":
            return f"A smaller tuned model: {tuned} holds the quality of {prompted} and {_costs(case)}."
        case "prompt_too_dear":
            dear = f"a tuned one {_costs(case)}" if case.cheaper else f"more than {LARGE_VOLUME:,} requests a day"
            return f"Try a smaller tuned model, and keep it if it holds the quality of {prompted}: {dear}."
        case _:
            return f"Try a smaller tuned model, and keep it if it holds the quality: {breach}."


def _unfit(choice: Choice) -> str:
    case, prompted, tuned = choice.case, choice.prompted, choice.tuned
    match choice.branch.name:
        case "tuned_too_slow":
            return f"{tuned} is better than {prompted} by {_gap(case)} and {_breach(case, tuned)}"
        case "tuned_in_time_worse":
            return f"{prompted} {_breach(case, prompted)}, and {tuned} is shown worse by {_gap(case)}"
        case _:
            fastest = min(case.inputs.arms.values(), key=lambda arm: arm.latency_p95_s or 0.0)
            return f"no arm is in time, the fastest, {fastest.name}, {_breach(case, fastest.name)}"


def _tune(choice: Choice) -> str:
    case, prompted, tuned = choice.case, choice.prompted, choice.tuned
    match choice.branch.name:
        case "tuned_better":
            return f"{tuned} beats {prompted} by {_gap(case)}"
        case "tuned_cheaper":
            return f"{tuned} is as good as {prompted} and {_costs(case)}"
        case "documents_not_enough":
            return _tried(case)
        case "examples_not_enough":
            return f"examples were tried and are not enough, {prompted} has {_quality(case.prompted)}"
        case _:
            return "the prompts fail on format or style, which tuning teaches"


def _tried(case: Case) -> str:
    """Name the best arm with documents, and whether its quality or its latency is not enough."""
    arms = [arm for arm in case.inputs.arms.values() if arm.documents]
    best = max(arms, key=lambda arm: arm.quality.value)
    if too_slow(case.inputs, best):
        return (
            f"documents were tried and are not enough: {best.name} has {_quality(best)} and {_breach(case, best.name)}"
        )
    return f"documents were tried and are not enough, {best.name} has {_quality(best)}"


def _documents(choice: Choice) -> str:
    if choice.branch.name == "documents_better":
        return f"Documents first: they help, and {choice.tuned} is not shown better than {choice.prompted}."
    return "Documents first: give the model the missing knowledge before tuning it."


def _not(choice: Choice) -> str:
    case, prompted, tuned = choice.case, choice.prompted, choice.tuned
    match choice.branch.name:
        case "tuned_slow_and_no_better":
            return f"{tuned} {_breach(case, tuned)}, and it is not shown better than {prompted}"
        case "tuned_too_dear":
            return f"{tuned} is better than {prompted} by {_gap(case)} and {_costs(case)}"
        case "tuned_worse":
            return f"{tuned} is shown worse than {prompted} by {_gap(case)}"
        case _:
            return f"{tuned} is not shown better than {prompted}"


def _refine(choice: Choice) -> str:
    quality = f"{choice.prompted} has {_quality(choice.case.prompted)}"
    if choice.branch.name == "examples_first":
        return f"Examples first: the answers are a closed set, no arm shows examples of it, and {quality}."
    return f"Refine the prompt or add data: {quality}."


def _breach(case: Case, name: str | None) -> str:
    """Name the latency limit that an arm breaks."""
    arm = case.inputs.arms[name or ""]
    return f"takes {arm.latency_p95_s or 0:.2f} s, above the limit of {case.inputs.latency_limit_s or 0:g} s"


def _costs(case: Case) -> str:
    tuned, prompt = case.cost_of_tuned or 0.0, case.cost_of_prompt or 0.0
    volume = case.inputs.requests_per_day or 0.0
    return f"costs {write_amount(tuned)} a day against {write_amount(prompt)} at {volume:,.0f} requests a day"


def _gap(case: Case) -> str:
    assert case.against is not None
    return points(case.against)


def _quality(arm: ArmInputs | None) -> str:
    assert arm is not None
    return written(arm.quality)


def rows(count: int) -> str:
    """Write a number of held-out rows."""
    return f"{count:,} held-out row" + ("" if count == 1 else "s")


def percent(value: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def written(interval: Interval) -> str:
    """Write a share with its interval: 84.5% [81.9 to 87.0]."""
    return f"{percent(interval.value)} [{100 * interval.low:.1f} to {100 * interval.high:.1f}]"


def points(interval: Interval) -> str:
    """Write a difference of shares: +3.1 points [+1.2 to +5.0]."""
    return f"{100 * interval.value:+.1f} points [{100 * interval.low:+.1f} to {100 * interval.high:+.1f}]"
