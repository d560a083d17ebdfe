"""Prompt, tune, or something else: the field's framework, each branch answered by a measurement.

In this order, the first that holds:

    insufficient_evidence   no graded arm, or too few rows to show the target and nothing else is clear
    prompt                  the best prompted arm's lower bound reaches the target, within the operational limits
    smaller_tuned_model     the best prompted arm is too slow, or there are more than a million requests a day
    tune                    the tuned arm is shown better, or as good and cheaper at the stated volume;
                            before training: the prompted arms fail on format or style
    rag_first               documents are shown to help, or failures are missing knowledge and no documents were tried
    do_not_tune             a tuned arm was measured and not shown better than the best prompt
    refine_prompt_or_data   otherwise

"Shown" means that the 95% interval of the paired difference leaves out zero.
Source of the order: the practice that hosted services and their users describe (stop at a prompt that is right in 95%
of cases; tuning for form, retrieval for facts; a smaller tuned model for latency and volume).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trainer.scoring.grounds import ArmGrounds, Grounds, Interval, Resamples, resampled

Verdict = Literal[
    "insufficient_evidence",
    "prompt",
    "smaller_tuned_model",
    "tune",
    "rag_first",
    "do_not_tune",
    "refine_prompt_or_data",
]
Kind = Literal["form", "knowledge", "other"]

LARGE_VOLUME = 1_000_000
"""Requests a day from which the framework asks for a smaller tuned model."""
MIN_ROWS = 20
"""Below this many held-out rows no verdict is given."""
MAX_LOSS = 0.02
"""A tuned arm counts as good as a prompt when it is shown to lose less than this much quality."""


@dataclass(frozen=True)
class Choice:
    """The verdict and the two arms that it compares."""

    verdict: Verdict
    prompted: str | None
    tuned: str | None
    kind: Kind | None
    """What most failures of the best prompted arm without documents are; None where there are none."""


def decide(grounds: Grounds) -> Choice:
    """Apply the framework to what was measured."""
    prompted, tuned = best_prompted(grounds), best(tuned_arms(grounds))
    kind = failing_on(best(arm for arm in prompted_arms(grounds) if not arm.documents))
    verdict = _verdict(grounds, prompted, tuned, kind)
    return Choice(verdict, prompted.name if prompted else None, tuned.name if tuned else None, kind)


def prompted_arms(grounds: Grounds) -> list[ArmGrounds]:
    """Return the arms with untuned weights, the plain base model among them."""
    return [arm for arm in grounds.arms.values() if arm.model in ("base", "endpoint")]


def best_prompted(grounds: Grounds) -> ArmGrounds | None:
    """Return the best prompted arm; one that reaches the target in time comes before a better one that is too slow."""
    arms = prompted_arms(grounds)
    enough = [arm for arm in arms if arm.quality.low >= grounds.target and not too_slow(grounds, arm)]
    return best(enough or arms)


def tuned_arms(grounds: Grounds) -> list[ArmGrounds]:
    """Return the arms with this run's adapter."""
    return [arm for arm in grounds.arms.values() if arm.model == "tuned"]


def best(arms: Iterable[ArmGrounds]) -> ArmGrounds | None:
    """Return the arm of the highest quality, the first of equals; None without arms."""
    return max(arms, key=lambda arm: arm.quality.value, default=None)


def failing_on(arm: ArmGrounds | None) -> Kind | None:
    """Return what the largest part of an arm's failures is; form is format and style together."""
    if arm is None or not sum(arm.failures.values()):
        return None
    form = arm.failures.get("format", 0) + arm.failures.get("style", 0)
    other = arm.failures.get("refusal", 0) + arm.failures.get("other", 0)
    counts: list[tuple[Kind, float]] = [
        ("form", form),
        ("knowledge", arm.failures.get("knowledge", 0)),
        ("other", other),
    ]
    return max(counts, key=lambda item: item[1])[0]


