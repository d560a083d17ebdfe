"""Packs: every row whole and once, none over the capacity, best fit."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from trainer.errors import StageError
from trainer.tokens.arrays import write_arrays
from trainer.tokens.pack import PackPlan, one_by_one, pack_rows


def best_fit_decreasing(rows: list[int], lengths: list[int], capacity: int) -> list[list[int]]:
    """Look through all packs for the fullest that still takes the row."""
    packs: list[list[int]] = []
    for row in sorted(rows, key=lambda row: -lengths[row]):
        used = {index: sum(lengths[second] for second in pack) for index, pack in enumerate(packs)}
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


def test_no_rows_are_no_packs() -> None:
    assert unpacked(pack_rows([], np.array([3]), capacity=8)) == unpacked(one_by_one([])) == []


@pytest.mark.parametrize(("capacity", "seed"), [(64, 0), (512, 1), (2048, 2), (2048, 3)])
def test_there_are_as_many_packs_as_trl_makes_of_one_table(capacity: int, seed: int) -> None:
    import pyarrow as pa
    from trl.data_utils import _pack_bfd

    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(4.5, 1.0, 3000).astype(np.int64), 1, capacity)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    column = pa.LargeListArray.from_arrays(offsets, pa.array(np.zeros(offsets[-1], dtype=np.int32)))
    theirs = _pack_bfd(pa.table({"input_ids": column}), capacity)
    ours = pack_rows(np.arange(3000), lengths, capacity=capacity)
    assert len(ours) == len(theirs)
    filled = np.add.reduceat(lengths[ours.rows], ours.offsets[:-1])
    assert sorted(filled.tolist()) == sorted(map(len, theirs["input_ids"].to_pylist()))


@pytest.mark.parametrize("capacity", [2048, 32768])
def test_a_million_rows_are_planned_in_a_second(capacity: int) -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.3 if capacity == 2048 else 7.0, 1.0, 1_000_000).astype(np.int64), 8, capacity)
    rows = np.arange(1_000_000, dtype=np.int32)
    start = time.process_time()
    packs = pack_rows(rows, lengths, capacity=capacity)
    assert time.process_time() - start < 1.0
    filled = np.add.reduceat(lengths[packs.rows], packs.offsets[:-1])
    assert filled.max() <= capacity and filled.sum() > 0.999 * capacity * len(packs)
    assert np.array_equal(np.sort(packs.rows), rows)


@pytest.mark.parametrize(
    "packs", [pack_rows([2, 0, 1], np.array([1, 1, 2]), capacity=2), one_by_one([3]), one_by_one([])]
)
def test_a_plan_reads_back_and_its_file_has_the_same_bytes(tmp_path: Path, packs: PackPlan) -> None:
    for name in ("a", "b"):
        packs.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert unpacked(PackPlan.load(tmp_path / "a")) == unpacked(packs)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_another_file_is_no_plan(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", {"rows": np.zeros(2, dtype=np.int32), "offsets": np.array([0, 1])}, {})
    with pytest.raises(StageError, match="it is no plan of packs"):
        PackPlan.load(tmp_path / "a")
