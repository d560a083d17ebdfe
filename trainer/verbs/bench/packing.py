"""Compare packers: ours over the whole data set, and TRL's best-fit-decreasing as its users call it.

TRL's packer moves the tokens while it plans, ours hands out row numbers and moves nothing; the tokens that TRL is
given are one column of int32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.tokens.pack import pack_rows
from trainer.verbs.bench import clock
from trainer.verbs.bench.shapes import SEED

CAPACITY = 2048
MEDIAN_LENGTH = 180
SPREAD = 0.9
SHORTEST = 8

Lengths = np.ndarray[Any, np.dtype[np.int64]]
Packed = tuple[float, Lengths, Lengths]
"""Seconds, the lengths in packed order, and the rows of each pack."""


def lengths(count: int) -> Lengths:
    """Draw lengths of rows, log-normal as those of conversations are; the first 200,000 of a million are the same."""
    drawn = np.random.default_rng(SEED).lognormal(np.log(MEDIAN_LENGTH), SPREAD, size=count)
    return np.clip(drawn, SHORTEST, CAPACITY).astype(np.int64)


def measure(packer: str, count: int) -> dict[str, Any]:
    """Pack `count` lengths and prove that every row is there once and no pack is too long.

    Returns:
        `seconds` (cpu), `rows`, `packs`, `fill` (share of the packs that holds tokens), `peak_bytes`, `problem`.
    """
    row_lengths = lengths(count)
    seconds, packed, rows_of_pack = PACKERS[packer](row_lengths)
    ends = np.cumsum(rows_of_pack)  # pack i holds rows ends[i - 1] to ends[i] of `packed`
    sums = np.add.reduceat(packed, np.concatenate([[0], ends[:-1]]))
    problem = None
    if not np.array_equal(np.sort(packed), np.sort(row_lengths)):
        problem = "the packs do not hold every row once"
    elif sums.max() > CAPACITY:
        problem = f"a pack holds {sums.max()} tokens, {CAPACITY} are allowed"
    return {
        "seconds": seconds,
        "rows": count,
        "packs": len(rows_of_pack),
        "fill": float(sums.sum() / (len(rows_of_pack) * CAPACITY)),
        "peak_bytes": clock.peak_bytes(),
        "problem": problem,
    }


def _ours(row_lengths: Lengths) -> Packed:
    start = time.process_time()
    plan = pack_rows(np.arange(len(row_lengths)), row_lengths, capacity=CAPACITY)
    seconds = time.process_time() - start
    rows = np.asarray(plan.rows)
    if not np.array_equal(np.sort(rows), np.arange(len(row_lengths))):
        return seconds, np.empty(0, dtype=np.int64), np.diff(plan.offsets)
    return seconds, row_lengths[rows], np.diff(plan.offsets)


def _trl_table(row_lengths: Lengths) -> Packed:
    from trl.data_utils import _pack_bfd  # noqa: PLC0415  only the process that measures TRL imports it

    table = _dataset(row_lengths).data.table
    start = time.process_time()
    packed = _pack_bfd(table, CAPACITY)
    seconds = time.process_time() - start
    return seconds, *_seq_lengths(packed["seq_lengths"])


def _trl(row_lengths: Lengths) -> Packed:
    from trl import pack_dataset  # noqa: PLC0415  only the process that measures TRL imports it

    dataset = _dataset(row_lengths)
    start = time.process_time()
    packed = pack_dataset(dataset, CAPACITY, "bfd")
    seconds = time.process_time() - start
    return seconds, *_seq_lengths(packed.data.table["seq_lengths"])


def _dataset(row_lengths: Lengths) -> Any:
    """Return rows of these lengths as a datasets.Dataset that shares one buffer."""
    import pyarrow as pa  # noqa: PLC0415
    from datasets import Dataset  # noqa: PLC0415  only the process that measures TRL imports it

    offsets = pa.array(np.concatenate([[0], np.cumsum(row_lengths)]), type=pa.int32())
    tokens = pa.array(np.zeros(int(row_lengths.sum()), dtype=np.int32))
    return Dataset(pa.table({"input_ids": pa.ListArray.from_arrays(offsets, tokens)}))


def _seq_lengths(column: Any) -> tuple[Lengths, Lengths]:
    nested = column.combine_chunks()
    return np.asarray(nested.flatten(), dtype=np.int64), np.asarray(nested.value_lengths(), dtype=np.int64)


PACKERS: dict[str, Callable[[Lengths], Packed]] = {"ours": _ours, "trl": _trl, "trl-whole-table": _trl_table}
