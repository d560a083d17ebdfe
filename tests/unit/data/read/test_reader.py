"""Rows come with their place, whatever the file is called."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from pydantic import ValidationError

from trainer.data.read.json_array import CHUNK_BYTES
from trainer.data.read.raw_row import MAX_ROW_BYTES, RawRow
from trainer.data.read.reader import open_source, read_rows
from trainer.data.records.reasons import RowError
from trainer.errors import DataError, HardwareError
from trainer.recipe.data import Source


def written(tmp_path: Path, name: str, content: bytes | str) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


A, B = '{"a": 1}', '{"a": 2}'
FILES = [
    ("x.jsonl", f"{A}\n{B}\n", [1, 2]),
    ("x.jsonl", f"\ufeff{A}\r\n\r\n{B}", [1, 3]),
    ("x.json", f"{A}\n{B}\n", [1, 2]),
    ("x.json", f"[{A},\n {B}]", [1, 2]),
    ("x.json", f"[\n{A},\n {B}\n]", [1, 2]),
    ("x.jsonl", f"[{A}, {B}]", [1, 2]),
    ("x.jsonl", f"\ufeff\n[\n{A}, {B}]", [1, 2]),
    ("x.json", f'{{"data": [{A}, {B}]}}', [1, 2]),
    ("x.json", f'{{\n  "data": [\n{A}, {B}]\n}}', [1, 2]),
    ("x.json", f'{{"data": [{A}, {B}], "version": {{"n": [1]}}}}', [1, 2]),
    ("x.json", f'{{"version": 1,\n "data": [{A}, {B}]}}', [1, 2]),
    ("x.ndjson", f"{A}\r{B}".replace("\r", "\n"), [1, 2]),
]


@pytest.mark.parametrize(("name", "content", "lines"), FILES)
def test_the_content_decides_how_json_is_read(tmp_path: Path, name: str, content: str, lines: list[int]) -> None:
    rows = list(read_rows(written(tmp_path, name, content)))
    assert [row.value for row in rows] == [{"a": 1}, {"a": 2}]
    assert [row.line for row in rows] == lines


def test_a_pretty_printed_object_is_one_row(tmp_path: Path) -> None:
    assert [row.value for row in read_rows(written(tmp_path, "x.json", '{\n "a": 1\n}'))] == [{"a": 1}]


def test_a_broken_line_does_not_stop_the_others(tmp_path: Path) -> None:
    rows = list(read_rows(written(tmp_path, "x.jsonl", f"{A}\n{{broken\n{B}\n")))
    assert [(row.line, row.value) for row in rows] == [(1, {"a": 1}), (2, None), (3, {"a": 2})]
    assert rows[1].error is not None and rows[1].error.reason == "invalid_json"


def test_what_orjson_refuses_is_still_read(tmp_path: Path) -> None:
    rows = list(read_rows(written(tmp_path, "x.jsonl", '{"s": "\\ud800", "n": NaN, "i": 123456789012345678901234}\n')))
    value = rows[0].value
    assert (
        isinstance(value, dict)
        and value["s"] == "\ud800"
        and value["n"] != value["n"]
        and value["i"] == 123456789012345678901234
    )


def test_deep_nesting_is_a_broken_line(tmp_path: Path) -> None:
    rows = list(read_rows(written(tmp_path, "x.jsonl", f"{A}\n" + "[" * 100_000 + "\n")))
    assert rows[1].error is not None and rows[1].error.reason == "invalid_json"


def test_csv_rows_have_the_line_they_start_on(tmp_path: Path) -> None:
    path = written(tmp_path, "x.csv", '\ufeffq,a\n"two\nlines","say ""hi"""\n\nb,c\nd\n')
    rows = list(read_rows(path))
    assert [row.line for row in rows] == [2, 5, 6]
    assert rows[0].value == {"q": "two\nlines", "a": 'say "hi"'}
    assert rows[2].error is not None and rows[2].error.reason == "invalid_csv"


def test_a_long_csv_cell_is_read(tmp_path: Path) -> None:
    rows = list(read_rows(written(tmp_path, "x.csv", f"q,a\n{'x' * 200_000},b\n")))
    assert isinstance(rows[0].value, dict) and len(rows[0].value["q"]) == 200_000


