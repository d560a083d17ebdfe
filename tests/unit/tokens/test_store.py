"""Token files: what goes in comes out, and the same rows give the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.tokens.chat import PairTokens, Tokens
from trainer.tokens.store import TokenStore, from_pairs, from_tokens

ROWS = [(0, Tokens([5, 6, 7], [0, 1, 1])), (2, Tokens([8], [1])), (3, Tokens([9, 10], [0, 1]))]
PAIRS = [(0, PairTokens([1, 2], [3], [4, 5])), (4, PairTokens([6], [7, 8], [9]))]


def reopened(store: TokenStore, folder: Path) -> TokenStore:
    store.save(folder / "a.safetensors")
    store.save(folder / "b.safetensors")
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()
    assert (folder / "a.safetensors").stat().st_mode & 0o777 == 0o644
    return TokenStore.load(folder / "a.safetensors")


def test_supervised_rows_read_back(tmp_path: Path) -> None:
    store = reopened(from_tokens(ROWS), tmp_path)
    assert len(store) == 3 and not store.is_pairs
    assert [(list(ids), list(mask)) for ids, mask in map(store.row, range(3))] == [(t.ids, t.mask) for _, t in ROWS]
    assert list(store.row_index) == [0, 2, 3]
    assert list(store.lengths()) == [3, 1, 2]
    assert list(store.num_trained()) == [2, 1, 1]


def test_preference_rows_read_back(tmp_path: Path) -> None:
    store = reopened(from_pairs(PAIRS), tmp_path)
    assert len(store) == 2 and store.is_pairs
    assert [tuple(map(list, store.pair(index))) for index in range(2)] == [
        (pair.prompt, pair.chosen, pair.rejected) for _, pair in PAIRS
    ]
    assert list(store.row_index) == [0, 4]
    assert list(store.lengths()) == [5, 4]
    assert list(store.num_trained()) == [3, 3]


@pytest.mark.parametrize("build", [from_tokens, from_pairs])
def test_a_split_without_rows_reads_back(tmp_path: Path, build: object) -> None:
    store = reopened(build([]), tmp_path)  # type: ignore[operator]
    assert len(store) == 0
    assert list(store.lengths()) == list(store.num_trained()) == []
    assert store.is_pairs == (build is from_pairs)
    assert [str(array.dtype) for array in (store.input_ids, store.loss_mask, store.offsets, store.row_index)] == [
        "int32",
        "uint8",
        "int64",
        "int32",
    ]
