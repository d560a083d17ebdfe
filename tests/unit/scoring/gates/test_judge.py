"""Every verdict of a gate, and what leads to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from trainer.recipe.gates import Gate
from trainer.scoring.gates.judge import judge
from trainer.scoring.statistics.measurements import Evidence, score

Rows = dict[tuple[str, str], Evidence]


def marks(right: int, wrong: int) -> Evidence:
    return Evidence("share", np.array([1.0] * right + [0.0] * wrong))


def verdict(gate: dict[str, Any], rows: Rows, **options: Any) -> dict[str, Any]:
    """Judge one gate on rows and on the scores made from them."""
    arms: dict[str, dict[str, Any]] = {}
    for (arm, metric), evidence in rows.items():
        arms.setdefault(arm, {})[metric] = score(evidence, 0)
    scores = {"arms": arms, "retention": None, "suites": {}} | options.pop("scores", {})

    def lookup(arm: str, gate: Gate) -> Evidence | None:
        return rows.get((arm, gate.metric))

    (entry,) = judge([Gate.model_validate({"metric": "exact_match"} | gate)], scores, lookup, **options)
    assert entry["passed"] is (entry["verdict"] == "pass") and entry["sentence"]
    return entry


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        (59, 0, "pass"),
        (58, 0, "insufficient_evidence"),
        (92, 1, "pass"),
        (91, 1, "insufficient_evidence"),
        (85, 15, "fail"),
    ],
)
def test_a_smallest_rate_passes_when_the_rows_prove_it(right: int, wrong: int, expected: str) -> None:
    entry = verdict({"min": 0.95}, {("tuned", "exact_match"): marks(right, wrong)})
    assert entry["verdict"] == expected and entry["layer"] == "task"


def test_too_few_rows_are_told_with_the_number_that_would_do() -> None:
    entry = verdict({"min": 0.95}, {("tuned", "exact_match"): marks(79, 1)})
    assert "59 rows without a failure would show it, 93 with 1" in entry["sentence"]


@pytest.mark.parametrize(("hits", "expected"), [(0, "pass"), (3, "insufficient_evidence"), (40, "fail")])
def test_a_largest_rate_is_judged_from_above(hits: int, expected: str) -> None:
    rows = {("tuned", "format_leak_rate"): marks(hits, 100 - hits)}
    assert verdict({"metric": "format_leak_rate", "max": 0.05}, rows)["verdict"] == expected


@pytest.mark.parametrize(
    ("gate", "wins", "losses", "expected"),
    [
        ({"min_gain": 0}, 20, 2, "pass"),
        ({"min_gain": 0}, 4, 0, "insufficient_evidence"),  # exact one-sided p 0.0625
        ({"min_gain": 0}, 5, 0, "pass"),  # 0.031
        ({"min_gain": 0}, 0, 0, "insufficient_evidence"),
        ({"min_gain": 0}, 2, 20, "fail"),
        ({"min_gain": 0.3}, 20, 2, "fail"),
        ({"max_drop": 0.1}, 3, 3, "pass"),
        ({"max_drop": 0.02}, 3, 3, "insufficient_evidence"),
        ({"max_drop": 0.02}, 2, 20, "fail"),
    ],
)
def test_gains_and_drops_are_paired(gate: dict[str, float], wins: int, losses: int, expected: str) -> None:
    ties = 100 - wins - losses
    rows = {
        ("tuned", "exact_match"): Evidence("share", np.array([1.0] * wins + [0.0] * losses + [1.0] * ties)),
        ("base", "exact_match"): Evidence("share", np.array([0.0] * wins + [1.0] * losses + [1.0] * ties)),
    }
    assert verdict(gate, rows)["verdict"] == expected


def test_equal_losses_on_every_row_show_neither_a_gain_nor_how_much_one_more_row_may_lose() -> None:
    loss = Evidence("ratio", np.arange(1.0, 101), counts=np.full(100, 5.0), bounded=False)
    rows = {("tuned", "loss"): loss, ("base", "loss"): loss}
    for limit in ({"min_gain": 0}, {"max_drop": 0.01}):
        assert verdict({"metric": "loss"} | limit, rows)["verdict"] == "insufficient_evidence"


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, "insufficient_evidence"), (5, "insufficient_evidence"), (70, "pass")]
)
@pytest.mark.parametrize("kind", ["f1", "mean", "share", "ratio"])
def test_perfect_answers_pass_only_where_there_are_enough_of_them(kind: Any, rows: int, expected: str) -> None:
    perfect = {
        "f1": Evidence("f1", np.tile([4.0, 0, 0], (rows, 1))),
        "mean": Evidence("mean", np.ones(rows)),
        "share": Evidence("share", np.ones(rows)),
        "ratio": Evidence("ratio", np.full(rows, 4.0), np.full(rows, 4.0)),
    }[kind]
    assert verdict({"min": 0.95}, {("tuned", "exact_match"): perfect})["verdict"] == expected


def test_lower_is_better_turns_gains_around() -> None:
    counts, noise = np.full(100, 5.0), np.random.default_rng(0).normal(0, 0.3, 100)
    rows = {
        ("tuned", "loss"): Evidence("ratio", 5 + noise, counts=counts),
        ("base", "loss"): Evidence("ratio", 7 + noise[::-1], counts=counts),
    }
    assert verdict({"metric": "loss", "min_gain": 0.3}, rows)["verdict"] == "pass"
    assert verdict({"metric": "loss", "min_gain": 0.3}, rows, lower_is_better=())["verdict"] == "fail"


@pytest.mark.parametrize(("limit", "expected"), [(2.0, "pass"), (1.0, "insufficient_evidence"), (0.5, "fail")])
def test_operations_are_judged_with_bootstrap_bounds(limit: float, expected: str) -> None:
    times = np.random.default_rng(1).lognormal(0, 0.5, 60)
    rows = {("tuned", "latency_p50_s"): Evidence("quantile", times)}
    entry = verdict({"metric": "latency_p50_s", "max": limit}, rows)
    assert (entry["verdict"], entry["layer"]) == (expected, "operations")


def test_ten_requests_cannot_prove_a_95th_percentile() -> None:
    rows = {("tuned", "latency_p95_s"): Evidence("quantile", np.linspace(0.1, 0.2, 10), level=0.95)}
    assert verdict({"metric": "latency_p95_s", "max": 5.0}, rows)["verdict"] == "insufficient_evidence"


@pytest.mark.parametrize(
    "gate",
    [
        {"metric": "rouge_l", "min": 0.1},
        {"min": 0.1, "arm": "start"},
        {"min_gain": 0.0, "vs": "start"},
        {"min_gain": 0.0, "vs": "best_prompted"},
        {"min": 0.1, "suite": "general"},
        {"min": 0.1, "slice": {"topic": "refunds"}},
        {"suite": "golden", "layer": "must_pass", "metric": "contains"},
        {"min": 0.1, "confidence": None, "metric": "rouge_l"},
    ],
)
def test_what_was_not_measured_never_passes(gate: dict[str, Any]) -> None:
    entry = verdict(gate, {("tuned", "exact_match"): marks(100, 0)})
    assert entry["verdict"] == "not_run" and not entry["passed"]


def test_without_confidence_the_value_itself_counts() -> None:
    rows = {("tuned", "exact_match"): marks(7, 3), ("base", "exact_match"): marks(3, 7)}
    for gate, expected in [({"min": 0.7}, "pass"), ({"min_gain": 0.4}, "pass"), ({"min_gain": 0.41}, "fail")]:
        assert verdict(gate | {"confidence": None}, rows)["verdict"] == expected


def test_the_worst_limit_of_a_gate_counts() -> None:
    rows = {("tuned", "exact_match"): marks(95, 5), ("base", "exact_match"): marks(95, 5)}
    entry = verdict({"min": 0.8, "min_gain": 0.0}, rows)
    assert entry["verdict"] == "insufficient_evidence" and "gains" in entry["sentence"]


def test_the_best_prompted_arm_is_found() -> None:
    rows = {
        ("tuned", "exact_match"): marks(95, 5),
        ("few_shot", "exact_match"): marks(60, 40),
        ("best", "exact_match"): marks(70, 30),
    }
    entry = verdict({"min_gain": 0.1, "vs": "best_prompted"}, rows, prompted=("few_shot", "best"))
    assert entry["verdict"] == "pass" and "over best " in entry["sentence"]


def test_a_must_pass_suite_names_what_fails() -> None:
    golden = {"suites": {"golden": {"must_pass": True, "n": 3, "arms": {}}}}
    for values, expected in [([1.0, 1.0, 1.0], "pass"), ([1.0, 0.0, 1.0], "fail")]:
        rows = {("tuned", "contains"): Evidence("share", np.array(values), ids=("refuse", "capital", "json"))}
        gate = {"metric": "contains", "suite": "golden", "min": 0.1}
        entry = verdict(gate, rows, scores=golden)
        assert (entry["verdict"], entry["layer"]) == (expected, "must_pass")
        assert [item["passed"] for item in entry["items"]] == [value == 1 for value in values]
    assert "1 of 3" in entry["sentence"] and "capital" in entry["sentence"] and "refuse" not in entry["sentence"]


def test_an_empty_must_pass_suite_does_not_pass() -> None:
    empty = Evidence("share", np.zeros(0))
    gate = Gate(metric="contains", suite="golden", layer="must_pass")
    (entry,) = judge([gate], {"arms": {}}, lambda *_: empty)
    assert not entry["passed"]


def test_scores_without_rows_serve_with_their_intervals() -> None:
    result = {"value": 0.02, "low": 0.01, "high": 0.04, "n": 60}
    scores = {"arms": {}, "retention": {"kl": result, "format_leak_rate": {"tuned": result, "base": result}}}
    for limit, expected in [(0.05, "pass"), (0.03, "insufficient_evidence"), (0.005, "fail")]:
        for metric in ("kl", "format_leak_rate"):
            (entry,) = judge([Gate(metric=metric, max=limit)], scores, lambda *_: None)
            assert (entry["verdict"], entry["layer"]) == (expected, "retention")
    (strict,) = judge([Gate(metric="kl", max=0.05, confidence=0.99)], scores, lambda *_: None)
    assert strict["verdict"] == "insufficient_evidence"  # a 95 % interval says nothing at 99 %


def test_a_single_measurement_proves_nothing_and_says_what_to_do() -> None:
    rows = {("tuned", "peak_memory_gib"): Evidence("mean", np.array([12.0]))}
    gate = {"metric": "peak_memory_gib", "max": 20}
    entry = verdict(gate, rows)
    assert entry["verdict"] == "insufficient_evidence" and "confidence: null" in entry["sentence"]
    assert verdict(gate | {"confidence": None}, rows)["verdict"] == "pass"


def test_clusters_make_gates_harder() -> None:
    right = np.repeat(np.random.default_rng(2).random(25) < 0.9, 4).astype(float)
    alone, grouped = Evidence("share", right), Evidence("share", right, groups=np.repeat(np.arange(25), 4).tolist())
    gate = {"min": 0.85 * float(right.mean()) + 0.05}
    assert verdict(gate, {("tuned", "exact_match"): alone})["verdict"] == "pass"
    assert verdict(gate, {("tuned", "exact_match"): grouped})["verdict"] == "insufficient_evidence"


@pytest.mark.parametrize(
    "gate",
    [{}, {"min": 0.5, "confidence": 1.0}, {"min": 0.5, "suite": "a", "slice": {"b": "c"}}, {"max_drop": -0.1}],
)
def test_gates_that_ask_nothing_or_nonsense_are_refused(gate: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Gate.model_validate({"metric": "exact_match"} | gate)
