"""Which answers stand on the page, in which order, and how much of them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.render.facts import prediction, report_facts
from trainer.render.report import answers as selection
from trainer.render.report.answers import select_answers
from trainer.render.report.fields import field_table, structured
from trainer.render.report.page import render_report
from trainer.shapes.predictions import AnswerCall, Prediction


def page_of(lines: list[Prediction], **options: Any) -> str:
    page = render_report(replace(report_facts(), answers=select_answers(lines, **options)))
    return page.split('<section id="answers">')[1].split("</section>")[0]


def test_wrong_answers_stand_first_and_none_is_missing() -> None:
    lines = [prediction(f"right {index}", "a", base="a", tuned="a") for index in range(40)]
    lines += [prediction(f"wrong {index}", "a", base="b", tuned="b") for index in range(30)]
    lines += [prediction("lost", "a", base="a", tuned="b"), prediction("won", "a", base="b", tuned="a")]
    selected = select_answers(lines)
    titles = [row.title for row in selected.rows]
    assert titles[0] == "lost" and titles[1:31] == [f"wrong {index}" for index in range(30)] and titles[31] == "won"
    assert len(titles) == 72 and selected.left_out == {"wrong": 0, "other": 0}
    assert dict(selected.counts) == {"all": 72, "failed": 31, "lost": 1, "won": 1, "differ": 2}


@pytest.mark.parametrize(
    ("base", "tuned", "kinds"),
    [
        ("a", "a", []),
        ("b", "b", ["failed"]),
        ("a", "b", ["failed", "lost", "differ"]),
        ("b", "a", ["won", "differ"]),
        ("b", "c", ["failed", "differ"]),
        ("a ", "a", []),
    ],
)
def test_kinds_are_those_of_tuned_against_base(base: str, tuned: str, kinds: list[str]) -> None:
    assert select_answers([prediction("p", "a", base=base, tuned=tuned)]).rows[0].kinds == kinds


def test_before_training_the_base_is_judged_alone() -> None:
    selected = select_answers([prediction("p", "a", base="b")])
    assert (selected.main, selected.rival) == ("base", None) and selected.rows[0].kinds == ["failed"]
    assert 'value="won"' not in page_of([prediction("p", "a", base="b")])


def test_the_deciding_metric_says_what_is_right() -> None:
    line = prediction("p", "a", tuned="x")
    line["answers"]["tuned"]["grades"] = {"valid_json": 1.0, "f1": 0.5}
    assert select_answers([line], "f1").counts["failed"] == 1 and select_answers([line]).counts["failed"] == 0
    line["answers"]["tuned"]["grades"] = {}
    assert select_answers([line], "f1").rows[0].answers[0].correct is None
    assert "not marked" in page_of([line])


def test_filters_and_search_count_every_row() -> None:
    section = page_of([prediction("p", "a", base="a", tuned="b"), prediction("q", "a", base="b", tuned="a")])
    for name, count in {"all": 2, "failed": 1, "won": 1, "lost": 1, "differ": 2}.items():
        assert f">{name} {count}</button>" in section
    assert 'type="search"' in section and 'data-kinds="failed lost differ"' in section
    assert "1 answer of tuned is wrong, of 2 rows" in section


def test_what_the_page_leaves_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAX_WRONG", 3)
    monkeypatch.setattr(selection, "MAX_RIGHT", 1)
    lines = [prediction(f"w{index}", "a", base="b", tuned="b") for index in range(1_205)]
    lines += [prediction(f"r{index}", "a", base="a", tuned="a") for index in range(2)]
    assert select_answers(lines).left_out == {"wrong": 1_202, "other": 1}
    assert "Not on this page: 1,202 wrong answers and 1 other row." in page_of(lines)


def test_the_page_stays_bounded_whatever_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAX_CHARS", 50_000)
    lines = [prediction(f"w{index}", "a", tuned="b" * 100_000) for index in range(50)]
    selected = select_answers(lines)
    assert (
        sum(row.size for row in selected.rows) <= 50_000 and selected.left_out["wrong"] == 50 - len(selected.rows) > 0
    )
    assert "96,000 more characters, see eval/predictions.jsonl" in selected.rows[0].answers[0].text


def test_lines_are_counted_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAX_WRONG", 100)
    monkeypatch.setattr(selection, "MAX_RIGHT", 100)

    def lines() -> Iterator[Prediction]:
        for index in range(8_000):
            yield prediction(f"question {index}", "a", base="a", tuned="a" if index % 2 else "b")

    tracemalloc.start()
    selected = select_answers(lines())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert selected.counts["failed"] == 4_000 and len(selected.rows) == 200
    assert peak < 2e6, peak  # all lines together take ten times as much


def test_json_answers_are_compared_field_by_field() -> None:
    expected = {"total": 30, "items": [{"code": "A1", "n": 3}], "a.b": 1, "paid": True}
    tuned = {"total": 31, "items": [{"code": "A1", "n": 3}, {"code": "B2"}], "a.b": 1.0, "paid": 1}
    line = prediction("p", json.dumps(expected), base="no JSON", tuned=json.dumps(tuned))
    table = select_answers([line]).rows[0].fields
    assert table is not None and table.unread == ["base"] and table.num_same == 3
    assert [(item.name, item.expected, item.cells[0].text, item.cells[0].standing) for item in table.lines] == [
        ("total", "30", "31", "differs"),
        ("paid", "true", "1", "differs"),
        ("items[1].code", "", "B2", "extra"),
    ]
    text = "total: 31 instead of 30; paid: 1 instead of true; items[1].code: B2, not expected"
    assert f"<bdi>{text}</bdi>" in page_of([line])


def test_a_dotted_key_is_no_path() -> None:
    table = field_table({"a": {"b": 1}}, {"tuned": {"a.b": 1}})
    assert table is not None and [line.name for line in table.lines] == ["a.b", '"a.b"']


def test_tool_calls_are_compared_by_argument() -> None:
    call: AnswerCall = {"name": "get_weather", "arguments": {"city": "Paris", "unit": "C"}}
    wrong: AnswerCall = {"name": "get_weather", "arguments": {"city": "London"}}
    line = prediction("p", "<tool_call>…", base="It is nice", tuned="<tool_call>…")
    line["reference_calls"] = [call]
    line["answers"]["base"]["calls"], line["answers"]["tuned"]["calls"] = None, [wrong]
    table = select_answers([line]).rows[0].fields
    assert table is not None and table.arms == ["tuned"]
    assert [(item.name, item.expected, item.cells[0].text) for item in table.lines] == [
        ("call 1.arguments.city", "Paris", "London"),
        ("call 1.arguments.unit", "C", "missing"),
    ]


@pytest.mark.parametrize("text", ["", "Paris", "3", '"x"', '{"a": 1', "[" * 5_000, "{}x"], ids=lambda text: text[:6])
def test_what_is_no_object_or_list_has_no_fields(text: str) -> None:
    assert structured(text) is None


def test_very_many_fields_are_cut_and_counted() -> None:
    table = field_table({str(index): index for index in range(500)}, {"tuned": {"0": 1}})
    assert table is not None and (len(table.lines), table.num_left_out) == (
        40,
        460,
    )  # the first differs, the others are missing


def test_a_conversation_with_calls_is_written_out() -> None:
    line = prediction("p", "a", tuned="a")
    line["messages"] = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "get_weather"}]},
        {"role": "tool", "content": "12 C"},
    ]
    row = select_answers([line]).rows[0]
    assert "assistant: [{'name': 'get_weather'}]" in row.prompt and row.title == "12 C"
