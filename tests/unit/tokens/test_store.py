"""Token files: what goes in comes out, and the same rows give the same bytes."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.stores import pair_store, row_store
from trainer.errors import StageError
from trainer.tokens import store as store_module
from trainer.tokens.arrays import write_arrays
from trainer.tokens.store import TokenStore, TokenWriter

ROWS = [([5, 6, 7], [0, 1, 1]), ([8], [1]), ([9, 10], [0, 1])]
PAIRS = [([1, 2], [3], [4, 5]), ([6], [7, 8], [9])]


def write(store: TokenStore, path: Path) -> None:
    with TokenWriter(path, segments=store.segments) as writer:
        writer.add(store.row_index.tolist(), [piece for row in range(len(store)) for piece in store.pieces(row)])


def reopened(store: TokenStore, folder: Path) -> TokenStore:
    write(store, folder / "a.safetensors")
    write(store, folder / "b.safetensors")
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()
    assert (folder / "a.safetensors").stat().st_mode & 0o777 == 0o644
    return TokenStore.load(folder / "a.safetensors")


def test_supervised_rows_read_back(tmp_path: Path) -> None:
    store = reopened(row_store(ROWS, lines=(0, 2, 3)), tmp_path)
    assert len(store) == 3 and store.shape == "single"
    assert [(list(ids), list(mask)) for ids, mask in map(store.row, range(3))] == ROWS
    assert list(store.row_index) == [0, 2, 3]
    assert list(store.lengths()) == [3, 1, 2]
    assert list(store.num_trained()) == [2, 1, 1]


def test_preference_rows_read_back(tmp_path: Path) -> None:
    store = reopened(pair_store(PAIRS, lines=(0, 4)), tmp_path)
    assert len(store) == 2 and store.shape == "pair"
    assert [tuple(map(list, store.pair(index))) for index in range(2)] == PAIRS
    assert list(store.row_index) == [0, 4]
    assert list(store.lengths()) == [5, 4]
    assert list(store.num_trained()) == [3, 3]


@pytest.mark.parametrize("shape", ["single", "pair"])
def test_a_split_without_rows_reads_back(tmp_path: Path, shape: str) -> None:
    store = reopened(row_store([]) if shape == "single" else pair_store([]), tmp_path)
    assert len(store) == 0
    assert list(store.lengths()) == list(store.num_trained()) == []
    assert store.shape == shape
    assert [str(array.dtype) for array in (store.input_ids, store.loss_mask, store.offsets, store.row_index)] == [
        "int32",
        "uint8",
        "int64",
        "int32",
    ]


def random_store(seed: int, *, segments: int) -> TokenStore:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 40, 200 * segments)
    mask = rng.integers(0, 2, lengths.sum()).astype(np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    mask[offsets[1:] - 1 - rng.integers(0, 2, len(lengths))] = 1
    ids = rng.integers(0, 1000, lengths.sum()).astype(np.int32)
    return TokenStore(ids, mask, offsets, np.arange(200, dtype=np.int32), segments)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("at_once", [1, 50, 1 << 20])
def test_counts_do_not_depend_on_how_much_is_read_at_once(
    segments: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = random_store(0, segments=segments)
    monkeypatch.setattr(store_module, "TOKENS_AT_ONCE", at_once)
    rows = [store.pieces(index) for index in range(len(store))]
    assert store.num_trained().tolist() == [sum(int(mask.sum()) for _, mask in row) for row in rows]
    if segments == 1:
        assert store.last_trained().tolist() == [int(ids[np.flatnonzero(mask)[-1]]) for [(ids, mask)] in rows]
        assert store.sequence_lengths().tolist() == store.lengths().tolist()
    else:
        assert store.last_trained().tolist() == [int(row[1][0][-1]) for row in rows]
        parts = [[len(ids) for ids, _ in row] for row in rows]
        assert store.sequence_lengths().tolist() == [prompt + max(sides) for prompt, *sides in parts]


@pytest.mark.parametrize("segments", [1, 3])
def test_a_file_written_in_parts_is_the_file_written_at_once(tmp_path: Path, segments: int) -> None:
    store = random_store(1, segments=segments)
    write(store, tmp_path / "whole")
    with TokenWriter(tmp_path / "parts", segments=segments) as writer:
        writer.add([], [])
        for rows in (range(7), range(7, 8), range(8, 200)):
            writer.add(rows, [piece for row in rows for piece in store.pieces(row)])
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), TokenWriter(tmp_path / "a", segments=1) as writer:
        writer.add([0], [(np.array([1, 2]), np.array([0, 1]))])
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_tokens_stay_on_disk_while_they_are_written_and_read(tmp_path: Path) -> None:
    num_chunks, chunk = 40, 50_000
    piece = (np.arange(chunk, dtype=np.int32), np.ones(chunk, dtype=np.uint8))
    tracemalloc.start()
    with TokenWriter(tmp_path / "a", segments=1) as writer:
        for index in range(num_chunks):
            writer.add([index], [piece])
    store = TokenStore.load(tmp_path / "a")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert store.num_trained().sum() == len(store.input_ids) == num_chunks * chunk
    assert peak < 0.5 * store.input_ids.nbytes


def test_views_of_the_file_cannot_be_changed_and_travel_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(random_store(2, segments=1), Path("a"))
    store = TokenStore.load(Path("a"))
    assert not store.input_ids.flags.owndata and not store.input_ids.flags.writeable
    sent = pickle.dumps(store)
    assert len(sent) < 500
    monkeypatch.chdir("/")
    assert np.array_equal(pickle.loads(sent).input_ids, store.input_ids)
    built = pickle.loads(pickle.dumps(random_store(2, segments=1)))
    assert np.array_equal(built.input_ids, store.input_ids) and built.segments == 1


def test_a_token_file_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(random_store(3, segments=1), path)
    complete = path.read_bytes()
    for length in (0, 4, 8, 100, 300, 400, len(complete) // 2, len(complete) - 1):
        path.write_bytes(complete[:length])
        with pytest.raises(StageError, match="is damaged") as caught:
            TokenStore.load(path)
        assert "--force" in caught.value.hint
    path.write_bytes(complete + b"x")
    with pytest.raises(StageError, match="its arrays end at byte"):
        TokenStore.load(path)


def test_arrays_that_do_not_fit_each_other_are_damage(tmp_path: Path) -> None:
    store = random_store(4, segments=1)
    arrays = {name: getattr(store, name) for name in ("input_ids", "loss_mask", "offsets", "row_index")}
    for name, value in (("loss_mask", store.loss_mask[:-1]), ("offsets", store.offsets[:-1]), ("row_index", None)):
        changed = {**arrays, name: value} if value is not None else {n: v for n, v in arrays.items() if n != name}
        write_arrays(tmp_path / "a", changed, {"segments": "1"})
        with pytest.raises(StageError, match=r"its arrays do not fit each other|it is no token file"):
            TokenStore.load(tmp_path / "a")
    write_arrays(tmp_path / "a", arrays, {"segments": "2"})
    with pytest.raises(StageError, match="it is no token file"):
        TokenStore.load(tmp_path / "a")
