"""Files as people have them: tables in any separator and encoding, documents, packed files, JSON in every wrapping."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.feather
import pytest

from trainer.data.inputs import row_inputs
from trainer.data.read.files import find_files, passed_over
from trainer.data.read.reader import how_read, open_source, read_rows
from trainer.errors import DataError
from trainer.recipe.data import DataSection, Source

ROWS = [{"prompt": "a, b; c", "completion": "1"}, {"prompt": 'say "hi"\nagain', "completion": "2|3"}]


def values(path: Path, **options: Any) -> list[Any]:
    return [row.value for row in read_rows(path, **options)]


def table(separator: str, *, quoted: bool = True) -> str:
    lines = [["prompt", "completion"], *([row["prompt"], row["completion"]] for row in ROWS)]
    cells = [['"' + cell.replace('"', '""') + '"' if quoted else cell for cell in line] for line in lines]
    return "".join(separator.join(line) + "\r\n" for line in cells)


SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", "^": "carets", "~": "tildes", ":": "colons"}
ENCODINGS = {"utf-8": "utf-8", "bom": "utf-8-sig", "utf-16": "utf-16", "utf-32": "utf-32"}


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("separator", SEPARATORS, ids=SEPARATORS.values())
@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_a_table_is_read_by_the_separator_of_its_header(
    tmp_path: Path, name: str, separator: str, encoding: str
) -> None:
    path = tmp_path / name
    path.write_bytes(table(separator).encode(encoding))
    assert values(path) == ROWS
    assert how_read(path) == f"separated by {SEPARATORS[separator]}"


@pytest.mark.parametrize("separator", [";", ",", "\t", "~"], ids=["semicolon", "comma", "tab", "tilde"])
@pytest.mark.parametrize("line", ["sep={}", '"sep={}"', "SEP={}"], ids=["plain", "quoted", "upper"])
def test_the_separator_line_of_a_spreadsheet_is_no_header(tmp_path: Path, line: str, separator: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"{line.format(separator)}\n" + table(separator))
    assert values(path) == ROWS
    assert [row.line for row in read_rows(path)] == [3, 4]


TABLES = {
    "one column with separators in its text": ("text\none; two; three\n", [{"text": "one; two; three"}]),
    "a comma in the header's text": (
        'id;"prompt, in words";completion\n1;a;b\n',
        [{"id": "1", "prompt, in words": "a", "completion": "b"}],
    ),
    "empty columns and rows at the end": ("prompt,completion,,\na,b,,\n,,,\n", [{"prompt": "a", "completion": "b"}]),
    "an index without a name": (
        ",prompt,completion\n0,a,b\n",
        [{"column_1": "0", "prompt": "a", "completion": "b"}],
    ),
    "spaces around names": ("prompt, completion\na,b\n", [{"prompt": "a", "completion": "b"}]),
    "semicolons inside of cells with commas": (
        "prompt,completion\na;b;c,d\ne;f;g,h\n",
        [{"prompt": "a;b;c", "completion": "d"}, {"prompt": "e;f;g", "completion": "h"}],
    ),
    "text that looks like numbers and nulls": (
        "prompt,completion\n007,NA\n1e5,null\n",
        [{"prompt": "007", "completion": "NA"}, {"prompt": "1e5", "completion": "null"}],
    ),
}


@pytest.mark.parametrize(("content", "rows"), TABLES.values(), ids=TABLES)
def test_cells_are_kept_as_they_stand(tmp_path: Path, content: str, rows: list[Any]) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    assert values(path) == rows


RETURNS = {
    "lone returns": (b"prompt,completion\ra,b\rc,d\r", [2, 3]),
    "none at the end": (b"prompt,completion\ra,b\rc,d", [2, 3]),
    "the header's line end of another kind": (b"prompt,completion\na,b\rc,d\n", [2, 3]),
    "tabs": (b"prompt\tcompletion\ra\tb\rc\td\r", [2, 3]),
}


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
@pytest.mark.parametrize(("content", "lines"), RETURNS.values(), ids=RETURNS)
def test_lines_may_end_in_a_carriage_return_alone(
    tmp_path: Path, content: bytes, lines: list[int], suffix: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(gzip.compress(content, mtime=0) if suffix.endswith("gz") else content)
    rows = list(read_rows(path))
    assert [row.value for row in rows] == [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert [row.line for row in rows] == lines


def test_a_long_table_of_lone_returns_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"prompt,completion\r" + b"".join(b"%d,%s\r" % (n, b"x" * 1000) for n in range(20_000)))
    assert sum(1 for row in read_rows(path) if row.error is None) == 20_000


UNQUOTED = {
    "a quote that opens no cell": ('"Hello," she said\thi', {"prompt": '"Hello," she said', "completion": "hi"}),
    "a quote that is never closed": ('"open\tb', {"prompt": '"open', "completion": "b"}),
    "inches": ('5" pipe\t6"', {"prompt": '5" pipe', "completion": '6"'}),
}


@pytest.mark.parametrize("separator", ["\t", "|", "^"], ids=["tab", "bar", "caret"])
@pytest.mark.parametrize(("line", "row"), UNQUOTED.values(), ids=UNQUOTED)
def test_quotes_are_text_where_they_open_no_cell(
    tmp_path: Path, line: str, row: dict[str, str], separator: str
) -> None:
    path = tmp_path / "x.tsv"
    plain = "".join(f"q{number}\ta{number}\n" for number in range(20))
    path.write_text(f'prompt\tcompletion\n{line}\n"he" said\tyes\n{plain}too\tmany\tcells\n'.replace("\t", separator))
    rows = list(read_rows(path))
    assert rows[0].value == row and rows[1].value == {"prompt": '"he" said', "completion": "yes"}
    assert how_read(path).endswith(", quotes as text")
    assert [result.line for result in rows if result.error] == [24]


def test_a_quoted_table_with_a_stray_quote_is_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('prompt\tcompletion\n"a\tb"\t"x\ny"\n"Hi" she\tx\n')
    with pytest.raises(DataError, match=r"x\.tsv:4: invalid_csv"):
        values(path)


def test_quoted_cells_may_hold_separators_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('prompt\tcompletion\n"a\tb"\t"x\ny ""z"""\n')
    assert values(path) == [{"prompt": "a\tb", "completion": 'x\ny "z"'}]


