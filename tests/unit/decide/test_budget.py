from __future__ import annotations

import pytest

from trainer.decide.budget import (
    ASSUMED,
    ArmUse,
    arm_costs,
    break_evens,
    curve,
    make_budget,
    sensitivity,
    with_assumed_tuning,
)
from trainer.recipe.decide import DecideSection, Hosting, Prices, TokenPrice


def use(name: str, model: str = "base", **changes: object) -> ArmUse:
    fields: dict[str, object] = {
        "name": name,
        "model": model,
        "endpoint": None,
        "prompt_tokens": 1700.0,
        "shared_prefix_tokens": 1425.0,
        "answer_tokens": 100.0,
        "throughput_rps": 100.0,
        "valid": 0.9,
        "correct": 0.8,
    }
    return ArmUse(**{**fields, **changes})  # type: ignore[arg-type]


BIG = TokenPrice(input_per_million=2.5, output_per_million=10.0, cached_input_per_million=0.25)
PRICES = Prices(as_of="2026-11-01", gpu_hour=0.8, labelling=150.0, endpoints={"large-model": BIG})
USES = {"tuned": use("tuned", "tuned"), "big": use("big", "endpoint", endpoint="large-model")}


def section(**changes: object) -> DecideSection:
    return DecideSection.model_validate({"prices": PRICES, **changes})


def test_the_worked_case_with_a_cached_prefix() -> None:
    crossing = break_evens(make_budget(section(), USES, 0.0), "tuned")
    assert crossing["big"]["requests_per_day"] == pytest.approx(10210, abs=1)
    uncached = break_evens(make_budget(section(cache_prompts=False), USES, 0.0), "tuned")
    assert uncached["big"]["requests_per_day"] == pytest.approx(3975, abs=1)


def test_each_price_moves_the_break_even_its_way() -> None:
    entries = {entry["price"]: entry for entry in sensitivity(make_budget(section(), USES, 0.0), "tuned", "big")}
    assert set(entries) == {
        "gpu_hour",
        "labelling",
        "endpoints.large-model.input_per_million",
        "endpoints.large-model.cached_input_per_million",
        "endpoints.large-model.output_per_million",
    }
    gpu, tokens = entries["gpu_hour"], entries["endpoints.large-model.input_per_million"]
    assert gpu["x0.5"] < gpu["x2"] < gpu["x10"] and tokens["x0.5"] > tokens["x2"] > tokens["x10"]
    daily = 20.8666667
    assert tokens["x10"] == pytest.approx(daily / ((275 * 25 + 1425 * 0.25 + 1000) / 1e6), rel=1e-6)


def test_without_prices_no_arm_has_a_cost() -> None:
    budget = make_budget(DecideSection(), USES, 0.0)
    assert arm_costs(budget) == {name: {"missing": "no prices in the recipe"} for name in USES}
    assert break_evens(budget, "tuned") == {} and sensitivity(budget, "tuned", "big") == []
    assert curve(budget, None) == {"volumes": [], "arms": {}}


@pytest.mark.parametrize(
    ("prices", "arm", "message"),
    [
        (Prices(as_of="2026-11-01"), use("tuned", "tuned"), "gpu_hour"),
        (PRICES, use("tuned", "tuned", throughput_rps=None), "requests_per_second"),
        (PRICES, use("other", "endpoint"), "decide.prices.endpoints.other"),
        (PRICES, use("big", "endpoint", endpoint="large-model", prompt_tokens=None), "no tokens"),
    ],
)
def test_an_arm_without_a_cost_says_what_is_missing(prices: Prices, arm: ArmUse, message: str) -> None:
    assert message in arm_costs(make_budget(section(prices=prices), {arm.name: arm}, 0.0))[arm.name]["missing"]


def test_an_invalid_answer_costs_what_the_fall_back_arm_costs() -> None:
    numbers = arm_costs(make_budget(section(requests_per_day=10_000.0, fallback="big"), USES, 0.0))
    big, tuned = numbers["big"]["per_1000"] / 1000, numbers["tuned"]["per_1000"] / 1000
    assert numbers["tuned"]["per_accepted"] == pytest.approx((tuned + 0.1 * big) / 0.8)
    missing = arm_costs(make_budget(section(fallback="nobody"), USES, 0.0))
    assert missing["tuned"]["per_accepted"] is None


def test_a_month_is_a_twelfth_of_a_year_at_the_stated_volume() -> None:
    numbers = arm_costs(make_budget(section(requests_per_day=10_000.0), USES, training_hours=10.0))["tuned"]
    assert numbers["one_off"] == 150 + 10 * 0.8
    assert numbers["per_month"] == pytest.approx(numbers["per_day"] * 365 / 12)
    assert numbers["per_1000"] == pytest.approx(numbers["per_day"] / 10)


def test_stated_throughput_comes_before_the_measured_one() -> None:
    stated = section(hosting=Hosting(requests_per_second={"tuned": 1.0}))
    budget = make_budget(stated, {**USES, "base": use("base")}, 0.0)
    assert budget.costs["tuned"].capacity_per_day == pytest.approx(0.6 * 86_400)
    assert budget.costs["base"].capacity_per_day == pytest.approx(60 * 86_400)


def test_before_training_the_base_model_stands_in_for_a_tuned_one() -> None:
    before = {"base": use("base", throughput_rps=3.0), "big": USES["big"]}
    uses = with_assumed_tuning(before)
    assert uses[ASSUMED].model == "tuned" and uses[ASSUMED].throughput_rps == 3.0 and uses[ASSUMED].correct is None
    assert break_evens(make_budget(section(), uses, 0.0), ASSUMED)["big"]["requests_per_day"] > 0
    assert with_assumed_tuning(USES) == USES


def test_the_curve_spans_what_matters_and_rises() -> None:
    drawn = curve(make_budget(section(requests_per_day=50.0), USES, 0.0), 2e6)
    assert drawn["volumes"][0] < 50 / 20 and drawn["volumes"][-1] > 2e6 * 20
    for costs in drawn["arms"].values():
        assert costs == sorted(costs)
