"""JUnit XML and Markdown of gates, read back."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from trainer.render.junit import render_junit
from trainer.render.markdown import render_markdown

EVIL = 'a<b>&"\x00\x1b]]> | `x` @team\n# head'


def entry(verdict: str, sentence: str = "why", **gate: Any) -> dict[str, Any]:
    asked = {"metric": "exact_match", "arm": "tuned", "vs": "base"} | (gate or {"min": 0.9})
    return {"gate": asked, "layer": "task", "verdict": verdict, "passed": verdict == "pass", "sentence": sentence}


GATES = [
    entry("pass"),
    entry("fail", EVIL, min_gain=0.02),
    entry("insufficient_evidence", min=0.95),
    entry("not_run", max_drop=0.01, vs="best_prompted", suite="general"),
    entry("fail", suite="golden")
    | {"layer": "must_pass", "items": [{"id": EVIL, "passed": False}, {"id": "b", "passed": True}]},
]
SCORES = {
    "heldout_rows": 154,
    "arms": {
        "base": {"exact_match": {"value": 0.5, "low": 0.42, "high": 0.58, "n": 154}},
        "tuned": {
            "exact_match": {"value": 0.845, "low": 0.78, "high": 0.89, "n": 154},
            "latency_p95_s": {"value": 0.2, "low": 0.1, "high": None, "n": 10},
            "peak_memory_gib": {"value": 1.5, "low": None, "high": None, "n": 1},
        },
    },
    "comparisons": [{"metric": "exact_match", "sentence": "tuned is right on 53 more of 154 rows than base"}],
    "suites": {"golden": {"must_pass": True, "n": 2, "arms": {"tuned": {"contains": {"value": 0.5, "n": 2}}}}},
}


def test_junit_holds_a_case_for_each_gate_and_must_pass_item() -> None:
    text = render_junit(GATES, name=EVIL)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    root = ET.fromstring(text)
    (suite,) = root
    cases = suite.findall("testcase")
    assert (root.tag, suite.tag, len(cases)) == ("testsuites", "testsuite", 7)
    failed = [case for case in cases if case.find("failure") is not None]
    assert suite.get("tests") == "7" and suite.get("failures") == str(len(failed)) == "5"
    assert [case.find("failure").get("type") for case in failed][1:3] == ["insufficient_evidence", "not_run"]  # type: ignore[union-attr]
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == 7
    assert 'a<b>&"' in failed[0].find("failure").text  # type: ignore[union-attr, operator]


def test_gates_of_the_same_name_stay_apart() -> None:
    names = [case.get("name") for case in ET.fromstring(render_junit([entry("pass"), entry("fail")], name="x"))[0]]
    assert len(set(names)) == 2


def test_no_gates_are_an_empty_suite() -> None:
    assert ET.fromstring(render_junit([], name="x"))[0].get("tests") == "0"


def test_markdown_shows_arms_sentences_and_verdicts() -> None:
    text = render_markdown(SCORES, GATES, name="banking")
    assert "1 of 5 gates passed, 154 held-out rows" in text
    assert "| metric | base | tuned |" in text
    assert "| exact\\_match | 0.5 (0.42 to 0.58) | 0.845 (0.78 to 0.89) |" in text
    assert "| latency\\_p95\\_s | – | 0.2 (0.1 to –) |" in text and "| peak\\_memory\\_gib | – | 1.5 |" in text
    assert (
        "tuned is right on 53 more of 154 rows" in text and "**too little evidence**" in text and "**not run**" in text
    )


def test_markdown_escapes_what_models_and_files_say() -> None:
    text = render_markdown(SCORES, GATES, name=EVIL)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    gates = tables[tables.index("| layer | gate | verdict | why |") :]
    assert all(line.replace("\\|", "").count("|") == 5 for line in gates)
    assert "a<b>" not in text and "\n# head" not in text and "@team" not in text


def test_markdown_of_nothing_is_still_a_page() -> None:
    assert render_markdown({}, [], name="x") == "## x: evaluation\n\nno gates in the recipe\n"