@pytest.mark.parametrize("header", ["prompt§completion", "prompt#completion", "prompt completion"])
def test_an_unknown_separator_is_told_with_those_that_are_known(tmp_path: Path, header: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"{header}\na§b\n")
    with pytest.raises(DataError, match=r"x\.csv:1: the header is one column, .*commas, .*colons") as caught:
        values(path)
    assert "sep=" in caught.value.hint


def test_one_column_with_a_rare_separator_in_its_text_stays_one_column(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("note: all\nsome text\nother: text\n")
    assert values(path) == [{"note: all": "some text"}, {"note: all": "other: text"}]


DOUBLED = {
    "lines": ("x.jsonl", '{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}\n{"prompt": "d"}\n', "prompt", [2]),
    "spaces": ("x.jsonl", '{"a": 1}\n{"p" : 1, "p" \t: 2}\n', "p", [2]),
    "an escaped key": ("x.jsonl", '{"a": 1}\n{"p": 1, "\\u0070": 2}\n', "p", [2]),
    "numbers beyond 64 bits": ("x.jsonl", '{"a": 1}\n{"p": 1, "p": 9400110200881234567000}\n', "p", [2]),
    "turns": (
        "x.jsonl",
        '{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}\n{"a": {"b": [{"c": 1, "c": 1}]}}\n',
        "role",
        [1, 2],
    ),
    "an array": ("x.json", '[{"a": 1},\n{"p": 1, "p": 2},\n{"b": {"p": 1, "p": 2}}]', "p", [2, 3]),
    "a wrapped array": ("x.json", '{"data": [{"a": 1}, {"p": 1, "p": 2}], "more": 1}', "p", [2]),
    "a split": ("x.json", '{"train": [{"a": 1}, {"p": 1, "p": 2}]}', "p", [2]),
    "one object": ("x.json", '{"p": 1,\n"p": 2}', "p", [1]),
    "values over many lines": ("x.json", '{"a":\n1}\n{"p": 1,\n"p": 2}', "p", [2]),
}


@pytest.mark.parametrize(("name", "content", "key", "lines"), DOUBLED.values(), ids=DOUBLED)
def test_a_row_that_names_a_key_twice_is_left_out_by_name(
    tmp_path: Path, name: str, content: str, key: str, lines: list[int]
) -> None:
    path = tmp_path / name
    path.write_text(content)
    rows = list(read_rows(path))
    assert [row.line for row in rows if row.error] == lines
    first = next(row.error for row in rows if row.error)
    assert first.reason == "invalid_json" and f"the key {key!r} stands twice" in str(first)


@pytest.mark.parametrize(
    "content", ['{"train": [{"a": 1}], "train": [{"a": 2}]}', '{"data": [{"a": 1}], "data": [{"a": 2}]}']
)
def test_a_file_that_names_its_rows_twice_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match="stands twice in one object"):
        values(path)


