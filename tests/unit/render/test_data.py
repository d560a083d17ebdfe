from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.render.facts import data_report, report_facts
from tests.unit.render.test_report import parse
from tests.unit.render.test_terminal import written
from trainer.render.data.changes import changes_of_findings, changes_of_rows
from trainer.render.data.findings import short_refs
from trainer.render.data.page import render_data_page
from trainer.render.data.terminal import data_summary
from trainer.render.data.view import data_view
from trainer.render.report.page import render_report
from trainer.shapes.report import DataReport, LintFinding

EVIL = '<script>alert("1")</script>'
FINDINGS: list[LintFinding] = [
    {
        "rule": "F019",
        "severity": "error",
        "title": "special tokens inside the text",
        "detail": "",
        "count": 108,
        "share": 0.104,
        "rows": ["a.jsonl:3", "a.jsonl:9", "b.jsonl:1"],
        "fix": "take them out",
    },
    {
        "rule": "B003",
        "severity": "info",
        "title": "answers that decline or ask back",
        "detail": f"none {EVIL}",
        "count": 0,
        "share": 0.0,
        "rows": [],
        "fix": "add some",
    },
]
PAIR = {"row": "a.jsonl:3", "of": "a.jsonl:1", "text": f"copy {EVIL}", "of_text": "original"}
REPORT = data_report(
    rows_read=1040,
    rows_train=800,
    rows_validation=0,
    rows_heldout=200,
    rejected={"near_duplicate": 30, "invalid_json": 10},
    lint=FINDINGS,
    stats={
        "prompt_chars": {"edges": [0, 8, 16], "counts": [3, 4], "quantiles": [1, 2, 9, 14, 15]},
        "turns": {"2": 700, "10": 5, "4": 95},
        "languages": {"de": 10, "en": 790},
        "classes": {EVIL: 4},
        "system_prompts": [{"text": f"You are {EVIL}", "rows": 7}],
        "worst_rows": [{"row": "a.jsonl:3", "rules": ["F019", "Q007"]}],
    },
    clean={"encoding": {"count": 2, "strings": 3, "samples": [[f"fÃ¼r {EVIL}", "für"]]}},
    pii={"email": {"rows": 7, "count": 9, "action": "redact", "samples": [f"j***@e***.com {EVIL}"]}},
    duplicates={"exact": 0, "near": 30, "near_action": "drop", "samples": [{**PAIR, "similarity": 0.83}]},
    conflicts={"groups": 1, "rows": 2, "places": [], "samples": [{**PAIR, "reason": "2 rows with this prompt"}]},
    contamination={
        "action": "report",
        "hits": {"exact": 1},
        "samples": [{**PAIR, "reason": "exact", "similarity": 1.0}],
        "heldout_ngram": {"rows": 1, "heldout_rows_compared": 9, "samples": [{**PAIR, "reason": "ngram", "runs": 2}]},
    },
)
PREVIOUS: DataReport = {
    **REPORT,
    "rows_train": 700,
    "rejected": {"near_duplicate": 30, "personal_data": 4},
    "lint": [{**FINDINGS[0], "count": 120}, {**FINDINGS[1], "rule": "B001", "title": "few training rows", "count": 9}],
}


@pytest.mark.parametrize("report", [data_report(), REPORT], ids=["clean", "full"])
@pytest.mark.parametrize("previous", [None, PREVIOUS], ids=["first", "after another"])
def test_the_data_page_is_well_formed_and_asks_for_nothing(report: DataReport, previous: DataReport | None) -> None:
    page = render_data_page(report, previous, name=EVIL, trainer_version="0.1.0")
    parsed = parse(page)
    assert parsed.open == [] and parsed.requests == [] and "://" not in page
    assert not parsed.tags & {"script", "link", "iframe", "img", "object"}


def test_everything_that_comes_from_rows_is_escaped() -> None:
    page = render_data_page(REPORT, PREVIOUS, name="x", trainer_version="0.1.0")
    assert EVIL not in page and page.count("&lt;script&gt;") >= 9


def test_the_page_shows_every_section_of_the_report() -> None:
    page = render_data_page(REPORT, None, name="support-bot", trainer_version="0.1.0")
    for text in (
        "1,040 rows read: 800 train, 200 heldout; 40 left out.",
        "1 error, 1 note",
        "a.jsonl:3, 9, b.jsonl:1",
        "83% alike",
        "2 rows with this prompt",
        "Training rows beside rows that are tested",
        "Passages shared with held-out rows",
        "j***@e***.com",
        "90% of the rows have 2 to 14 characters, median 9",
        "F019, Q007",
        "für",
    ):
        assert text in page, text


def test_the_report_shows_the_data_and_what_changed() -> None:
    facts = replace(report_facts(), data_report=REPORT, previous_data=PREVIOUS)
    page = render_report(facts)
    assert "special tokens inside the text" in page and "Since the previous version of the data" in page
    assert "Since the previous version" not in render_report(replace(facts, previous_data=None))


def test_bars_of_numbers_keep_their_order_and_others_go_by_size() -> None:
    charts = dict(data_view(REPORT).charts)
    turns, languages = str(charts["Turns of a row"]), str(charts["Languages"])
    assert turns.index(">2<") < turns.index(">10<") < turns.index(">4<")
    assert languages.index(">en<") < languages.index(">de<")


def test_changed_rows_and_findings_are_named() -> None:
    assert [(change.name, change.written, change.standing) for change in changes_of_rows(PREVIOUS, REPORT)] == [
        ("train rows", "+100", "more"),
        ("left out: invalid json", "+10", "new"),
        ("left out: personal data", "\u22124", "gone"),
    ]
    assert [(change.name, change.before, change.after) for change in changes_of_findings(PREVIOUS, REPORT)] == [
        ("F019 special tokens inside the text", 120, 108),
        ("B003 answers that decline or ask back", 0, 1),
        ("B001 few training rows", 9, 0),
    ]
    assert changes_of_rows(REPORT, REPORT) == changes_of_findings(REPORT, REPORT) == []


def test_the_table_has_a_line_for_each_finding_with_its_fix() -> None:
    text = " ".join(written(data_summary(REPORT, PREVIOUS)).split())
    assert "error F019 special tokens inside the text 108 a.jsonl:3, 9, b.jsonl:1 fix: take them out 10.4%" in text
    assert "info B003" in text and "add some" not in text
    assert "1 error, 1 note" in text and "since the previous version: train rows +100" in text


def test_data_without_findings_say_so() -> None:
    assert "nothing found" in written(data_summary(data_report()))
    assert "same numbers as the previous version" in written(data_summary(REPORT, REPORT))


def test_a_file_is_named_once() -> None:
    refs = ["a.jsonl:1", "a.jsonl:2", "b.jsonl:2", "b.jsonl:3 = b.jsonl:4", "b.jsonl:5 = a.jsonl:6"]
    assert short_refs(refs) == ["a.jsonl:1", "2", "b.jsonl:2", "3 = 4", "5 = a.jsonl:6"]
