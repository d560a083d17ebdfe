"""Hand-made eval/scores.json and eval/predictions.jsonl in the shapes that eval writes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

Z = 1.959964


@dataclass(frozen=True)
class Made:
    """One arm: its share of right answers, what its wrong answers are, and its operational numbers."""

    name: str
    right: float
    model: str = "base"
    failure: str = "other"
    documents: bool = False
    shots: int = 0
    latency: float = 0.5
    tokens: tuple[float, float, float] = (200.0, 0.0, 20.0)
    """Prompt, shared prefix, answer."""
    rate: float | None = 4.0


def wilson(right: int, n: int) -> dict[str, float]:
    """Return a share with its Wilson interval, as eval writes it."""
    p = right / n
    centre, scale = (p + Z * Z / (2 * n)), 1 + Z * Z / n
    half = Z * (p * (1 - p) / n + Z * Z / (4 * n * n)) ** 0.5
    return {"value": p, "low": (centre - half) / scale, "high": (centre + half) / scale, "n": n}


def make(arms: list[Made], rows: int = 200, *, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return scores and predictions; exactly round(right x rows) answers of an arm are right."""
    chance = random.Random(seed)
    marks = {}
    for arm in arms:
        right = round(arm.right * rows)
        marks[arm.name] = [True] * right + [False] * (rows - right)
        chance.shuffle(marks[arm.name])
    predictions = [_prediction(index, arms, marks) for index in range(rows)]
    scores = {
        "primary": "exact_match",
        "heldout_rows": rows,
        "arms": {arm.name: _metrics(arm, sum(marks[arm.name]), rows) for arm in arms},
        "facts": {arm.name: _facts(arm, predictions) for arm in arms},
        "comparisons": [],
        "slices": {},
        "suites": {},
        "retention": None,
        "most_frequent_answer": None,
    }
    return scores, predictions


def _prediction(index: int, arms: list[Made], marks: dict[str, list[bool]]) -> dict[str, Any]:
    return {
        "id": f"h.jsonl:{index + 1}",
        "source": "h.jsonl",
        "line": index + 1,
        "group": f"g{index}",
        "messages": [{"role": "user", "content": f"question {index}"}],
        "reference": "yes",
        "slices": {},
        "answers": {
            arm.name: {
                "text": "yes" if marks[arm.name][index] else "no",
                "num_tokens": 1,
                "prompt_tokens": 10,
                "finished": True,
                "grades": {"exact_match": float(marks[arm.name][index])},
                "reasons": {},
                "failure": None if marks[arm.name][index] else arm.failure,
            }
            for arm in arms
        },
    }


def _metrics(arm: Made, right: int, rows: int) -> dict[str, Any]:
    def score(value: float) -> dict[str, Any]:
        return {"value": value, "low": None, "high": None, "n": rows}

    metrics = {
        "exact_match": wilson(right, rows),
        "latency_p50_s": score(arm.latency * 0.8),
        "latency_p95_s": score(arm.latency),
        "prompt_tokens": score(arm.tokens[0]),
        "answer_tokens": score(arm.tokens[2]),
    }
    return metrics if arm.rate is None else {**metrics, "throughput_rps": score(arm.rate)}


def _facts(arm: Made, predictions: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = Counter(row["answers"][arm.name]["failure"] for row in predictions)
    kinds.pop(None, None)
    return {
        "model": arm.model,
        "shots": arm.shots,
        "documents": arm.documents,
        "shared_prefix_tokens": arm.tokens[1],
        "concurrency": 1,
        "repairs": 0,
        "valid": 1 - kinds.get("format", 0) / len(predictions),
        "failures": {kind: kinds.get(kind, 0) for kind in ("format", "style", "knowledge", "refusal", "other")},
    }
