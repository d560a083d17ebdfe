"""Packs: every row whole and once, none over the capacity, best fit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from trainer.tokens.pack import PackPlan, one_by_one, pack_rows, plan


def best_fit_decreasing(rows: list[int], lengths: list[int], capacity: int) -> list[list[int]]:
    """Look through all packs for the fullest that still takes the row."""
    packs: list[list[int]] = []
    for row in sorted(rows, key=lambda row: -lengths[row]):
        used = {index: sum(lengths[other] for other in pack) for index, pack in enumerate(packs)}
        fitting = [index for index, total in used.items() if total + lengths[row] <= capacity]
        if fitting:
            packs[max(fitting, key=lambda index: used[index])].append(row)
        else:
            packs.append([row])
    return packs


def unpacked(packs: PackPlan) -> list[list[int]]:
    return [packs[index] for index in range(len(packs))]


def totals(packs: list[list[int]], lengths: list[int]) -> list[int]:
    return sorted(sum(lengths[row] for row in pack) for pack in packs)


@pytest.mark.parametrize("seed", range(40))
def test_packing_is_best_fit_decreasing_with_every_row_once(seed: int) -> None:
    rng = random.Random(seed)
    capacity = rng.randint(1, 60)
    lengths = [rng.randint(1, rng.randint(1, capacity)) for _ in range(rng.randint(1, 120))]
    rows = rng.sample(range(len(lengths)), rng.randint(1, len(lengths)))
    packs = unpacked(pack_rows(rows, np.array(lengths), capacity=capacity))
    assert sorted(row for pack in packs for row in pack) == sorted(rows)
    assert max(totals(packs, lengths)) <= capacity
    assert totals(packs, lengths) == totals(best_fit_decreasing(rows, lengths, capacity), lengths)


def test_the_worked_example() -> None:
    lengths = np.array([5, 3, 4, 4, 6])
    assert unpacked(pack_rows([0, 1, 2, 3, 4], lengths, capacity=8)) == [[4], [0, 1], [2, 3]]


def test_a_repeated_row_is_packed_each_time() -> None:
    packs = unpacked(pack_rows([0, 0, 1, 0], np.array([3, 2]), capacity=6))
    assert sorted(row for pack in packs for row in pack) == [0, 0, 0, 1]


def test_the_same_rows_give_the_same_packs() -> None:
    lengths = np.array([random.Random(1).randint(1, 9) for _ in range(50)])
    first, second = (pack_rows(list(range(50)), lengths, capacity=16) for _ in range(2))
    assert unpacked(first) == unpacked(second)


def test_a_row_over_the_capacity_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        pack_rows([0], np.array([9]), capacity=8)


def test_one_by_one_keeps_rows_apart_and_in_order() -> None:
    assert unpacked(one_by_one([2, 0, 2])) == [[2], [0], [2]]


@pytest.mark.parametrize("packs", [[[1, 0], [2]], [[0]], []])
def test_a_plan_reads_back_and_its_file_has_the_same_bytes(tmp_path: Path, packs: list[list[int]]) -> None:
    for name in ("a", "b"):
        plan(packs).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert unpacked(PackPlan.load(tmp_path / "a")) == packs
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
