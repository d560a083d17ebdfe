"""Files of flat arrays are safetensors files, mapped and not copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from trainer.errors import StageError
from trainer.tokens.arrays import ArraySpool, map_arrays, write_arrays

ARRAYS = {
    "flags": np.array([1, 0, 1], dtype=np.uint8),
    "ids": np.array([5, -6, 7], dtype=np.int32),
    "none": np.empty(0, dtype=np.int32),
    "places": np.array([0, 2**40], dtype=np.int64),
}


def test_safetensors_reads_what_is_written_and_writes_the_same_bytes(tmp_path: Path) -> None:
    write_arrays(tmp_path / "ours", ARRAYS, {"segments": "1"})
    save_file(ARRAYS, tmp_path / "theirs", {"segments": "1"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    with safe_open(tmp_path / "ours", framework="numpy") as file:
        assert file.metadata() == {"segments": "1"}
        assert all(np.array_equal(file.get_tensor(name), values) for name, values in ARRAYS.items())


def test_arrays_read_back_with_their_types(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", ARRAYS, {})
    arrays, metadata = map_arrays(tmp_path / "a")
    assert metadata == {} and arrays.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        assert arrays[name].dtype == values.dtype and np.array_equal(arrays[name], values)


def test_a_spool_is_written_like_the_array_it_holds(tmp_path: Path) -> None:
    spool = ArraySpool(tmp_path, np.dtype(np.int32))
    for part in (ARRAYS["ids"][:2], ARRAYS["none"], ARRAYS["ids"][2:].astype(np.int64)):
        spool.append(part)
    write_arrays(tmp_path / "a", {"ids": spool}, {})
    spool.file.close()
    write_arrays(tmp_path / "b", {"ids": ARRAYS["ids"]}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"I32"', b'"F16"'),
        (b'"shape":[3]', b'"shape":[4]'),
        (b'"shape":[3]', b'"shape":{ }'),
        (b'"shape"', b'"shapo"'),
        (b'{"__m', b'["__m'),
        (b"[0,16]", b"[8,24]"),
    ],
    ids=["type", "shape", "shape of another kind", "key", "brackets", "offsets"],
)
def test_a_damaged_header_is_an_error_with_its_file(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "a"
    write_arrays(path, ARRAYS, {})
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(StageError, match="is damaged") as caught:
        map_arrays(path)
    assert str(path) in caught.value.message


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="No such file"):
        map_arrays(tmp_path / "a")
