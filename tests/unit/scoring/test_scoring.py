"""Graders, statistics, gates and agreement, against values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainer.export.agreement import agreement
from trainer.scoring.graders import exact_match, is_json, mostly_json
from trainer.scoring.statistics import comparisons, intervals


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('{"chapter": 9}', True),
        ("[1, 2]", True),
        (' {"a": null}\n', True),
        ("9", False),
        ('"text"', False),
        ('{"a": NaN}', False),
        ('{"a": 1} and more', False),
        ("```json\n{}\n```", False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_valid_json_is_one_whole_object_or_list(text: str, valid: bool) -> None:
    assert is_json(text) is valid


def test_outer_space_alone_is_no_mistake() -> None:
    assert exact_match(" yes\n", "yes") and not exact_match("Yes", "yes") and not exact_match("y es", "yes")
    assert mostly_json(["{}", "[]", "no"]) and not mostly_json(["{}", "no"]) and not mostly_json([])


def test_wilson_interval_has_the_published_values() -> None:
    # Newcombe 1998, table I, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E
    for hits, n, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        score = intervals.proportion(np.array([1.0] * hits + [0.0] * (n - hits)))
        assert (score["low"], score["high"]) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
        assert score["value"] == hits / n and score["n"] == n


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(5, 0, 0.0625), (4, 0, 0.125), (0, 0, 1.0), (3, 3, 1.0), (8, 1, 0.0390625)]
)
def test_mcnemar_is_the_exact_binomial(wins: int, losses: int, p: float) -> None:
    first = np.array([1.0] * wins + [0.0] * losses + [1.0, 0.0])
    second = np.array([0.0] * wins + [1.0] * losses + [1.0, 0.0])
    assert comparisons.mcnemar(first, second) == pytest.approx(p)


def test_ratio_weighs_tokens_and_not_rows() -> None:
    score = intervals.ratio(np.array([1.0, 30.0]), np.array([1.0, 10.0]))
    assert score["value"] == pytest.approx(31 / 11) and score["low"] <= score["value"] <= score["high"]
    again = intervals.ratio(np.array([1.0, 30.0]), np.array([1.0, 10.0]))
    assert score == again


def test_agreement_of_equal_and_of_known_logits() -> None:
    torch.manual_seed(0)
    logits = [torch.randn(5, 7, dtype=torch.float64) for _ in range(2)]
    same = agreement(logits, logits)
    assert (same.max_logit_diff, same.mean_kl, same.top1_agreement, same.num_positions) == (0.0, 0.0, 1.0, 10)
    p, q = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.4, 0.6]]).log()
    divergence = agreement([p], [q])
    assert divergence.mean_kl == pytest.approx(0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6), abs=1e-6)
    assert divergence.top1_agreement == 0.0


def test_agreement_lets_no_nan_pass() -> None:
    broken = torch.zeros(3, 4)
    broken[1, 2] = math.nan
    divergence = agreement([torch.zeros(3, 4)], [broken])
    assert not divergence.max_logit_diff <= 1.0 and not divergence.mean_kl <= 1.0