def _verdict(grounds: Grounds, prompted: ArmGrounds | None, tuned: ArmGrounds | None, kind: Kind | None) -> Verdict:
    if prompted is None or grounds.num_rows < MIN_ROWS:
        return "insufficient_evidence"
    better = tuned is not None and shown_better(grounds, tuned.name, prompted.name)
    reached = prompted.quality.low >= grounds.target
    if not reached and not better and _too_little(grounds, prompted, tuned):
        return "insufficient_evidence"
    if reached and fits(grounds, prompted):
        return "prompt"
    if not fits(grounds, prompted):
        return "smaller_tuned_model"
    if better or (tuned is not None and cheaper(grounds, tuned, prompted)):
        return "tune"
    if documents_help(grounds) or (kind == "knowledge" and not any(arm.documents for arm in grounds.arms.values())):
        return "rag_first" if tuned is None or documents_help(grounds) else "do_not_tune"
    if tuned is not None:
        return "do_not_tune"
    return "tune" if kind == "form" else "refine_prompt_or_data"


def _too_little(grounds: Grounds, prompted: ArmGrounds, tuned: ArmGrounds | None) -> bool:
    """Tell whether the rows settle nothing: few and unclear, or the target is reached but not shown."""
    few = grounds.num_rows < rows_needed(grounds.target)
    unclear = tuned is not None and not shown_better(grounds, prompted.name, tuned.name)
    undecided = prompted.quality.high >= grounds.target or unclear
    return prompted.quality.value >= grounds.target or (few and undecided)


def rows_needed(target: float) -> int:
    """Return how many rows without a failure show a quality of `target` with 95% confidence: target^n <= 0.05."""
    return math.ceil(math.log(0.05) / math.log(target))


def fits(grounds: Grounds, arm: ArmGrounds) -> bool:
    """Tell whether an arm stays within the latency limit and the volume is not a large one."""
    return not too_slow(grounds, arm) and (grounds.requests_per_day or 0) <= LARGE_VOLUME


def too_slow(grounds: Grounds, arm: ArmGrounds) -> bool:
    """Tell whether an arm's p95 latency is above the stated limit."""
    limit = grounds.latency_limit_s
    return limit is not None and arm.latency_p95_s is not None and arm.latency_p95_s > limit


def difference(grounds: Grounds, first: str, second: str) -> Interval | None:
    """Return the quality of one arm less another's; where it was not paired, from intervals of both."""
    found = grounds.differences.get((first, second))
    if found or first not in grounds.arms or second not in grounds.arms:
        return found
    one, other = grounds.arms[first].quality, grounds.arms[second].quality
    return Interval(one.value - other.value, one.low - other.high, one.high - other.low)


def shown_better(grounds: Grounds, first: str, second: str) -> bool:
    """Tell whether the interval of the difference lies above zero."""
    found = difference(grounds, first, second)
    return found is not None and found.low > 0


def cheaper(grounds: Grounds, tuned: ArmGrounds, prompted: ArmGrounds) -> bool:
    """Tell whether the tuned arm is about as good, within MAX_LOSS, and costs less at the stated volume."""
    costs, found = grounds.cost_per_day, difference(grounds, tuned.name, prompted.name)
    if found is None or tuned.name not in costs or prompted.name not in costs:
        return False
    return found.low > -MAX_LOSS and costs[tuned.name] < costs[prompted.name]


def documents_help(grounds: Grounds) -> bool:
    """Tell whether an arm with documents is shown better than the best prompted one without."""
    without = best(arm for arm in prompted_arms(grounds) if not arm.documents)
    with_documents = best(arm for arm in prompted_arms(grounds) if arm.documents)
    return bool(without and with_documents and shown_better(grounds, with_documents.name, without.name))


def confidence(
    grounds: Grounds, resamples: Resamples | None, verdict: Verdict
) -> tuple[float | None, dict[str, float]]:
    """Return the share of bootstrap resamples with the same verdict, and the share of each verdict."""
    if resamples is None:
        return None, {}
    num = len(resamples.shifts)
    found = Counter(decide(resampled(grounds, resamples, index)).verdict for index in range(num))
    return found[verdict] / num, {name: count / num for name, count in found.most_common()}
