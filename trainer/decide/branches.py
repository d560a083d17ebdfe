"""Define the table of verdicts, read from the first row to the last; docs/decide.md shows it.

"Shown" means that the 95 % interval of the paired difference leaves out zero.
Source of the order: the practice that hosted services and their users describe (stop at a prompt that is right in 95 %
of cases; tuning for form, retrieval for facts; a smaller tuned model for latency and volume).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.decide.case import LARGE_VOLUME, MAX_LOSS, MIN_ROWS, Case
from trainer.shapes.decision import Verdict


@dataclass(frozen=True)
class Branch:
    """One row of the table."""

    name: str
    condition: str
    verdict: Verdict
    change: str
    """What would change it."""
    applies: Callable[[Case], bool]


BRANCHES: tuple[Branch, ...] = (
    Branch(
        "no_prompted_arm",
        "no untuned arm has the metric",
        "insufficient_evidence",
        "an arm that needs no training: `eval.arms: [base, few_shot, dynamic_few_shot]`",
        lambda case: case.prompted is None,
    ),
    Branch(
        "few_rows",
        f"fewer than {MIN_ROWS} held-out rows",
        "insufficient_evidence",
        "more held-out rows",
        lambda case: case.few_rows,
    ),
    Branch(
        "none_in_time",
        "every arm is slower than the limit, tuned ones too",
        "nothing_fits",
        "a smaller or faster model, shorter answers, or a higher limit",
        lambda case: not case.prompt_in_time and case.tuned is not None and not case.tuned_in_time,
    ),
    Branch(
        "prompts_too_slow",
        "every prompted arm is slower than the limit, no tuned one was measured",
        "smaller_tuned_model",
        "a tuned arm that is measured, or a higher limit",
        lambda case: not case.prompt_in_time and case.tuned is None,
    ),
    Branch(
        "tuned_in_time",
        "every prompted arm is slower than the limit, a tuned one is not and holds the quality",
        "smaller_tuned_model",
        "a faster prompted arm, or a higher limit",
        lambda case: not case.prompt_in_time and case.holds,
    ),
    Branch(
        "tuned_in_time_worse",
        "every prompted arm is slower than the limit, a tuned one is not and is shown worse",
        "nothing_fits",
        "a tuned model that holds the quality: more or better rows, another base",
        lambda case: not case.prompt_in_time and case.worse,
    ),
    Branch(
        "tuned_in_time_unclear",
        "every prompted arm is slower than the limit, a tuned one is not, and the rows do not tell whether it holds "
        "the quality",
        "insufficient_evidence",
        "more held-out rows",
        lambda case: not case.prompt_in_time,
    ),
    Branch(
        "tuned_as_good_cheaper",
        "the best prompted arm reaches the target, and a tuned one in time holds the quality and costs less",
        "smaller_tuned_model",
        "a cheaper prompted arm, or a smaller volume",
        lambda case: case.reached and case.tuned_in_time and case.holds and case.cheaper,
    ),
    Branch(
        "prompt_too_dear",
        "the best prompted arm reaches the target, no tuned one was measured, and one as fast as base would cost less; "
        f"or more than {LARGE_VOLUME:,} requests a day and no prices",
        "smaller_tuned_model",
        "a tuned arm that is measured and does not hold the quality, other prices, a smaller volume",
        lambda case: case.reached and case.tuned is None and (case.cheaper or case.large_volume),
    ),
    Branch(
        "prompt_enough",
        "the best prompted arm reaches the target",
        "prompt",
        "a higher target, or a tuned arm that holds the quality and costs less",
        lambda case: case.reached,
    ),
    Branch(
        "target_unclear",
        "the best prompted arm's value reaches the target, its lower bound does not; no tuned one is shown better",
        "insufficient_evidence",
        "more held-out rows",
        lambda case: case.target_unclear and not case.better,
    ),
    Branch(
        "rows_unclear",
        "fewer rows than could show the target (59 for 95 %), and neither the target nor the two arms are told apart",
        "insufficient_evidence",
        "more held-out rows",
        lambda case: case.rows_unclear and not case.better,
    ),
    Branch(
        "tuned_too_slow",
        "a tuned arm is shown better and is slower than the limit",
        "nothing_fits",
        "a smaller model tuned on the same rows, shorter answers, or a higher limit",
        lambda case: case.better and not case.tuned_in_time,
    ),
    Branch(
        "tuned_slow_and_no_better",
        "a tuned arm is slower than the limit and not shown better",
        "do_not_tune",
        "a smaller model tuned on the same rows that is shown better",
        lambda case: case.tuned is not None and not case.tuned_in_time,
    ),
    Branch(
        "tuned_better",
        "a tuned arm is shown better, and costs no more for a right answer, or alone reaches the target, or costs are "
        "unknown",
        "tune",
        "a better prompt, or other prices",
        lambda case: case.better and case.pays,
    ),
    Branch(
        "tuned_too_dear",
        "a tuned arm is shown better, and costs more for a right answer",
        "do_not_tune",
        "a larger volume, other prices, a fall-back that costs more, or a tuned arm that reaches the target",
        lambda case: case.better,
    ),
    Branch(
        "tuned_cheaper",
        f"a tuned arm is shown to lose less than {100 * MAX_LOSS:g} points and costs less",
        "tune",
        "a smaller volume, other prices, or a better prompt",
        lambda case: case.holds and case.cheaper,
    ),
    Branch(
        "documents_better",
        "a tuned arm is not shown better, and documents are shown to help",
        "rag_first",
        "a tuned arm that is given the documents too: `{name: tuned_rag, model: tuned, documents: {...}}`",
        lambda case: case.tuned is not None and case.documents_help,
    ),
    Branch(
        "tuned_worse",
        "a tuned arm is shown worse",
        "do_not_tune",
        "another training: more or better rows, another base",
        lambda case: case.worse,
    ),
    Branch(
        "tuned_not_better",
        "a tuned arm is not shown better",
        "do_not_tune",
        "more training rows, or more held-out rows where the difference is small",
        lambda case: case.tuned is not None,
    ),
    Branch(
        "form",
        "before training: most failures are of format or style",
        "tune",
        "a prompt that keeps the form, or a tuned arm that is measured",
        lambda case: case.kind == "form",
    ),
    Branch(
        "documents_not_enough",
        "before training: most failures are missing knowledge, and documents were tried",
        "tune",
        "better documents or passages, or a tuned arm that is measured",
        lambda case: case.kind == "knowledge" and case.documents_tried,
    ),
    Branch(
        "documents_first",
        "before training: most failures are missing knowledge, no documents were tried, and the answers are no closed "
        "set or the recipe has documents",
        "rag_first",
        "an arm with `documents` that is measured",
        lambda case: case.kind == "knowledge" and case.documents_may_help,
    ),
    Branch(
        "examples_not_enough",
        "before training: most failures are wrong labels of a closed set, and examples were tried",
        "tune",
        "more or better examples, or a tuned arm that is measured",
        lambda case: case.kind == "knowledge" and case.examples_tried,
    ),
    Branch(
        "examples_first",
        "before training: most failures are wrong labels of a closed set, and no examples were tried",
        "refine_prompt_or_data",
        "an arm with examples: `eval.arms: [base, few_shot, dynamic_few_shot]`",
        lambda case: case.kind == "knowledge",
    ),
    Branch(
        "otherwise",
        "before training, otherwise",
        "refine_prompt_or_data",
        "a better prompt or examples, or a tuned arm that is measured",
        lambda case: True,
    ),
)
