"""Rows come with their place, whatever the file is called."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from trainer.data.read import read_rows
from trainer.errors import DataError


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
    assert isinstance(value, dict) and value["s"] == "\ud800" and value["n"] != value["n"] and value["i"] > 1e23


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
    ("x.jsonl", b"", "empty"),
    ("x.jsonl", b"\xef\xbb\xbf \n", "empty"),
    ("x.txt", b"hello", "unknown kind"),
    ("x.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "x.jsonl:2: not UTF-8"),
    ("x.csv", b"q,a\n\xe9,b\n", "x.csv:2: not UTF-8"),
    ("x.csv", b"q,q\n1,2\n", "twice"),
    ("x.csv", b'q,a\n1,2\n"open,2\n', "x.csv:3: invalid_csv"),
    ("x.json", b'[\n{"a": 1},\n{broken}\n]', "x.json:3: invalid_json"),
    ("x.parquet", b"PAR0 nonsense", "parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_file_broken_as_a_whole_is_an_error_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(written(tmp_path, name, content)))
    assert name in caught.value.message and caught.value.hint


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_rows(path)


def test_json_lines_are_streamed(tmp_path: Path) -> None:
    path = written(tmp_path, "x.jsonl", "".join(json.dumps({"a": n}) + "\n" for n in range(1000)))
    rows = read_rows(path)
    assert next(rows).value == {"a": 0}
