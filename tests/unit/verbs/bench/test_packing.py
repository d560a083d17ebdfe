"""Comparison of packers."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.verbs.bench import packing
from trainer.verbs.bench.packing import CAPACITY, PACKERS, Lengths, Packed, measure


def test_ours_and_trl_fill_a_whole_table_with_the_same_packs() -> None:
    ours, trl = (measure(name, 5000) for name in ("ours", "trl-whole-table"))
    assert ours["problem"] is trl["problem"] is None
    assert ours["packs"] == trl["packs"] <= measure("trl", 5000)["packs"]


def test_a_packer_that_loses_a_row_or_overfills_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def loses_one(request: Lengths) -> Packed:
        return 1.0, request[1:], np.ones(len(request) - 1, dtype=np.int64)

    def overfills(request: Lengths) -> Packed:
        return 1.0, request, np.array([len(request)])

    monkeypatch.setitem(PACKERS, "loses", loses_one)
    monkeypatch.setitem(PACKERS, "overfills", overfills)
    assert "every row once" in measure("loses", 100)["problem"]
    assert f"{CAPACITY} are allowed" in measure("overfills", 100)["problem"]


def test_lengths_are_seeded_and_fit() -> None:
    request = packing.lengths(1000)
    assert np.array_equal(request, packing.lengths(1000)) and request.min() >= 8 and request.max() <= CAPACITY
