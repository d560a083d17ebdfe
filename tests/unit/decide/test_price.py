from __future__ import annotations

from typing import Any

import pytest

from trainer.decide.price import is_measured, price_of, with_price


def score(value: float, low: float, high: float, n: int = 32) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


def scores(leak: tuple[float, float] = (0.0, 0.0), drop: float = 0.0, holm: float = 0.001) -> dict[str, Any]:
    """Return scores with a leak before and after, and a suite whose knowledge fell by `drop`."""
    rates = {
        arm: score(rate, max(0.0, rate - 0.1), rate + 0.1) for arm, rate in zip(("base", "tuned"), leak, strict=True)
    }
    results = {"arm": "tuned", "vs": "base", "metric": "knowledge", "difference": -drop, "n": 60, "holm_p_value": holm}
    return {
        "retention": {"format_leak_rate": rates, "comparisons": []},
        "suites": {
            "general": {
                "metrics": {"knowledge": {"unit": "share", "better": "higher"}},
                "arms": {"base": {"knowledge": score(0.6, 0.5, 0.7)}, "tuned": {"knowledge": score(0.6 - drop, 0, 1)}},
                "comparisons": [results | {"low": -drop - 0.1, "high": -drop + 0.1}],
            }
        },
    }


def test_no_damage_has_no_price() -> None:
    assert price_of(scores()) == [] and is_measured(scores())
    assert with_price("Tune: a.", "tune", []) == "Tune: a."


def test_a_leak_and_a_lost_ability_are_told_the_larger_first() -> None:
    leak, lost = price_of(scores(leak=(0.0, 0.625), drop=0.3))
    assert (leak["metric"], leak["before"], leak["after"]) == ("format_leak_rate", 0.0, 0.625)
    assert (lost["suite"], lost["metric"]) == ("general", "knowledge") and "from 60.0% to 30.0%" in lost["sentence"]
    message = with_price("Tune: a.", "tune", [leak, lost])
    assert message.startswith("Tune: a. Its price: 62.5% of 32 general prompts are answered in the form of the task")
    assert with_price("Do not tune: b.", "do_not_tune", [leak]) == "Do not tune: b."


@pytest.mark.parametrize(
    "comparison",
    [scores(leak=(0.6, 0.625)), scores(drop=0.05), scores(drop=0.3, holm=0.2)],
    ids=["as before", "small", "one of many"],
)
def test_what_is_not_shown_is_no_damage(comparison: dict[str, Any]) -> None:
    assert price_of(comparison) == []


def test_where_nobody_looked_it_says_so() -> None:
    assert not is_measured({"retention": None, "suites": {}})
