"""One arm: a model's answers, likelihoods and latencies on the held-out rows, and the scores made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.recipe.gates import Gate
from trainer.scoring import comparisons, statistics
from trainer.scoring.generate import Answer, Generator
from trainer.scoring.graders import exact_match, is_json
from trainer.scoring.likelihood import Floats, row_losses

EPSILON = 1e-9  # 0.7 - 0.3 is less than 0.4 in binary
LOWER_IS_BETTER = ("loss", "latency_p50_s")


@dataclass(frozen=True)
class Question:
    """One held-out row."""

    source: str
    line: int
    messages: list[dict[str, Any]]
    """The conversation before the answer."""
    prompt_ids: list[int]
    reference: str


@dataclass
class Measured:
    """Raw results of one arm; every array has one value a row."""

    answers: list[Answer] = field(default_factory=list)
    losses: Floats = field(default_factory=lambda: np.zeros(0))
    counts: Floats = field(default_factory=lambda: np.zeros(0))
    preferred: Floats | None = None
    latencies: list[float] = field(default_factory=list)


def measure(
    model: Any,
    generator: Generator,
    questions: Sequence[Question],
    rows: Sequence[tuple[Any, Any]],
    *,
    rejected: Sequence[tuple[Any, Any]] | None,
    batch_size: int,
    latency_rows: int,
    progress: Callable[[int], None],
) -> Measured:
    """Measure one arm.

    Args:
        model: The arm's model, in evaluation mode.
        generator: Decoding, the same for all arms.
        questions: Rows to answer; none for plain text.
        rows: (ids, mask) for the loss; of preference rows the chosen side.
        rejected: (ids, mask) of the rejected sides.
        batch_size: Rows in a forward pass.
        latency_rows: Rows answered one by one.
        progress: Told the rows done.
    """
    losses, counts = row_losses(model, rows, batch_size=max(1, batch_size // 4), progress=lambda _: None)
    preferred = None
    if rejected is not None:
        other, _ = row_losses(model, rejected, batch_size=max(1, batch_size // 4), progress=lambda _: None)
        preferred = (losses < other).astype(np.float64)
    prompts = [question.prompt_ids for question in questions]
    answers = generator.answers(prompts, batch_size=batch_size, progress=progress) if prompts else []
    latencies = generator.latencies(prompts[:latency_rows]) if latency_rows and prompts else []
    return Measured(answers, losses, counts, preferred, latencies)


def marks(metric: str, measured: Measured, questions: Sequence[Question]) -> Floats | None:
    """Return 0 or 1 for each row, for metrics that are shares."""
    pairs = zip(measured.answers, questions, strict=True)
    match metric:
        case "exact_match":
            return np.array([exact_match(answer.text, q.reference) for answer, q in pairs], dtype=np.float64)
        case "valid_json":
            return np.array([is_json(answer.text) for answer in measured.answers], dtype=np.float64)
        case "preference_accuracy":
            return measured.preferred
    return None


def score(metric: str, measured: Measured, questions: Sequence[Question], seed: int) -> statistics.Score | None:
    """Return one metric of one arm, or None where the rows do not allow it."""
    if metric == "loss":
        return statistics.ratio(measured.losses, measured.counts, seed) if len(measured.losses) else None
    if metric == "latency_p50_s":
        return statistics.median(np.array(measured.latencies), seed) if measured.latencies else None
    values = marks(metric, measured, questions)
    return statistics.proportion(values) if values is not None and len(values) else None


def compare(
    metric: str, tuned: Measured, base: Measured, questions: Sequence[Question], seed: int
) -> dict[str, Any] | None:
    """Return tuned minus base on the same rows, paired."""
    if metric == "loss" and len(tuned.losses):
        return {"metric": metric, **comparisons.paired_ratio_difference(tuned.losses, base.losses, tuned.counts, seed)}
    if metric == "latency_p50_s" and tuned.latencies:
        first, second = np.array(tuned.latencies), np.array(base.latencies)
        return {"metric": metric, **comparisons.paired_difference(first, second, seed)}
    first_marks, second_marks = marks(metric, tuned, questions), marks(metric, base, questions)
    if first_marks is None or second_marks is None or not len(first_marks):
        return None
    return {"metric": metric, **comparisons.share_difference(first_marks, second_marks)}


def judge(gate: Gate, arms: dict[str, dict[str, statistics.Score]]) -> dict[str, Any]:
    """Decide one gate; a metric that was not measured never passes."""
    facts = {"gate": gate.model_dump(exclude_none=True)}
    tuned = arms.get("tuned", {}).get(gate.metric)
    other = arms.get(gate.vs, {}).get(gate.metric)
    if tuned is None or (other is None and (gate.min_gain is not None or gate.max_drop is not None)):
        return facts | {"passed": False, "sentence": f"{gate.metric} was not measured"}
    value = tuned["value"]
    sign = -1 if gate.metric in LOWER_IS_BETTER else 1
    gain = sign * (value - other["value"]) if other else 0.0
    limits = [
        (gate.min, gate.min is None or value >= gate.min, f"{gate.metric} {value:.4g} against at least {gate.min}"),
        (gate.max, gate.max is None or value <= gate.max, f"{gate.metric} {value:.4g} against at most {gate.max}"),
        (
            gate.min_gain,
            gate.min_gain is None or gain >= gate.min_gain - EPSILON,
            f"{gate.metric} gains {gain:.4g} over {gate.vs} against at least {gate.min_gain}",
        ),
        (
            gate.max_drop,
            gate.max_drop is None or -gain <= gate.max_drop + EPSILON,
            f"{gate.metric} drops {-gain:.4g} under {gate.vs} against at most {gate.max_drop}",
        ),
    ]
    stated = [(passed, sentence) for limit, passed, sentence in limits if limit is not None]
    failed = [sentence for passed, sentence in stated if not passed]
    return facts | {"passed": not failed, "sentence": "; ".join(failed or [sentence for _, sentence in stated])}
