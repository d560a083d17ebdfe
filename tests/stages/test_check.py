"""`check` means it: what `data` will refuse, it refuses with the same message; what is left out in part, it says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests import tiny
from tests.command import Project, Result
from trainer.data import peek

GOOD = tiny.rows(24)


def _lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"left": ["a"] * 3, "right": ["b"] * 3}), path)


def _nested(path: Path) -> None:
    path.mkdir()
    (path / "a.jsonl").write_bytes(_lines(*GOOD))
    (path / "b.csv").write_text("text,label\nx,y\n")


CSV = b"text,label\nA horse.,animal\nA spoon.,thing\n"
MANY = b"text,label\n" + b"A horse.,animal\n" * 200
Source = dict[str, Any]
BAD: dict[str, tuple[str, bytes | Callable[[Path], None], Source]] = {
    "csv without mapping": ("a.csv", CSV, {}),
    "csv of many rows": ("a.csv", MANY, {}),
    "misspelled column": ("a.csv", CSV, {"mapping": {"prompt": "text", "completion": "lable"}}),
    "misspelled name": ("a.csv", CSV, {"mapping": {"promt": "text", "completion": "label"}}),
    "misspelled path": (
        "a.jsonl",
        _lines({"q": "a", "r": {"x": "b"}}),
        {"mapping": {"prompt": "q", "completion": "r.y"}},
    ),
    "another format": ("a.jsonl", _lines(*GOOD), {"format": "alpaca"}),
    "empty file": ("a.jsonl", b"", {}),
    "only space": ("a.jsonl", b" \n\n", {}),
    "only a header": ("a.csv", b"prompt,completion\n", {}),
    "empty list": ("a.json", b"[]", {}),
    "utf-16": ("a.jsonl", _lines(*GOOD).decode().encode("utf-16"), {}),
    "cp1252": ("a.jsonl", '{"prompt": "é", "completion": "b"}\n'.encode("cp1252"), {}),
    "cp1252 csv": ("a.csv", "prompt,completion\né,b\n".encode("cp1252"), {}),
    "binary": ("a.jsonl", bytes(range(1, 256)), {}),
    "object of objects": ("a.json", json.dumps({"1": {"prompt": "a"}, "2": {"prompt": "b"}}).encode(), {}),
    "list of texts": ("a.json", b'["a", "b"]', {}),
    "lines of lists": ("a.jsonl", b"[1, 2]\n[3, 4]\n", {}),
    "lines of numbers": ("a.jsonl", b"1\n2\n", {}),
    "open list": ("a.json", b'[{"prompt": "a", "completion": "b"}, {"prom', {}),
    "no JSON": ("a.jsonl", b"prompt: a\ncompletion: b\n", {}),
    "no answers": ("a.jsonl", _lines({"messages": [{"role": "user", "content": "a"}]}), {}),
    "empty answers": ("a.jsonl", _lines({"prompt": "a", "completion": " "}), {}),
    "pairs of one answer": ("a.jsonl", _lines({"prompt": "a", "chosen": "b", "rejected": "b"}), {}),
    "pairs for sft": ("a.jsonl", _lines({"prompt": "a", "chosen": "b", "rejected": "c"}), {}),
    "damaged gzip": ("a.jsonl.gz", gzip.compress(_lines(*GOOD), mtime=0)[:200], {}),
    "stray quote": ("a.csv", b'prompt,completion\na,"b\n', {}),
    "cells without header": ("a.csv", b"prompt,completion\na,b,c\nd,e,f\n", {}),
    "no parquet": ("a.parquet", b"PAR1 and more", {}),
    "parquet of other columns": ("a.parquet", _parquet, {}),
    "unknown suffix": ("a.docx", b"PK", {}),
    "no file": ("a.jsonl", lambda path: None, {}),
    "empty folder": ("rows", lambda path: path.mkdir(), {}),
    "folder with one bad file": ("rows", _nested, {}),
}


@pytest.fixture
def checked(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., tuple[Result, Result]]:
    """Writes a file and a recipe; returns how `check` ended, and `data`."""

    def run(name: str, content: bytes | Callable[[Path], None], **data: Any) -> tuple[Result, Result]:
        project = Project(tmp_path)
        tiny.write_recipe(tmp_path, model=tiny_model_dir, data=data)
        path = tmp_path / name
        content(path) if callable(content) else path.write_bytes(content)
        return project.call("check"), project.call("data")

    return run


def _message(result: Result) -> str:
    return result.err.partition("\nfix:")[0]


def _same_refusal(check: Result, data: Result) -> str:
    assert check.code == data.code == 3, check.text + data.text
    assert _message(check) == _message(data) != "" and "recipe ok" not in check.out
    return _message(check)


@pytest.mark.parametrize("how", BAD)
def test_a_source_of_which_no_row_can_be_used_is_refused_as_by_data(how: str, checked: Any) -> None:
    name, content, settings = BAD[how]
    _same_refusal(*checked(name, content, sources=[{"path": name, **settings}]))


@pytest.mark.parametrize(
    "section",
    [
        {"split": {"heldout_path": "a.csv"}},
        {"split": {"validation_path": "a.csv"}},
        {"contamination": {"files": ["nowhere.jsonl"]}},
        {"split": {"by": "custmer"}},
        {"split": {"stratify": "lable"}},
        {"sources": [{"path": "rows.jsonl"}, {"path": "a.csv"}]},
        {"sources": [{"path": "a.csv"}], "max_rejected": 1.0},
        {"sources": [{"path": "mail.jsonl"}], "pii": {"types": {"email": "error"}}},
        {"sources": [{"path": "mail.jsonl"}], "pii": {"types": {"email": "drop"}}},
        {"lint": {"ignore": ["Q999"]}},
        {"system_prompt": {"path": "nowhere.txt"}},
    ],
    ids=lambda section: json.dumps(section)[:40],
)
def test_whatever_of_the_section_data_refuses_at_once_is_refused(
    section: dict[str, Any], checked: Any, tmp_path: Path
) -> None:
    mail = {"prompt": "Who?", "completion": "Write to maria.lopez@acme-widgets.com"}
    (tmp_path / "mail.jsonl").write_bytes(_lines(mail))
    message = _same_refusal(*checked("a.csv", CSV, **section))
    assert "maria.lopez" not in message


def test_rows_left_out_are_counted(checked: Any) -> None:
    rows = _lines(*GOOD[:10], {"prompt": "a", "completion": ""}, *GOOD[10:])
    check, data = checked("a.jsonl", rows, sources=[{"path": "a.jsonl"}])
    assert check.code == data.code == 0, check.text + data.text
    assert "a.jsonl: 1 of the first 20 rows will be left out: 1 empty_content (a.jsonl:11)" in check.out
    assert "recipe ok" in check.out


def test_more_faults_than_allowed_are_refused_after_all_else_is_said(checked: Any) -> None:
    rows = _lines(*GOOD[:5], {"a": 1}, {"b": 2}, *GOOD[5:])
    check, data = checked("a.jsonl", rows, sources=[{"path": "a.jsonl"}])
    assert "2 of 26 rows are malformed (7.7%; data.max_rejected allows 5.0%)" in _same_refusal(check, data)
    assert "a.jsonl: 2 of 26 rows will be left out: 2 unknown_format (a.jsonl:6)" in check.out
    assert "train   missing" in check.out  # the rest is worth knowing


def test_a_long_file_that_begins_badly_is_not_refused(checked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peek, "NUM_SETTLED", 25)
    rows = _lines(*[{"a": 1}] * 20, *GOOD)
    check, _ = checked("a.jsonl", rows, sources=[{"path": "a.jsonl"}], max_rejected=0.5)
    assert check.code == 0 and "a.jsonl: 20 of the first 25 rows will be left out" in check.out


def test_a_long_file_without_a_sound_row_is_refused(checked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peek, "NUM_SETTLED", 25)
    check, data = checked("a.csv", MANY, sources=[{"path": "a.csv"}])
    assert check.code == data.code == 3
    assert "25 of the first 25 rows are malformed (100.0%" in check.err and "200 of 200 rows" in data.err


def test_a_data_set_of_the_hub_is_said_to_be_unseen(tmp_path: Path, tiny_model_dir: Path) -> None:
    tiny.write_recipe(tmp_path, model=tiny_model_dir, data={"sources": [{"path": "hub:me/rows"}]})
    result = Project(tmp_path).call("check")
    assert result.code == 0 and "hub:me/rows: not looked at" in result.out
