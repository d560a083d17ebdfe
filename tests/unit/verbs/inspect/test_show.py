from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tests import tiny
from tests.rendering import Renderer
from trainer.verbs.inspect.rows import is_position
from trainer.verbs.inspect.show import readable, row_text, show_beside, show_record, show_spans
from trainer.verbs.inspect.tokens import decode_spans


def console(*, colour: bool = False, width: int = 100) -> Console:
    return Console(file=StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None)


def text_of(target: Console) -> str:
    assert isinstance(target.file, StringIO)
    return target.file.getvalue()


def test_trained_text_stands_between_marks_where_there_is_no_colour() -> None:
    target = console()
    show_spans(target, [("user: hi\n", False), ("hello", True), ("\n", False)])
    assert text_of(target) == "user: hi\n⟦hello⟧\n\n"


def test_trained_text_is_coloured_in_a_terminal() -> None:
    target = console(colour=True)
    show_spans(target, [("hi ", False), ("hello", True)])
    assert "\x1b[1;32mhello" in text_of(target) and "⟦" not in text_of(target)


def test_long_rows_are_not_broken_into_lines() -> None:
    target = console(width=20)
    show_spans(target, [("word " * 30, False)])
    assert text_of(target).rstrip("\n").count("\n") == 0


@pytest.mark.parametrize("evil", ["\x1b[2J", "\x07", "\u202egnp.exe", "\x9b31m", "\r"])
def test_a_row_cannot_move_the_cursor_or_colour_the_screen(evil: str) -> None:
    target = console(colour=True)
    show_spans(target, [(evil, False)])
    show_record(target, {"messages": [{"role": "user", "content": evil}]})
    show_beside(target, ("left", evil), ("right", "[red]not markup[/red]"))
    plain = text_of(target)
    assert evil not in plain and "[red]not markup[/red]" in plain and readable("a\n\tb\u200d") == "a\n\tb\u200d"


@pytest.mark.parametrize("row", tiny.rows(3), ids=["first", "second", "third"])
def test_spans_are_the_rendered_text_and_the_trained_ones_the_answer(row: dict[str, Any], tiny_tokenizer: Any) -> None:
    tokens = Renderer(tiny_tokenizer, loss_on="assistant").tokens(row)
    spans = decode_spans(tiny_tokenizer, tokens.ids, tokens.mask)
    assert "".join(text for text, _ in spans) == tiny_tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert [text for text, is_trained in spans if is_trained] == [row["messages"][1]["content"] + "<|im_end|>"]


def test_every_kind_of_row_is_written() -> None:
    turns = tiny.preference_rows(1)[0]
    assert [line.split(":")[0] for line in row_text(turns).splitlines()] == [
        "user",
        "chosen assistant",
        "rejected assistant",
    ]
    call = {"function": {"name": "find", "arguments": {"city": "Bonn"}}}
    row = {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}], "tools": [{"function": {}}]}
    target = console()
    show_record(target, row)
    assert '"city":"Bonn"' in text_of(target) and "tools:" in text_of(target) and "tools" not in row_text(row)
    assert row_text({"text": "plain"}) == "text: plain"


@pytest.mark.parametrize(
    ("text", "is_number"), [("12", True), ("a.jsonl:12", True), ("a:b.jsonl:7", True), ("a.jsonl", False)]
)
def test_places_are_told_from_words(text: str, is_number: bool) -> None:
    assert is_position(text) is is_number
