"""Numbers come out of every reader, the spool and the rows as they were written."""

from __future__ import annotations

import datetime
import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from trainer import exact_json
from trainer.data.duplicates.keys import content_key
from trainer.data.duplicates.words import tokens_of
from trainer.data.pii.walk import rewritten
from trainer.data.prepare import Chunk, Rules, field_key, prepare
from trainer.data.read.reader import read_rows
from trainer.data.records.kinds import Origin, write_line
from trainer.data.records.reasons import RowError
from trainer.data.row_file import RowFile
from trainer.data.rows.parse import parse_row
from trainer.recipe.data import DataSection
from trainer.verbs.inspect.show import turns_of

NUMBERS = [
    "0",
    "-0",
    "-0.0",
    "12",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "9400110200881234567000",
    "9" * 5000,
    "0.1",
    "10.50",
    "1.00",
    "0.1234567890123456789",
    "0.10000000000000001",
    "1234567.12345678901",
    "0.00001",
    "1e5",
    "1E-7",
    "1e400",
    "-2.50e-10",
    "123456789012345680.0",
]
IDS = [number[:25] for number in NUMBERS]
FORMS = ["[{}]", '{{"a":{}}}', '{{"a": {} }}', '{{"a":[1,{},2]}}', '{{"b":"x","a":{{"c":\n{}}}}}']


@pytest.mark.parametrize("form", FORMS, ids=range(len(FORMS)))
@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_a_number_is_written_as_it_was_read(number: str, form: str) -> None:
    text = form.format(number)
    value = exact_json.loads(text)
    assert exact_json.dumps(value).decode() == "".join(text.split())
    assert exact_json.loads(exact_json.dumps(value)) == value
    assert "".join(exact_json.text_of_json(value).split()) == "".join(text.split())
    assert exact_json.dumps(pickle.loads(pickle.dumps(value))) == exact_json.dumps(value)


def test_ordinary_rows_are_what_json_makes_of_them() -> None:
    text = '{"a": [1, 2.5, true, null], "b": {"c": "1e5, 10.50 and 12345678901234567890"}, "d": "é"}'
    assert exact_json.loads(text) == exact_json.loads(text.encode()) == json.loads(text)


def call(arguments: str) -> dict[str, Any]:
    function = {"name": "track", "arguments": arguments}
    answer = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}
    return {"messages": [{"role": "user", "content": "Where?"}, answer]}


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_arguments_that_are_text_keep_their_numbers(number: str) -> None:
    record = parse_row(call(f'{{"n": {number}}}'), source="f", line=1).record
    assert f'"n":{number}}}'.encode() in write_line(record)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_refused_where_it_is_trained_and_kept_elsewhere(word: str) -> None:
    with pytest.raises(RowError, match=word):
        parse_row(call(f'{{"n": {word}}}'), source="f", line=1)
    row = exact_json.loads(f'{{"prompt": "a", "completion": {{"n": {word}}}}}')
    with pytest.raises(RowError, match=word):
        parse_row(row, source="f", line=1)
    row = exact_json.loads(f'{{"prompt": "a", "completion": "b", "note": {{"n": {word}}}}}')
    assert f'"n":"{word}"'.encode() in write_line(parse_row(row, source="f", line=1).record)


def lines_of(path: Path) -> list[bytes]:
    rules = Rules.of(DataSection.model_validate({"sources": [{"path": "x"}]}), None)
    return prepare(Chunk(rules, Origin("f", "auto", ()), list(read_rows(path)))).lines.splitlines()


ROW = (
    '{{"messages": [{{"role": "user", "content": "Where?"}}, {{"role": "assistant", "tool_calls": [{{"function": '
    '{{"name": "f", "arguments": {{"n": {0}}}}}}}]}}], "id": {0}}}'
)
WHOLE = {
    "lines": "{0}\n{0}",
    "array": "[{0},{0}]",
    "data": '{{"data": [{0}, {0}]}}',
    "data_last": '{{"v": 1, "data": [{0}, {0}]}}',
    "values": "{0}\n\n {0}",
}


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
@pytest.mark.parametrize("form", WHOLE.values(), ids=WHOLE)
def test_every_form_of_json_keeps_numbers_in_arguments_and_metadata(tmp_path: Path, number: str, form: str) -> None:
    row = ROW.format(number)
    path = tmp_path / "x.json"
    path.write_text(form.format(row))
    for line in lines_of(path):
        assert f'"arguments":{{"n":{number}}}'.encode() in line
        assert f'"metadata":{{"id":{number}}}'.encode() in line


