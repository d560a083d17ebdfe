"""Spaces around quotes belong to no cell; single quotes are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.data.read.csv_rows import read_csv
from trainer.data.read.reader import how_read
from trainer.errors import DataError

HEADER = "prompt, completion\n"


def cells(folder: Path, text: str) -> list[Any]:
    path = folder / "x.csv"
    path.write_text(text, encoding="utf-8")
    rows = list(read_csv(path))
    return [list(row.value.values()) if isinstance(row.value, dict) else row.error and row.error.reason for row in rows]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("space", [" ", "   "])
def test_a_space_before_a_quote_belongs_to_no_cell(separator: str, space: str, tmp_path: Path) -> None:
    rows = f'"a{separator} b"{separator}{space}"c, ""d"""\n' * 2 + f'"a"{separator}{space}"b"\n'
    expected = [[f"a{separator} b", 'c, "d"']] * 2 + [["a", "b"]]
    assert cells(tmp_path, f"prompt{separator}{space}completion\n{rows}") == expected
    assert how_read(tmp_path / "x.csv").endswith(" and spaces")


def test_one_row_in_a_long_table_is_read_so_as_well(tmp_path: Path) -> None:
    assert cells(tmp_path, "prompt,completion\n" + '"a","b"\n' * 500 + '"c", "d, e"\n')[-1] == ["c", "d, e"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("a, b\nc, d e\n", [["a", "b"], ["c", "d e"]]),
        ("a, b\nc,\n", [["a", "b"], ["c", ""]]),
        ("a, b\nc,d\n", [["a", " b"], ["c", "d"]]),
    ],
    ids=["all", "all but empty ones", "some"],
)
def test_spaces_without_quotes_are_left_out_where_all_cells_have_one(
    rows: str, expected: list[list[str]], tmp_path: Path
) -> None:
    assert cells(tmp_path, HEADER + rows) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ('"a, ""b""", c"\n', [['a, "b"', ' c"']]),
        ('"x, ""b"" y","c, "\n' * 3, [['x, "b" y', "c, "]] * 3),
        ('x," ""b"" y"\n' * 3, [["x", ' "b" y']] * 3),
        ('x, "b" said he\n' + "x,y\n" * 3, [["x", ' "b" said he'], *[["x", "y"]] * 3]),
    ],
    ids=["closing", "inside of quotes", "quoted space", "quotes as text"],
)
def test_other_quotes_after_a_space_stay_text(rows: str, expected: list[Any], tmp_path: Path) -> None:
    assert cells(tmp_path, "prompt,completion\n" + rows) == expected


def test_a_broken_row_of_a_spaced_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.csv:4: invalid_csv: .* and spaces\)"):
        cells(tmp_path, HEADER + '"a", "b"\n"c", "d"\n"e", "f" g\n')


@pytest.mark.parametrize(
    "rows",
    ["'a b','c d'\n", "'a, b','c, d'\n", "5,'it''s, c'\n", "'don\\'t, a', 'b'\r\n"],
    ids=["plain", "with commas", "one column", "escaped"],
)
def test_cells_in_single_quotes_are_refused_by_name(rows: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="single quotes") as caught:
        cells(tmp_path, "prompt,completion\n" + rows * 5)
    assert '"' in caught.value.hint


@pytest.mark.parametrize(
    "row",
    ["\"['a', 'b', 'c']\",d", "\"IN ('a','b','c')\",d", "\"'a'\",\"'b'\"", "\"x\n,'y',\",d", "it's a dog's, b"],
    ids=["Python list", "SQL", "quoted", "over lines", "apostrophes"],
)
def test_single_quotes_that_are_text_stay(row: str, tmp_path: Path) -> None:
    assert all(isinstance(result, list) for result in cells(tmp_path, "prompt,completion\n" + f"{row}\n" * 5))