@pytest.mark.parametrize(
    "text", ['{"a": "\\"b\\": 1, \\"b\\": 2"}', '{"a\\\\": 1, "b": {"a": 2}}', '{"a": NaN, "b": 1e400}']
)
def test_what_only_looks_like_a_doubled_key_is_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text + "\n" + text + "\n")
    assert [row.error for row in read_rows(path)] == [None, None]


def test_a_row_that_does_not_fit_says_by_what_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt;completion\na;b\nc;d;e\n")
    row = list(read_rows(path))[1]
    assert row.error is not None and "separated by semicolons" in row.error.detail


PACKERS = {"bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_are_their_content_and_cut_ones_are_damaged(tmp_path: Path, suffix: str) -> None:
    content = b"".join(b'{"a": %d}\n' % (n * 7919 % 100_003) for n in range(20_000))
    path = tmp_path / f"x.jsonl.{suffix}"
    packed = PACKERS[suffix](content)
    path.write_bytes(packed)
    assert len(values(path)) == 20_000
    path.write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(DataError, match="damaged or cut short"):
        values(path)
    path.write_bytes(packed[:100] + b"\x00" * 100 + packed[200:])
    with pytest.raises(DataError, match="damaged or cut short"):
        values(path)


A, B = '{"prompt": "a", "completion": "b"}', '{"prompt": "c", "completion": "d"}'
PAIR = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
WRAPPINGS = {
    "objects one after another": f"{A}\n{B}\n".replace("{", "{\n").replace(",", ",\n"),
    "one list under a name": f'{{"train": [{A}, {B}]}}',
    "one list beside other things": f'{{"version": 2, "rows": [{A}, {B}]}}',
    "rows of the data set server": f'{{"v": 1, "rows": [{{"row_idx": 0, "row": {A}}}, {{"row_idx": 1, "row": {B}}}]}}',
    "columns of pandas": '{"prompt": {"0": "a", "1": "c"}, "completion": {"0": "b", "1": "d"}}',
    "columns as lists": '{"prompt": ["a", "c"], "completion": ["b", "d"]}',
    "a table of pandas": '{"columns": ["prompt", "completion"], "index": [0, 1], "data": [["a", "b"], ["c", "d"]]}',
}


@pytest.mark.parametrize("content", WRAPPINGS.values(), ids=WRAPPINGS)
def test_rows_are_found_in_every_wrapping(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert values(path) == PAIR


SINGLE = {
    "turns": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": [{}]},
    "pairs": {"chosen": [{"from": "gpt", "value": "a"}], "rejected": [{"from": "gpt", "value": "b"}]},
    "tokens": {"input_ids": [1, 2], "labels": [1, 2]},
    "dialog": {"dialog": ["a", "b"]},
}


@pytest.mark.parametrize("row", SINGLE.values(), ids=SINGLE)
def test_a_file_of_one_row_is_one_row(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "x.json"
    for indent in (None, 1):
        path.write_text(json.dumps(row, indent=indent))
        assert values(path) == [row]


def test_one_of_several_lists_is_chosen_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(f'{{"train": [{A}], "test": [{B}, {B}]}}')
    assert values(path, split="train") == PAIR[:1]
    assert len(values(path, split="test")) == 2
    for split, message in ((None, "several lists of rows: train, test"), ("dev", "no split 'dev'")):
        with pytest.raises(DataError, match=message) as caught:
            values(path, split=split)
        assert "data.sources[].split" in caught.value.hint
    path.write_text(f"[{A}]")
    with pytest.raises(DataError, match="no splits"):
        values(path, split="train")


def test_arrow_files_and_streams_and_feather_are_read(tmp_path: Path) -> None:
    rows = pyarrow.Table.from_pylist(PAIR)
    with pyarrow.ipc.new_file(tmp_path / "file.arrow", rows.schema) as writer:
        writer.write_table(rows)
    with pyarrow.ipc.new_stream(tmp_path / "stream.arrow", rows.schema) as writer:
        writer.write_table(rows)
    pyarrow.feather.write_feather(rows, tmp_path / "f.feather", compression="uncompressed")
    for name in ("file.arrow", "stream.arrow", "f.feather"):
        assert [(row.line, row.value) for row in read_rows(tmp_path / name)] == [(1, PAIR[0]), (2, PAIR[1])]
    (tmp_path / "bad.arrow").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a readable Arrow file"):
        values(tmp_path / "bad.arrow")


def test_a_text_file_is_one_document_and_keeps_every_character(tmp_path: Path) -> None:
    text = "# Title\r\n\r\n  indented, \u00e9\tend  \n"
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert values(tmp_path / "a.md") == [{"text": text}]
    (tmp_path / "b.txt").write_text(f"{A}\n{B}\n")
    assert values(tmp_path / "b.txt") == PAIR and how_read(tmp_path / "b.txt") == "JSON lines"


def test_a_folder_is_its_documents_unless_it_holds_rows(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.md", "README.md", "LICENSE.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("some words")
    assert [path.name for path in find_files(tmp_path)] == ["c.md", "b.txt"]
    (tmp_path / "rows.jsonl").write_text(A)
    (tmp_path / "old.xlsx").write_text("x")
    assert [path.name for path in find_files(tmp_path)] == ["rows.jsonl"]
    assert [path.name for path in passed_over(tmp_path)] == ["c.md", "b.txt", "old.xlsx"]


def test_a_pattern_stands_for_the_files_that_it_matches(tmp_path: Path) -> None:
    for name in ("part-1.jsonl", "part-0.jsonl", "other.jsonl", "deep/er/part-2.jsonl", "part-3.doc"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(A)
    opened = [Path(name).name for name, _ in open_source(Source(path=str(tmp_path / "part-*")))]
    assert opened == ["part-0.jsonl", "part-1.jsonl"]
    assert len(find_files(tmp_path / "**/part-?.jsonl")) == 3
    section = DataSection(sources=[Source(path=str(tmp_path / "part-*.jsonl"))])
    assert [Path(path).name for _, path in row_inputs(section)] == ["part-0.jsonl", "part-1.jsonl"]
    for pattern, message in (("none-*", "no file matches"), ("*.doc", "none of them a row file")):
        with pytest.raises(DataError, match=message):
            find_files(tmp_path / pattern)


CONVERTED = {
    "x.xlsx": "read_excel",
    "x.sqlite": "sqlite3 -csv",
    "x.db": "sqlite3",
    "x.pkl": "read_pickle",
    "x.pdf": "pdftotext",
}


@pytest.mark.parametrize(("name", "command"), CONVERTED.items(), ids=CONVERTED)
def test_a_file_that_is_not_read_comes_with_the_command_that_converts_it(
    tmp_path: Path, name: str, command: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="unknown kind") as caught:
        values(tmp_path / name)
    assert command in caught.value.hint and name in caught.value.hint
    with pytest.raises(DataError) as caught:
        find_files(tmp_path)
    assert command in caught.value.hint
