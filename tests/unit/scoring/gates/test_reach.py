"""Gates that can never pass are told before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from trainer.digests import hash_value
from trainer.recipe import load_recipe
from trainer.recipe.gates import Gate
from trainer.scoring.gates.coverage import impossible_gates
from trainer.scoring.gates.metrics import Shape
from trainer.scoring.gates.reach import GateScope, unreachable

CASES: dict[str, tuple[dict[str, Any], Shape, int, int | None]] = {
    "a rate, one row short": ({"min": 0.95}, "share", 58, 59),
    "a rate": ({"min": 0.95}, "share", 59, None),
    "a higher confidence": ({"min": 0.95, "confidence": 0.99}, "share", 59, 90),
    "graded marks": ({"min": 0.9}, "mean", 20, 29),
    "a drop on twelve items": ({"max_drop": 0.2}, "share", 12, 16),
    "a drop on sixty items": ({"max_drop": 0.1}, "share", 60, None),
    "a gain on four rows": ({"min_gain": 0.0}, "share", 4, 5),
    "a gain": ({"min_gain": 0.4}, "share", 75, None),
    "the value itself": ({"min": 0.95, "confidence": None}, "share", 3, None),
    "every item": ({"layer": "must_pass", "min": 1}, "share", 3, None),
    "two limits, one out of reach": ({"min": 0.5, "min_gain": 0.0}, "share", 4, 5),
}


@pytest.mark.parametrize(("gate", "shape", "rows", "needed"), CASES.values(), ids=CASES)
def test_the_rows_that_perfect_or_equal_answers_would_need_are_told(
    gate: dict[str, Any], shape: Shape, rows: int, needed: int | None
) -> None:
    reason = unreachable(Gate(metric="m", **gate), GateScope(shape, rows, "rows", "add rows"))
    if needed is None:
        assert reason is None
    else:
        assert reason is not None and f"there are {rows} rows" in reason and f"it takes {needed} " in reason


@pytest.mark.parametrize(
    ("gate", "index", "message"),
    [
        ({"min": 1.0}, GateScope("share", 500, "rows", ""), "no number of perfect answers"),
        ({"max_drop": 0.0}, GateScope("share", 500, "rows", ""), "no number of equal answers"),
        ({"max": 2.0}, GateScope("quantile", 10, "timed rows", "raise latency_rows", level=0.95), "it takes 59"),
        ({"max": 2.0}, GateScope("quantile", 60, "timed rows", "raise latency_rows", level=0.95), None),
        ({"max": 2.0}, GateScope("figure", 1, "measurements", ""), "confidence: null"),
        ({"max": 2.0}, GateScope("unbounded", 1, "rows", ""), "at least 2"),
        ({"max": 2.0}, GateScope("unbounded", 2, "rows", ""), None),
        ({"max": 0.1}, GateScope("share", 28, "prompts", "", lower_is_better=True), "it takes 29"),
        ({"max": 0.1}, GateScope("share", 32, "prompts", "", lower_is_better=True), None),
        ({"min": 0.95}, GateScope("f1", 20, "rows", "add rows"), "it takes 5"),
        ({"min": 0.5}, GateScope("share", 0, "rows", "add rows"), "there are 0 rows"),
        ({"min": 0.9}, GateScope("share", 60, "rows", "", groups=["a", "b", "c"] * 20), "60 rows in 3 groups"),
    ],
    ids=str,
)
def test_each_kind_of_metric_has_its_own_reason(gate: dict[str, Any], index: GateScope, message: str | None) -> None:
    reason = unreachable(Gate(metric="m", **gate), index)
    assert reason is None if message is None else reason is not None and message in reason


def made(rows: int) -> list[dict[str, Any]]:
    prompts = [{"role": "user", "content": f"what does {hash_value(number)} mean?"} for number in range(rows)]
    answer = {"role": "assistant", "content": "4"}
    return [{"messages": [question, answer]} for question in prompts]


def faults(
    folder: Path,
    gates: list[dict[str, Any]],
    rows: int = 100,
    heldout: list[dict[str, Any]] | None = None,
    **more: Any,
) -> list[str]:
    """Return why gates of a tiny recipe can never pass."""
    tiny.write_rows(folder / "all.jsonl", made(rows))
    section = {"gates": gates, "max_rows": 1000} | more
    recipe = load_recipe(
        tiny.write_recipe(
            folder,
            model={"name_or_path": "none"},
            data={"sources": [{"path": "all.jsonl"}], "split": {"heldout": 0.2}},
            eval=section,
        )
    )
    path = None
    if heldout is not None:
        path = folder / "heldout.jsonl"
        tiny.write_rows(path, heldout)
    return [fault for _, fault in impossible_gates(recipe, path)]


def test_before_data_has_run_the_rows_of_the_sources_count(tmp_path: Path) -> None:
    gate = {"metric": "exact_match", "min": 0.95}
    (reason,) = faults(tmp_path, [gate])
    assert "there are 24 held-out rows at most, and it takes 59" in reason and "data.split.heldout" in reason
    assert faults(tmp_path, [gate], rows=400) == []
    (reason,) = faults(tmp_path, [gate], rows=400, max_rows=50)
    assert "there are 50 held-out rows at most" in reason and "raise eval.max_rows" in reason


def test_once_data_has_run_the_held_out_rows_count_by_group_and_slice(tmp_path: Path) -> None:
    topics = ("even", "odd") * 40
    rows = [{**row, "source": "a", "line": 1, "topic": topic} for row, topic in zip(made(80), topics, strict=True)]
    gates = [{"metric": "exact_match", "min": 0.95}, {"metric": "exact_match", "min": 0.95, "slice": {"topic": "odd"}}]
    (reason,) = faults(tmp_path, gates, heldout=rows, slices=["topic"])
    assert "40 held-out rows with topic odd" in reason


def test_the_items_of_a_suite_count_by_their_metric(tmp_path: Path) -> None:
    items = [{"id": str(number), "prompt": "2 + 2?", "reference": "4"} for number in range(12)]
    suite = {"suite_version": 1, "name": "plain", "graders": [{"kind": "contains"}], "items": items}
    (tmp_path / "plain.yaml").write_text(json.dumps(suite))
    gates = [
        {"suite": "plain", "metric": "contains", "max_drop": 0.2},
        {"suite": "plain", "metric": "contains", "layer": "must_pass"},
        {"suite": "plain", "metric": "knowledge", "max_drop": 0.2},
        {"suite": "general", "metric": "knowledge", "max_drop": 0.2},
    ]
    few, metric, name = faults(tmp_path, gates, suites=["plain.yaml"])
    assert "12 items with contains in the suite plain, and it takes 16" in few
    assert "it has contains" in metric and "there are: plain" in name


def test_what_nothing_measures_is_told(tmp_path: Path) -> None:
    gates = [{"metric": "rouge_l", "min": 0.1}, {"metric": "latency_p95_s", "max": 2.0}, {"metric": "loss", "max": 9.0}]
    unmeasured, latency = faults(tmp_path, gates, rows=400, metrics=["exact_match"])
    assert "nothing measures rouge_l" in unmeasured and "raise eval.latency_rows" in latency


def test_a_misspelled_metric_is_told_where_the_rows_choose_the_metrics(tmp_path: Path) -> None:
    gates = [{"metric": "exakt_match", "min": 0.1}, {"metric": "latency_p50", "max": 9.0}]
    first, second = faults(tmp_path, gates)
    assert "did you mean exact_match" in first and "latency_p50_s" in second


OUTSIDE = {
    "a loss below 0": ({"metric": "loss", "max": -1}, "above 0"),
    "no loss at all": ({"metric": "loss", "max": 0}, "above 0"),
    "a least loss below 0": ({"metric": "loss", "min": -1}, "above 0"),
    "the value itself compared": ({"metric": "loss", "max": -1, "confidence": None}, "above 0"),
    "a latency below 0": ({"metric": "latency_p95_s", "max": -2}, "above 0"),
    "no tokens": ({"metric": "answer_tokens", "max": 0}, "above 0"),
    "a memory below 0": ({"metric": "peak_memory_gib", "max": -1, "confidence": None}, "above 0"),
    "a throughput below 0": ({"metric": "throughput_rps", "min": -1, "confidence": None}, "above 0"),
    "a perplexity below 1": ({"metric": "perplexity", "max": 0.5}, "1 or more"),
    "a divergence below 0": ({"metric": "kl", "max": -0.1}, "0 or more"),
    "a share in percent": ({"metric": "exact_match", "min": 95}, "from 0 to 1; 95 % is 0.95"),
    "a share above all": ({"metric": "exact_match", "max": 1.5}, "from 0 to 1"),
    "a share below all": ({"metric": "exact_match", "min": -0.1}, "from 0 to 1"),
    "graded marks": ({"metric": "chrf", "min": 60}, "from 0 to 1; 60 % is 0.6"),
    "a rate of habits": ({"metric": "refusal_rate", "max": 10}, "from 0 to 1; 10 % is 0.1"),
    "a clean stop": ({"metric": "clean_stop", "min": 99}, "from 0 to 1"),
    "calibration": ({"metric": "confidence", "max": 5}, "from 0 to 1"),
    "a mark of a rubric": ({"metric": "llm_judge", "min": 4}, "from 0 to 1; a judge's mark of 4 from 1 to 5 counts as"),
    "a drop in percent": ({"metric": "exact_match", "max_drop": 5}, "differ by at most 1; 5 % is 0.05"),
    "a gain in percent": ({"metric": "exact_match", "min_gain": 10, "confidence": None}, "differ by at most 1"),
    "a loss that is no gain": ({"metric": "exact_match", "min_gain": -2}, "differ by at most 1"),
    "every item": ({"metric": "exact_match", "layer": "must_pass", "min": 100}, "from 0 to 1"),
}


@pytest.mark.parametrize(("gate", "message"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_limit_that_the_metric_cannot_have_is_told_with_its_range(
    tmp_path: Path, gate: dict[str, Any], message: str
) -> None:
    (reason,) = faults(tmp_path, [gate], rows=400)
    assert gate["metric"] in reason and message in reason and "can never pass" not in reason


INSIDE: list[dict[str, Any]] = [
    {"metric": "loss", "max": 0.5},
    {"metric": "loss", "max_drop": 3.0},
    {"metric": "perplexity", "max": 40},
    {"metric": "answer_tokens", "max": 300},
    {"metric": "kl", "max": 0.05},
    {"metric": "loss_change", "max": -0.1},
    {"metric": "exact_match", "min": 0.5, "max": 0.9, "max_drop": 1.0},
    {"metric": "exact_match", "min": 0, "confidence": None},
    {"metric": "exact_match", "min": 1, "confidence": None},
    {"metric": "peak_memory_gib", "max": 80, "confidence": None},
]


@pytest.mark.parametrize("gate", INSIDE, ids=str)
def test_a_limit_in_the_range_of_its_metric_stands(tmp_path: Path, gate: dict[str, Any]) -> None:
    assert faults(tmp_path, [gate], rows=400) == []


def test_the_limits_of_suites_and_of_the_harness_have_ranges_too(tmp_path: Path) -> None:
    items = [{"id": str(number), "prompt": "2 + 2?", "reference": "4"} for number in range(60)]
    suite = {"suite_version": 1, "name": "plain", "graders": [{"kind": "contains"}], "items": items}
    (tmp_path / "plain.yaml").write_text(json.dumps(suite))
    harness = {"suite_version": 1, "name": "tasks", "sources": [{"lm_eval": ["arc.easy"], "include_path": "tasks"}]}
    (tmp_path / "tasks.yaml").write_text(json.dumps(harness))
    gates = [
        {"suite": "plain", "metric": "contains", "min": 90},
        {"suite": "plain", "metric": "contains", "layer": "must_pass", "min": 100},
        {"suite": "tasks", "metric": "arc.easy.acc_norm", "min": 60},
        {"suite": "tasks", "metric": "wiki.word_perplexity", "max": 0.5, "confidence": None},
        {"suite": "tasks", "metric": "arc.easy.acc_norm", "min": 0.6},
        {"suite": "tasks", "metric": "arc.easy.of_my_own", "min": 60},
    ]
    shares, every, harness_shares, perplexity = faults(tmp_path, gates, suites=["plain.yaml", "tasks.yaml"])
    assert all("from 0 to 1" in reason for reason in (shares, every, harness_shares)) and "1 or more" in perplexity


@pytest.mark.parametrize("name", sorted(path.name for path in (tiny.ROOT / "recipes").glob("*.yaml")))
def test_the_gates_of_shipped_recipes_can_pass(name: str) -> None:
    assert impossible_gates(load_recipe(tiny.ROOT / "recipes" / name), None) == []
