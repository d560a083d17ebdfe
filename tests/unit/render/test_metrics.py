from __future__ import annotations

import math
from typing import Any

import pytest

from tests.unit.render.facts import comparison, score, scores
from trainer.render.metrics import METRICS, write_difference, write_interval, write_value
from trainer.render.numbers import flatten, write_amount, write_duration, write_number
from trainer.render.scores.rows import score_rows, verdict
from trainer.shapes.scores import ArmComparison, Score, Scores

METRIC = "exact_match"


def scores_of(base: dict[str, Score], tuned: dict[str, Score], *comparisons: ArmComparison) -> Scores:
    return scores(arms={"base": base, "tuned": tuned}, comparisons=list(comparisons))


def entry(value: float, spread: float | None = 0.02) -> Score:
    return score(value) if spread is None else score(value, value - spread, value + spread)


@pytest.mark.parametrize(
    ("metric", "base", "tuned", "standing"),
    [
        ("exact_match", entry(0.5), entry(0.8), "better"),
        ("exact_match", entry(0.8), entry(0.5), "worse"),
        ("exact_match", entry(0.50), entry(0.51), "unclear"),
        ("exact_match", entry(0.5, None), entry(0.8, None), "unclear"),
        ("loss", entry(1.2), entry(0.5), "better"),
        ("loss", entry(0.5), entry(1.2), "worse"),
        ("made_up", entry(0.5), entry(0.8), "unclear"),
    ],
)
def test_the_standing_follows_the_good_direction(metric: str, base: Any, tuned: Any, standing: str) -> None:
    assert score_rows(scores_of({metric: base}, {metric: tuned}))[0].standing == standing


def test_a_tested_difference_overrules_overlapping_intervals() -> None:
    tested = comparison(METRIC, 0.03, 0.01, 0.05)
    row = score_rows(scores_of({METRIC: entry(0.50, 0.04)}, {METRIC: entry(0.53, 0.04)}, tested))[0]
    assert (row.standing, row.low, row.high) == ("better", 0.01, 0.05)


def test_known_metrics_come_first_in_the_order_of_the_tables() -> None:
    arm = {key: entry(0.5) for key in ("made_up", "loss", "exact_match")}
    assert [row.metric.key for row in score_rows(scores_of(arm, arm))] == ["exact_match", "loss", "made_up"]


def test_the_verdict_names_both_values_and_the_gain() -> None:
    text = verdict(scores_of({METRIC: entry(0.61)}, {METRIC: entry(0.845)}))
    assert text == "The tuned model beats the base model: exact match 84.5% against 61.0%, +23.5 points."


@pytest.mark.parametrize("arms", [{}, {"base": {}}])
def test_without_scores_the_verdict_says_so(arms: dict[str, dict[str, Score]]) -> None:
    assert verdict(scores(arms=arms)) == "Not scored yet."


def test_latency_alone_gives_no_verdict() -> None:
    assert "cannot be compared" in verdict(scores_of({"latency_p50_s": entry(1)}, {"latency_p50_s": entry(2)}))


def test_a_score_that_is_not_finite_is_not_a_score() -> None:
    assert score_rows(scores_of({METRIC: entry(math.nan)}, {METRIC: entry(math.inf)})) == []


def test_values_are_written_in_their_unit() -> None:
    assert write_value(METRICS["exact_match"], 0.845) == "84.5%"
    assert write_value(METRICS["loss"], 0.41249) == "0.412"
    assert write_value(METRICS["latency_p50_s"], 0.384) == "0.38"
    assert write_difference(METRICS["exact_match"], -0.0123) == "\u22121.2 points"
    assert write_difference(METRICS["loss"], 0.5) == "+0.500"
    assert write_interval(METRICS["exact_match"], 0.819, 0.87) == "81.9 to 87.0"
    assert write_interval(METRICS["exact_match"], 0.819, None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (90000, "25 h 00 min"),
        (None, "\u2013"),
        (math.nan, "\u2013"),
    ],
)
def test_durations_carry_over(seconds: float | None, text: str) -> None:
    assert write_duration(seconds) == text


def test_numbers_are_grouped_and_what_is_none_is_a_dash() -> None:
    assert [write_number(value) for value in (1234567, 0.123456, -2, True, None, math.inf, "x")] == [
        "1,234,567",
        "0.1235",
        "\u22122",
        "yes",
        "\u2013",
        "\u2013",
        "x",
    ]


def test_flatten_gives_every_leaf_its_dotted_key() -> None:
    assert list(flatten({"gpu": {"name": "H200"}, "ids": [0, 1]})) == [("gpu.name", "H200"), ("ids", "0, 1")]


def test_amounts_have_cents_or_two_digits() -> None:
    written = [write_amount(value) for value in (1234.5, 0.104, 0.00114, 0, None)]
    assert written == ["1,234.50", "0.10", "0.0011", "0.00", "–"]
