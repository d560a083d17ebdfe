from __future__ import annotations

import math

import pytest

from trainer.decide.cost import (
    ArmCost,
    break_even,
    cost_per_accepted,
    cost_per_day,
    cost_per_request,
    hosted,
    num_replicas,
    one_off_cost,
    token_cost,
)
from trainer.recipe.decide import Hosting, Prices, TokenPrice

BIG = TokenPrice(input_per_million=2.5, output_per_million=10.0, cached_input_per_million=0.25)
MINI = TokenPrice(input_per_million=0.15, output_per_million=0.6)
FULL = Hosting(utilisation=1.0)


def dearer_volumes(arm: ArmCost, second: ArmCost, days: float, up_to: int, step: int) -> list[int]:
    """Return the volumes at which `arm` is not cheaper, by trying them."""
    return [
        volume
        for volume in range(step, up_to, step)
        if cost_per_day(arm, volume, days) >= cost_per_day(second, volume, days)
    ]


@pytest.mark.parametrize(
    ("prompt", "cached", "price", "expected"),
    [(1700, 0, BIG, 3975), (1700, 1425, BIG, 10210), (1700, 0, MINI, 66243), (300, 0, MINI, 198730)],
    ids=["4.0k", "10.2k", "66k", "199k"],
)
def test_break_even_of_the_four_worked_cases(prompt: int, cached: int, price: TokenPrice, expected: int) -> None:
    """One GPU at 0.80 an hour and 150 once over 90 days, against 100 answer tokens a request."""
    tuned = hosted(100.0, 0.8, Hosting(), one_off=150.0)
    result = break_even(tuned, ArmCost(token_cost(prompt, cached, 100, price)), 90)
    assert result.requests_per_day == pytest.approx(expected, abs=1) and result.replicas == 1


def test_an_endpoint_charges_cached_prompt_tokens_at_their_own_price() -> None:
    assert token_cost(1000, 400, 0, BIG) == pytest.approx((600 * 2.5 + 400 * 0.25) / 1e6)
    assert token_cost(1000, 400, 0, MINI) == pytest.approx(1000 * 0.15 / 1e6)
    assert token_cost(1000, 4000, 0, BIG) == pytest.approx(1000 * 0.25 / 1e6)
    assert token_cost(1000, 0, 100, BIG, discount=0.5) == pytest.approx(token_cost(1000, 0, 100, BIG) / 2)


def test_replicas_are_a_step_function_of_the_volume() -> None:
    one_a_second = hosted(1.0, 1.0, FULL)
    counts = [num_replicas(one_a_second, volume) for volume in (1, 86_400, 86_401, 172_800, 172_801)]
    assert counts == [1, 1, 2, 2, 3]
    assert num_replicas(ArmCost(0.01), 1e9) == 0


def test_replicas_run_and_are_paid_only_in_their_hours() -> None:
    half = hosted(1.0, 2.0, Hosting(utilisation=0.5, hours_per_day=12, gpus_per_replica=2))
    assert half.capacity_per_day == 0.5 * 12 * 3600 and half.per_replica_day == 2 * 2.0 * 12


def test_several_crossings_give_the_last_one_and_the_first_apart() -> None:
    tuned, second = hosted(0.05, 0.8, FULL, one_off=150.0), ArmCost(0.00525)
    crossing = break_even(tuned, second, 90)
    dearer = dearer_volumes(tuned, second, 90, 60_000, 5)
    assert crossing.first is not None and crossing.requests_per_day is not None
    assert max(dearer) <= crossing.requests_per_day <= max(dearer) + 5
    assert 4000 not in dearer and crossing.first < 4000 and max(dearer) > 20_000  # cheaper, dearer, cheaper for good
    assert crossing.replicas == 6


def test_two_hosted_arms_cross_where_the_slower_one_needs_more_replicas() -> None:
    tuned, slow = hosted(1.0, 1.0, FULL, one_off=900.0), hosted(0.4, 1.0, FULL)
    crossing = break_even(tuned, slow, 90)
    dearer = dearer_volumes(tuned, slow, 90, 600_000, 40)
    assert crossing.requests_per_day is not None and max(dearer) <= crossing.requests_per_day <= max(dearer) + 40


def test_tuning_never_pays_when_a_full_replica_costs_more_than_its_requests() -> None:
    crossing = break_even(hosted(0.01, 0.8, FULL, one_off=150.0), ArmCost(0.00525), 90)
    assert crossing.requests_per_day is None and crossing.first is None


def test_tuning_can_be_cheaper_for_a_while_and_never_stay_so() -> None:
    large = ArmCost(0.0, per_replica_day=24.0, capacity_per_day=100_000)
    small = ArmCost(0.0, per_replica_day=7.0, capacity_per_day=30_000)  # cheaper by the request, in smaller steps
    crossing = break_even(large, small, 90)
    assert crossing.requests_per_day is None
    assert crossing.first == 90_000  # four small ones for 28 against one large one for 24


def test_an_arm_that_costs_less_in_every_way_breaks_even_at_once() -> None:
    crossing = break_even(ArmCost(0.001), ArmCost(0.002, one_off=10.0), 90)
    assert crossing.requests_per_day == 0.0


def test_the_same_arm_is_never_cheaper_than_itself() -> None:
    for arm in (hosted(1.0, 1.0, FULL), ArmCost(0.01)):
        assert break_even(arm, arm, 90).requests_per_day is None


def test_an_invalid_answer_costs_its_fall_back() -> None:
    assert cost_per_accepted(0.01, 0.9, 0.05, 0.8) == pytest.approx((0.01 + 0.1 * 0.05) / 0.8)
    assert cost_per_accepted(0.01, 0.9, 0.05, 0.0) is None


def test_without_a_volume_a_request_costs_its_share_of_a_full_replica() -> None:
    arm = hosted(1.0, 1.0, FULL, one_off=1000.0)
    assert cost_per_request(arm, None, 90) == pytest.approx(24 / 86_400)
    assert cost_per_request(arm, 1000, 90) == pytest.approx((24 + 1000 / 90) / 1000)
    assert math.isfinite(cost_per_request(ArmCost(0.02), None, 90))


def test_what_is_paid_once_is_training_labels_and_work() -> None:
    prices = Prices(as_of="2026-11-01", gpu_hour=2.0, labelling=100.0, development_hours=3.0, development_hourly=50.0)
    assert one_off_cost(prices, 1.5) == 3.0 + 100.0 + 150.0
