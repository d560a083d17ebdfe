"""Answers survive an interruption, and only whole ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.scoring.generation.answer_cache import AnswerStore
from trainer.scoring.question import Answer

FIRST = Answer("один\n", 3, True, prompt_tokens=7)
SECOND = Answer("", 0, False, tool_calls=({"function": {"name": "f", "arguments": "{}"}},), repaired=True)


def filled(path: Path) -> Path:
    with AnswerStore(path) as store:
        store.put("a", FIRST)
        store.put("b", SECOND)
    return path


def test_what_was_put_is_there_in_the_next_process(tmp_path: Path) -> None:
    store = AnswerStore(filled(tmp_path / "deep" / "answers.jsonl"))
    assert (store.get("a"), store.get("b"), store.get("c")) == (FIRST, SECOND, None)
    assert store.get("c") is None and store.get("d") is None


def test_an_answer_is_on_disk_before_put_returns(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.jsonl")
    store.put("a", FIRST)
    assert AnswerStore(tmp_path / "answers.jsonl").get("a") == FIRST


@pytest.mark.parametrize("cut", [1, 2, 10, 60])
def test_a_cut_off_last_line_loses_that_answer_alone(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path / "answers.jsonl")
    path.write_bytes(path.read_bytes()[:-cut])
    store = AnswerStore(path)
    assert store.get("a") == FIRST
    assert store.get("b") == (SECOND if cut == 1 else None)  # only the line feed is missing
    store.put("c", FIRST)
    store.close()
    assert AnswerStore(path).answers.keys() == store.answers.keys() >= {"a", "c"}


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[]", b'{"key": "a"}', b'{"key": "a", "tool_calls": [], "other": 1}', b"\xff"],
    ids=["no keys", "list", "key alone", "unknown key", "not UTF-8"],
)
def test_a_line_of_something_else_is_left_out(tmp_path: Path, line: bytes) -> None:
    path = filled(tmp_path / "answers.jsonl")
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert AnswerStore(path).answers == {"a": FIRST, "b": SECOND}
