"""All layouts ask for the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainer.engine.batch import Batch, of_pairs, of_rows

ROWS = [
    (np.arange(10, 16), np.array([0, 0, 1, 1, 0, 1])),
    (np.arange(20, 23), np.array([1, 1, 1])),
    (np.arange(30, 32), np.array([0, 0])),
]
PAIR = (np.array([1, 2, 3]), np.array([4, 5]), np.array([6, 7, 8]))


def asked(batch: Batch) -> list[tuple[int, int, int]]:
    """Return (owner, token before, token) of each target."""
    targets, ids = batch["targets"], batch["inputs"]["input_ids"].flatten()
    return list(zip(targets.owner.tolist(), ids[targets.positions].tolist(), targets.ids.tolist(), strict=True))


@pytest.mark.parametrize("layout", ["flat", "positions", "padded"])
def test_the_token_before_predicts_a_trained_token(layout: Any) -> None:
    items = [ROWS] if layout == "positions" else [[row] for row in ROWS]
    batch = of_rows(items, layout, 0)
    # the first token of a row has nothing before it
    assert asked(batch) == [(0, 11, 12), (0, 12, 13), (0, 14, 15), (1, 20, 21), (1, 21, 22)]
    assert batch["targets"].lengths.tolist() == [3, 2, 0]


def test_a_flat_batch_has_no_padding() -> None:
    batch = of_rows([ROWS[:2], ROWS[2:]], "flat", 0)
    inputs = batch["inputs"]
    assert inputs["input_ids"].shape == (1, 11) and "attention_mask" not in inputs
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 0, 1]]
    assert [(span.low, span.high) for span in inputs["segments"].spans] == [(0, 6), (6, 9), (9, 11)]
    assert inputs["segments"].key_index is None


def test_packs_of_different_length_are_filled_by_a_row_of_padding() -> None:
    batch = of_rows([ROWS[:2], ROWS[2:]], "positions", 0)
    assert batch["inputs"]["position_ids"].tolist() == [
        [0, 1, 2, 3, 4, 5, 0, 1, 2],
        [0, 1, 0, 1, 2, 3, 4, 5, 6],
    ]
    assert asked(batch) == [(0, 11, 12), (0, 12, 13), (0, 14, 15), (1, 20, 21), (1, 21, 22)]


def test_a_pair_stores_its_prompt_once() -> None:
    batch = of_pairs([PAIR, PAIR], "flat", 0)
    inputs = batch["inputs"]
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8] * 2]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5] * 2]
    assert inputs["segments"].spans == ((0, 5, 0, 0), (5, 8, 0, 3), (8, 13, 0, 0), (13, 16, 8, 11))
    index = inputs["segments"].key_index
    assert index.tolist()[:11] == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7]
    assert inputs["segments"].starts_k.tolist() == [0, 5, 11, 16, 22]


@pytest.mark.parametrize("with_prompts", [False, True])
def test_flat_and_padded_pairs_ask_for_the_same(with_prompts: bool) -> None:
    flat, padded = (of_pairs([PAIR, PAIR], layout, 0, with_prompts=with_prompts) for layout in ("flat", "padded"))
    assert asked(flat) == asked(padded)
    assert asked(flat)[:5] == [(0, 3, 4), (0, 4, 5), (1, 3, 6), (1, 6, 7), (1, 7, 8)]
    assert torch.equal(flat["targets"].lengths, padded["targets"].lengths)
    if with_prompts:
        assert asked(flat)[-2:] == [(5, 1, 2), (5, 2, 3)]