def test_parquet_rows_are_numbered(tmp_path: Path) -> None:
    rows = [{"q": "a", "m": [{"role": "user"}]}, {"q": "b", "m": []}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert [(row.line, row.value) for row in read_rows(tmp_path / "x.parquet")] == [(1, rows[0]), (2, rows[1])]


BROKEN = [
    pytest.param("x.jsonl", b"", "empty", id="empty"),
    pytest.param("x.jsonl", b"\xef\xbb\xbf \n", "empty", id="only a mark"),
    pytest.param("x.doc", b"hello", "unknown kind", id="unknown kind"),
    pytest.param("x.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "x.jsonl:2: not UTF-8", id="latin-1 line"),
    pytest.param("x.csv", b"q,a\n\xe9,b\n", "x.csv:2: not UTF-8", id="latin-1 cell"),
    pytest.param("x.csv", b"q,q\n1,2\n", "twice", id="column twice"),
    pytest.param("x.csv", b'q,a\n1,2\n"open,2\n', "x.csv:3: invalid_csv", id="open quote"),
    pytest.param("x.json", b'[\n{"a": 1},\n{broken}\n]', "x.json:3: invalid_json", id="broken item"),
    pytest.param("x.parquet", b"PAR0 nonsense", "parquet", id="parquet"),
    pytest.param("x.jsonl", '{"a": 1}\n'.encode("utf-16"), "x.jsonl:1: not UTF-8: UTF-16", id="utf-16"),
    pytest.param("x.jsonl", '{"a": 1}\n'.encode("utf-16-le"), "x.jsonl:1: not UTF-8: UTF-16", id="utf-16-le"),
    pytest.param("x.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "x.jsonl:1: not UTF-8", id="png"),
    pytest.param("x.json", b'[{"a": "\xe9"}]', "x.json:1: not UTF-8", id="latin-1 item"),
    pytest.param("x.json", b'[{"a": 1}\n{"a": 2}]', "x.json:2: invalid_json: Expecting ','", id="no comma"),
    pytest.param("x.json", b'[{"a": 1},\n{"a": 2', "x.json:2: invalid_json", id="cut off"),
    pytest.param("x.json", b'[{"a": 1}] trailing', "text after the array", id="trailing text"),
    pytest.param("x.json", b'{"data": [{"a": 1}], broken}', "text after the array", id="broken object"),
    pytest.param("x.json", b"[" * 1_000_000, "x.json:1: invalid_json: nested too deeply", id="deep"),
    pytest.param("x.jsonl.gz", gzip.compress(b"", mtime=0), "empty", id="empty gz"),
    pytest.param("x.doc.gz", gzip.compress(b"hello", mtime=0), "unknown kind", id="unknown kind gz"),
    pytest.param("x.parquet.gz", gzip.compress(b"hello", mtime=0), "unknown kind", id="packed parquet"),
    pytest.param(
        "x.csv",
        b'q,a\n"open,2\n' + b"x,y\n" * (MAX_ROW_BYTES // 3),
        "x.csv:2: invalid_csv: field larger",
        id="huge field",
    ),
    pytest.param("x.csv", b"q,a\n1," + b"x" * (MAX_ROW_BYTES + 1) + b"\n", "x.csv:2: row_too_long", id="huge row"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_file_broken_as_a_whole_is_an_error_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(written(tmp_path, name, content)))
    assert name in caught.value.message and caught.value.hint


def noise(size: int) -> bytes:
    """Bytes that do not pack well, as lines of JSON."""
    numbers = itertools.accumulate(itertools.repeat(7919, size // 40), lambda left, right: left * right % 1_000_003)
    return b"".join(f'{{"n": {number}, "text": "row {number * number}"}}\n'.encode() for number in numbers)


PACKERS = {"gz": partial(gzip.compress, mtime=0), "zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_packed_files_read_as_their_content(tmp_path: Path, suffix: str, name: str) -> None:
    content = b"a\r\n1\r\n2\r\n" if name == "x.csv" else f"\ufeff[{A}, {B}]".encode()
    rows = list(read_rows(written(tmp_path, f"{name}.{suffix}", PACKERS[suffix](content))))
    assert [row.value for row in rows] == ([{"a": "1"}, {"a": "2"}] if name == "x.csv" else [{"a": 1}, {"a": 2}])


def test_frames_and_members_after_one_another_are_one_file(tmp_path: Path) -> None:
    for suffix, pack in PACKERS.items():
        content = pack(f"{A}\n".encode()) + pack(f"{B}\n".encode())
        rows = list(read_rows(written(tmp_path, f"x.jsonl.{suffix}", content)))
        assert [row.value for row in rows] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_file_cut_short_is_an_error_with_its_line(tmp_path: Path, suffix: str) -> None:
    content = noise(400_000)
    packed = PACKERS[suffix](content)
    rows = read_rows(written(tmp_path, f"x.jsonl.{suffix}", packed[: len(packed) * 2 // 3]))
    with pytest.raises(DataError, match=rf"x\.jsonl\.{suffix}:\d+: damaged or cut short") as caught:
        list(rows)
    line = int(caught.value.message.split(":")[1])
    assert 1 <= line < content.count(b"\n")


@contextmanager
def at_most_mib(limit: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit * 2**20
    finally:
        tracemalloc.stop()


def test_a_line_too_long_is_one_rejected_row_in_bounded_memory(tmp_path: Path) -> None:
    long = b'{"a": "' + b"x" * (100 * 2**20) + b'"}\n'
    path = written(tmp_path, "x.jsonl.gz", gzip.compress(A.encode() + b"\n" + long + B.encode() + b"\n", 1, mtime=0))
    del long
    with at_most_mib(60):
        rows = list(read_rows(path))
    assert [(row.line, row.value) for row in rows] == [(1, {"a": 1}), (2, None), (3, {"a": 2})]
    assert rows[1].error is not None and rows[1].error.reason == "row_too_long"


def test_an_array_is_read_in_the_memory_of_its_longest_item(tmp_path: Path) -> None:
    items = [{"n": n, "text": "word " * 100} for n in range(40_000)]
    path = written(tmp_path, "x.json", json.dumps(items))
    assert path.stat().st_size > 20 * CHUNK_BYTES
    with at_most_mib(12):
        assert all(row.value == item for row, item in zip(read_rows(path), items, strict=True))


def test_items_longer_than_the_window_are_read_whole(tmp_path: Path) -> None:
    items = [{"text": "é" * (3 * CHUNK_BYTES)}, 12, {"text": "x"}]
    path = written(tmp_path, "x.json", json.dumps(items, ensure_ascii=False))
    assert [row.value for row in read_rows(path)] == items


def damaged(content: bytes, seed: int) -> bytes:
    """Cut, overwrite or repeat a piece, or put junk in front."""
    generator = random.Random(seed)
    start, size = generator.randrange(len(content)), generator.randrange(1, 40)
    junk = generator.randbytes(size)
    return [
        content[:start],
        content[:start] + junk + content[start + size :],
        content[:start] + content[start:] * 2,
        junk + content,
    ][seed % 4]


def test_whatever_is_in_a_file_ends_in_rows_or_a_data_error(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"a": n, "b": "é"} for n in range(50)]), tmp_path / "y")
    lines = "".join(f'{{"a": {n}, "b": "é\\n"}}\n' for n in range(50)).encode()
    array = b"[" + lines.strip().replace(b"\n{", b",\n{") + b"]"
    contents = {
        "x.jsonl": lines,
        "x.json": array,
        "z.json": b'{"v": 1, "data": ' + array + b"}",
        "x.csv": b"a,b\n" + b'1,"\xc3\xa9 ""x"""\n' * 50,
        "x.parquet": (tmp_path / "y").read_bytes(),
        "x.jsonl.gz": gzip.compress(lines, mtime=0),
        "x.json.zst": zstandard.compress(array),
    }
    ends = {True: 0, False: 0}
    for seed, (name, content) in itertools.product(range(60), contents.items()):
        path = written(tmp_path, name, damaged(content, seed))
        try:
            assert all(isinstance(row, RawRow) for row in read_rows(path))
            ends[True] += 1
        except DataError as error:
            assert str(path) in error.message and error.hint
            ends[False] += 1
    assert min(ends.values()) > 20


def test_a_million_levels_are_a_rejected_row(tmp_path: Path) -> None:
    rows = list(read_rows(written(tmp_path, "x.jsonl", f"{A}\n" + '{"a":' * 1_000_000 + f"\n{B}\n")))
    assert rows[1].error is not None and rows[1].error.reason == "invalid_json" and rows[2].value == {"a": 2}


def names_and_rows(**source: Any) -> list[tuple[str, list[object]]]:
    return [(Path(name).name, [row.value for row in rows]) for name, rows in open_source(Source(**source))]


def test_a_folder_is_all_row_files_inside_in_order_of_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.json", ".hidden.jsonl", ".git/x.jsonl", "README.md", "dataset_infos.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path, name, f"{A}\n")
    written(tmp_path, "c.csv.gz", gzip.compress(b"a\n1\n", mtime=0))
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names_and_rows(path=str(tmp_path)) == [
        ("z.json", [{"a": 1}]),
        ("b.jsonl", [{"a": 1}]),
        ("c.csv.gz", [{"a": "1"}]),
    ]


def test_a_folder_without_rows_and_a_split_of_a_file_are_errors(tmp_path: Path) -> None:
    written(tmp_path, "README.md", "hello")
    with pytest.raises(DataError, match="no row files"):
        names_and_rows(path=str(tmp_path))
    path = written(tmp_path, "x.jsonl", A)
    with pytest.raises(DataError, match="files have no splits"):
        names_and_rows(path=str(path), split="train")


def test_a_saved_data_set_reads_like_its_rows(tmp_path: Path) -> None:
    import datasets

    rows = [{"messages": [{"role": "user", "content": "hi", "name": None}]}, {"messages": []}]
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved, "test": saved.select([1])}).save_to_disk(str(tmp_path / "many"))
    bare = [{"messages": [{"role": "user", "content": "hi"}]}, {"messages": []}]
    assert names_and_rows(path=str(tmp_path / "one")) == [("one", bare)]
    assert names_and_rows(path=str(tmp_path / "many"), split="test") == [("many", bare[1:])]
    for split, message in ((None, "several splits: train, test"), ("valid", "no split 'valid'")):
        with pytest.raises(DataError, match=message):
            names_and_rows(path=str(tmp_path / "many"), split=split)
    (tmp_path / "one" / "dataset_info.json").write_text("{broken")
    with pytest.raises(DataError, match="not a readable data set"):
        names_and_rows(path=str(tmp_path / "one"))


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'a/b' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        HardwareError, match=r"hub:a/b: the hub cannot be reached: Couldn't reach 'a/b' on the Hub$"
    ) as caught:
        names_and_rows(path="hub:a/b")
    assert "hf download --repo-type dataset a/b" in caught.value.hint


def test_a_hub_data_set_is_asked_for_by_subset_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    requests: list[object] = []

    def load(*args: object, **kwargs: object) -> datasets.DatasetDict:
        requests.append((args, kwargs))
        return datasets.DatasetDict(
            {name: datasets.Dataset.from_list([{"a": n}]) for n, name in ((1, "train"), (2, "test"))}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert names_and_rows(path="hub:a/b", subset="main", split="test", revision="c0ffee") == [("b", [{"a": 2}])]
    assert requests == [(("a/b", "main"), {"revision": "c0ffee"})]
    with pytest.raises(DataError, match="not an id of the hub"):
        names_and_rows(path="hub:../etc/passwd")


def test_reading_files_does_not_load_the_data_set_library(tmp_path: Path) -> None:
    path = written(tmp_path, "x.jsonl", A)
    code = "import sys, pathlib; from trainer.data.read.reader import read_rows; "
    code += f"list(read_rows(pathlib.Path({str(path)!r})))"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'datasets' not in sys.modules"], check=True, timeout=60)


def test_keys_of_the_hub_are_refused_for_files() -> None:
    for name in ("subset", "revision"):
        with pytest.raises(ValidationError, match=f"{name} is for data sets of the hub"):
            Source(path="x.jsonl", **{name: "x"})


def test_a_fault_travels_between_processes() -> None:
    row = pickle.loads(pickle.dumps(RawRow(3, None, RowError("invalid_json", "broken"))))
    assert row.error.reason == "invalid_json" and row.error.detail == "broken"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "x.jsonl", A)
    path.chmod(0)
    with pytest.raises(DataError, match=r"x\.jsonl: Permission denied"):
        read_rows(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_rows(path)


def test_json_lines_are_streamed(tmp_path: Path) -> None:
    path = written(tmp_path, "x.jsonl", "".join(json.dumps({"a": n}) + "\n" for n in range(1000)))
    rows = read_rows(path)
    assert next(rows).value == {"a": 0}
