"""JUnit XML and Markdown of gates, read back."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from tests.unit.render.facts import comparison, gate, score, scores
from trainer.render.scores.junit import render_junit
from trainer.render.scores.summary import render_markdown
from trainer.shapes.gates import GateResult, GateVerdict
from trainer.shapes.scores import SuiteScores

EVIL = 'a<b>&"\x00\x1b]]> | `x` @team\n# head'


def entry(verdict: GateVerdict, sentence: str = "why", **condition: Any) -> GateResult:
    return gate(verdict, sentence, **({"vs": "base"} | (condition or {"min": 0.9})))


MUST_PASS: GateResult = {
    **entry("fail", suite="golden"),
    "layer": "must_pass",
    "items": [{"id": EVIL, "passed": False}, {"id": "b", "passed": True}],
}
GATES = [
    entry("pass"),
    entry("fail", EVIL, min_gain=0.02),
    entry("insufficient_evidence", min=0.95),
    entry("not_run", max_drop=0.01, vs="best_prompted", suite="general"),
    MUST_PASS,
]
SUITE: SuiteScores = {
    "must_pass": True,
    "n": 2,
    "metrics": {},
    "arms": {"tuned": {"contains": score(0.5, n=2)}},
    "comparisons": [],
}
SCORES = scores(
    heldout_rows=154,
    arms={
        "base": {"exact_match": score(0.5, 0.42, 0.58)},
        "tuned": {
            "exact_match": score(0.845, 0.78, 0.89),
            "latency_p95_s": score(0.2, 0.1),
            "peak_memory_gib": score(1.5),
        },
    },
    comparisons=[
        comparison("exact_match", 0.3, 0.2, 0.4, sentence="tuned is right on 53 more of 154 rows than base"),
    ],
    suites={"golden": SUITE},
)


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
    text = "## x: evaluation\n\nno gates in the recipe, 0 held-out rows\n"
    assert render_markdown(scores(), [], name="x") == text
