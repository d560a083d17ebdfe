"""Figures, and what makes them count."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainer.verbs.bench.verdict import EngineMeasurements, problems, rates, ratios, seconds_per_row

FLOPS = 1e9
WEIGHTS = 1000


def answer(**changes: Any) -> dict[str, Any]:
    return {
        "seconds": 2.0,
        "reference_seconds": 1.0,
        "rows": 4,
        "distinct_rows": 4,
        "tokens": 400,
        "supervised_tokens": 100,
        "losses": [1.0, 0.5],
        "grad_norms": [2.0, 1.0],
        **changes,
    }


def measured(name: str = "peer", precision: str = "float32", **changes: Any) -> EngineMeasurements:
    return EngineMeasurements(name, "", check=answer(**changes), rounds={"counted": [answer()]}, precision=precision)


REFERENCE = measured("reference")


def test_equal_work_counts() -> None:
    assert problems(measured(), REFERENCE) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grad_norms": [2.0, 0.0]}, "learns nothing"),
        ({"grad_norms": [2.0, math.nan]}, "not finite"),
        ({"losses": [1.0, 0.502]}, "losses differ"),
        ({"losses": [1.0, math.nan]}, "losses differ"),
        ({"losses": [1.0]}, "losses differ"),
        ({"grad_norms": [2.0, 1.02]}, "grad_norms differ"),
        ({"supervised_tokens": 99}, "99 supervised_tokens"),
        ({"tokens": 401}, "401 tokens"),
    ],
)
def test_other_work_does_not_count(changes: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in problems(measured(**changes), REFERENCE))


def test_bfloat16_may_differ_more_than_float32() -> None:
    near = {"losses": [1.01, 0.505]}
    assert problems(measured(precision="bfloat16", **near), REFERENCE) == []
    assert problems(measured(**near), REFERENCE)


def test_a_gradient_that_vanishes_in_one_timed_round_is_found() -> None:
    item = measured()
    item.rounds["counted"].append(answer(grad_norms=[0.0, 0.0]))
    assert any("learns nothing" in problem for problem in problems(item, REFERENCE))


def test_an_engine_that_failed_says_why() -> None:
    assert problems(EngineMeasurements("peer", "", error="no such module"), REFERENCE) == ["no such module"]


def test_the_reference_is_paid_once_for_each_row_of_an_epoch() -> None:
    twice = answer(rows=8, distinct_rows=4)  # four rows trained a second time to fill the last step
    assert seconds_per_row(twice, "counted") == 2.0 / 8 + 1.0 / 4
    assert seconds_per_row(twice, "left_out") == 2.0 / 8


def test_rates_are_those_of_the_median_round() -> None:
    rounds = [answer(seconds=seconds) for seconds in (1.0, 9.0, 2.0)]
    actual = rates(rounds, "left_out", linear_weights=WEIGHTS, flops=FLOPS)
    assert actual["rows_per_s"] == 2.0 and actual["tokens_per_s"] == 200.0 and actual["supervised_tokens_per_s"] == 50.0
    assert actual["mfu"] == pytest.approx(4 * WEIGHTS * 200.0 / FLOPS)


def test_ratios_are_ours_over_each_other() -> None:
    assert ratios({"ours": {"rows_per_s": 6.0}, "peer": {"rows_per_s": 2.0}}, "ours", rate="rows_per_s") == {
        "peer": 3.0
    }
    assert ratios({"peer": {}}, "ours", rate="rows_per_s") == {}