def test_a_spooled_row_is_the_row(tmp_path: Path) -> None:
    line = b'{"n":9400110200881234567000,"price":10.50,"small":1e-7}\n'
    with RowFile(tmp_path / "rows") as spool:
        spool.append(line, np.array([len(line)]))
        spool.close_writing()
        assert exact_json.dumps(spool.row(0)) + b"\n" == line


def test_neighbouring_numbers_are_different_rows_and_groups() -> None:
    ids = [exact_json.loads(f'{{"by": 94001102008812345670{n:02d}}}')["by"] for n in range(20)]
    assert len({field_key({"metadata": {"customer": number}}, "customer") for number in ids}) == 20
    records = [parse_row(call(f'{{"n": {number}}}'), source="f", line=1).record for number in ids]
    assert len({content_key(record) for record in records}) == 20
    same = [parse_row(call(f'{{"n": {number}}}'), source="f", line=1).record for number in ("10.5", "10.50")]
    assert content_key(same[0]) == content_key(same[1])


def test_csv_cells_stay_text_and_json_in_them_keeps_its_numbers(tmp_path: Path) -> None:
    cell = json.dumps(call('{"n": 9400110200881234567000}')["messages"]).replace('"', '""')
    path = tmp_path / "x.csv"
    path.write_text(f'messages,id,price\n"{cell}",00123,1e400\n')
    [line] = lines_of(path)
    assert b'"n":9400110200881234567000' in line and b'"id":"00123","price":"1e400"' in line


def test_parquet_values_without_a_json_type_are_whole_text(tmp_path: Path) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    columns = {
        "prompt": pyarrow.array(["a"]),
        "completion": pyarrow.array([Decimal("9400110200881234567000.10")]),
        "when": pyarrow.array([datetime.datetime(2024, 5, 1, 12, 30, 0, 1, zone)], pyarrow.timestamp("us", "+02:00")),
        "nanos": pyarrow.array([1714559400000000001], pyarrow.timestamp("ns", "UTC")),
        "day": pyarrow.array([datetime.date(2024, 5, 1)]),
        "note": pyarrow.array([b"caf\xc3\xa9"]),
        "raw": pyarrow.array([b"\xff\x00"]),
        "big": pyarrow.array([2**64 - 1], pyarrow.uint64()),
        "map": pyarrow.array([[("k", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        "endless": pyarrow.array([float("inf")]),
        "missing": pyarrow.array([float("nan")]),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    record = json.loads(lines_of(tmp_path / "x.parquet")[0])
    assert record["messages"][1]["content"] == "9400110200881234567000.10"
    assert record["metadata"] == {
        "when": "2024-05-01T12:30:00.000001+02:00",
        "nanos": "2024-05-01T10:30:00.000000001+00:00",
        "day": "2024-05-01",
        "note": "café",
        "raw": "ff00",
        "big": 2**64 - 1,
        "map": {"k": 1},
        "endless": "Infinity",
        "missing": None,
    }


def test_answers_that_differ_beyond_64_bits_differ_for_near_copies() -> None:
    first, second = (tokens_of(f'{{"tracking": 940011020088123456700{digit}}}', fold=False) for digit in (0, 1))
    assert first != second
    assert first == tokens_of('{ "tracking" : 9400110200881234567000 }', fold=False)


def test_redaction_inside_arguments_as_text_keeps_the_numbers_beside() -> None:
    call_row = {"arguments": '{"n": 9400110200881234567000, "x": 10.50, "mail": "a@b.org"}'}
    row = rewritten(call_row, lambda leaf: "[EMAIL]" if leaf.text == "a@b.org" else leaf.text)
    assert row["arguments"] == '{"n":9400110200881234567000,"x":10.50,"mail":"[EMAIL]"}'


def test_inspect_shows_numbers_of_any_length() -> None:
    turns = dict(turns_of(parse_row(call('{"n": 9400110200881234567000}'), source="f", line=1).record))
    assert "9400110200881234567000" in str(turns)
