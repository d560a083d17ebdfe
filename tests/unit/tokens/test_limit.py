"""Rows over the limit are dropped or lose their oldest prompt tokens; a target is never cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rendering import MaskedTokens, PairTokens
from tests.stores import pair_store, row_store
from trainer.tokens.limit import write_shortened
from trainer.tokens.store import TokenStore


def shortened(store: TokenStore, folder: Path, limit: int, *, truncate: bool = True) -> TokenStore:
    write_shortened(store, folder / "short", max_length=limit, truncate_prompt=truncate)
    return TokenStore.load(folder / "short")


def supervised(tokens: MaskedTokens, folder: Path, limit: int) -> MaskedTokens | None:
    short = shortened(row_store([(tokens.ids, tokens.mask)]), folder, limit)
    if not len(short):
        return None
    ids, mask = short.row(0)
    return MaskedTokens(ids.tolist(), mask.tolist())


def pair(tokens: PairTokens, folder: Path, limit: int) -> PairTokens | None:
    short = shortened(pair_store([(tokens.prompt, tokens.chosen, tokens.rejected)]), folder, limit)
    return PairTokens(*(ids.tolist() for ids in short.pair(0))) if len(short) else None


def test_a_target_is_never_cut(tmp_path: Path) -> None:
    tokens = MaskedTokens(list(range(100, 120)), [0] * 8 + [1] * 4 + [0] * 4 + [1] * 4)
    for limit in range(8, 25):
        short = supervised(tokens, tmp_path, limit)
        if limit < 13:  # twelve tokens from the first trained one on, which needs one before it
            assert short is None
        else:
            num_tokens = min(limit, 20)
            assert short == MaskedTokens(tokens.ids[-num_tokens:], tokens.mask[-num_tokens:])
            assert sum(short.mask) == 8 and short.mask[0] == 0
    assert supervised(MaskedTokens(list(range(10)), [0] + [1] * 9), tmp_path, 8) is None


def test_both_answers_of_a_pair_keep_the_same_prompt_when_it_is_cut(tmp_path: Path) -> None:
    tokens = PairTokens([1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11, 12])
    assert pair(tokens, tmp_path, 10) == tokens
    assert pair(tokens, tmp_path, 8) == PairTokens([3, 4, 5, 6], [7, 8], [9, 10, 11, 12])
    assert pair(tokens, tmp_path, 5) == PairTokens([6], [7, 8], [9, 10, 11, 12])
    assert pair(tokens, tmp_path, 4) is None
    assert pair(PairTokens([1, 2], [3] * 8, [4]), tmp_path, 8) is None


@pytest.mark.parametrize("truncate", [False, True])
def test_rows_that_fit_keep_their_lines_and_order(
    tmp_path: Path, truncate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.tokens.limit.ROWS_AT_ONCE", 2)
    rows = [([line] * length, [0] * (length - 1) + [1]) for line, length in enumerate((3, 9, 2, 5, 9))]
    short = shortened(row_store(rows), tmp_path, 5, truncate=truncate)
    assert short.row_index.tolist() == ([0, 1, 2, 3, 4] if truncate else [0, 2, 3])
    assert short.lengths().tolist() == ([3, 5, 2, 5, 5] if truncate else [3, 2, 5])
    assert short.num_trained().tolist() == [1] * len(short)
    assert [set(short.row(index)[0].tolist()) for index in range(len(short))] == [{line} for line in short.row_index]
