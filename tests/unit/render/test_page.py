"""Pages stay inert: one known script, no request, and nothing of a run is ever markup."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

import trainer.render
from tests.unit.render.facts import (
    SCORES,
    comparison,
    data_report,
    finding,
    gate,
    pack_report,
    prediction,
    report_facts,
    score,
    scores,
)
from tests.unit.render.test_data import REPORT
from tests.unit.render.test_decide import arm, decision
from trainer.render.data.page import render_data_page
from trainer.render.decide.page import render_decide_page
from trainer.render.html import page_script, prose, script_policy
from trainer.render.report.answers import select_answers
from trainer.render.report.page import StageFacts, render_report

EVIL = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>--><!--\"' onload=alert(1) "
    "javascript:alert(1) `<svg/onload=alert(1)>` {{ 7 * 7 }} \u202elive\u202c\u2066 \x00"
)
STATIC = Path(trainer.render.__file__).parent / "static"


class Inspector(HTMLParser):
    """Collects scripts, tags, attributes that run or fetch something, and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._in_script = tag == "script"
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "srcset", "action", "formaction", "srcdoc"):
                self.handlers.append(f"{name}={value}")
            if name == "href":
                self.addresses.append(str(value))
            if name == "id":
                self.ids.append(str(value))

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


def inspected(page: str) -> Inspector:
    inspector = Inspector()
    inspector.feed(page)
    inspector.close()
    return inspector


def evil_report() -> str:
    lines = [prediction(EVIL, EVIL, base=EVIL, tuned="x"), prediction("j", '{"a": 1}', tuned='{"a": "</script>"}')]
    lines[0]["answers"]["tuned"]["reasons"] = {"exact_match": EVIL}
    suite = {"must_pass": False, "n": 1, "metrics": {}, "arms": {"tuned": {EVIL: score(0.5)}}, "comparisons": []}
    measured = scores(
        arms=SCORES["arms"],
        most_frequent_answer={"text": EVIL, "exact_match": 0.99},
        comparisons=[comparison("exact_match", 0.2, 0.1, 0.3, sentence=EVIL)],
        slices={EVIL: {EVIL: {"n": 1, "arms": {}}}},
        suites={EVIL: suite},
    )
    facts = replace(
        report_facts(),
        name=EVIL,
        scores=measured,
        answers=select_answers(lines),
        gates=[gate("fail", EVIL)],
        env={EVIL: EVIL},
        recipe={EVIL: EVIL},
        stages=[StageFacts(EVIL, 1.0, {EVIL: EVIL})],
        data_report=data_report(rejected={EVIL: 3}, formats={"x": {EVIL: 3}}, stats={"classes": {EVIL: 3}}),
        decision=decision(headline=EVIL, because=[EVIL]),
    )
    return render_report(facts)


def evil_decision() -> str:
    value = decision(headline=EVIL, because=[EVIL], would_change=[EVIL], best_tuned=EVIL, metric=EVIL)
    value["arms"][EVIL] = arm(0.9)
    value["curve"]["arms"][EVIL] = [1.0, 2.0, 3.0]
    return render_decide_page(value, name=EVIL, trainer_version="0")


PAGES: dict[str, Callable[[], str]] = {
    "report": lambda: render_report(report_facts()),
    "evil report": evil_report,
    "decide": lambda: render_decide_page(decision(), name="x", trainer_version="0"),
    "evil decide": evil_decision,
    "data": lambda: render_data_page({**REPORT, "rejected": {EVIL: 3}}, None, name=EVIL, trainer_version="0"),
}


@cache
def page_of(name: str) -> str:
    return PAGES[name]()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_one_known_script_and_fetches_nothing(name: str) -> None:
    page = page_of(name)
    inspector = inspected(page)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'") and "unsafe-eval" not in policy[1]
    expected = [] if name == "data" else [str(page_script())]
    assert inspector.scripts == expected and inspector.handlers == []
    if expected:
        digest = base64.b64encode(hashlib.sha256(expected[0].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy[1].replace("&#39;", "'")
    assert not inspector.tags & {"iframe", "img", "object", "embed", "link", "form", "base", "svg"}
    assert {"main", "nav", "header", "footer"} <= inspector.tags


@pytest.mark.parametrize("name", PAGES)
def test_addresses_are_sections_and_the_other_pages_of_the_run(name: str) -> None:
    inspector = inspected(page_of(name))
    sections = {address[1:] for address in inspector.addresses if address.startswith("#")}
    assert sections and sections <= set(inspector.ids)
    assert {address for address in inspector.addresses if not address.startswith("#")} <= {
        "../data/index.html",
        "../decide/index.html",
    }
    assert "url(" not in page_of(name) and "@import" not in page_of(name)


@pytest.mark.parametrize("name", ["evil report", "evil decide", "data"])
def test_characters_that_turn_the_text_are_written_out(name: str) -> None:
    page = page_of(name)
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", page) and "⟨U+202E⟩" in page


def test_code_of_our_sentences_is_marked_and_nothing_else_is() -> None:
    assert prose("set `data.pii: off` <b>") == "set <code>data.pii: off</code> &lt;b&gt;"
    assert prose("one ` alone") == "one ` alone"


def test_no_sentence_of_a_report_shows_its_backticks() -> None:
    marked = finding(title="`x` is", detail="see `y`", fix="`z`")
    facts = replace(report_facts(), pack_report=pack_report(lint=[marked]), gates=[gate("pass", "`m` is")])
    body = render_report(facts).split("<main>")[1].split("<script>")[0]
    assert "`" not in body and "<code>z</code>" in body


def test_a_note_needs_no_fix() -> None:
    findings = [finding(severity="info", fix="nothing to do"), finding(severity="error", fix="")]
    page = render_report(replace(report_facts(), pack_report=pack_report(lint=findings)))
    assert "Fix:" not in page and "nothing to do" not in page


def test_one_of_a_thing_is_singular() -> None:
    cleaned = {"encoding": {"count": 1, "strings": 1, "samples": []}}
    report = data_report(rows_read=1, rows_train=1, clean=cleaned)
    page = render_data_page(report, None, name="x", trainer_version="0")
    measured = scores(arms={arm: {"exact_match": score(1.0, n=1)} for arm in ("base", "tuned")})
    facts = replace(report_facts(), scores=measured, answers=select_answers([prediction("p", "a", tuned="a")]))
    for text in (
        page,
        render_report(facts),
        render_decide_page(decision(heldout_rows=1), name="x", trainer_version="0"),
    ):
        assert not re.search(r"(?<![\d,.])1 (rows|items|prompts|fields|answers|steps)\b", text.split("<script>")[0])
    assert "1 row read" in page and "encoding, 1 row<" in page


def test_the_library_lies_beside_its_licence() -> None:
    assert "MIT License" in (STATIC / "uPlot.LICENSE").read_text() and "uPlot (v1.6.32)" in str(page_script())
    assert len(page_script()) < 60_000 and "</script" not in page_script() and script_policy().startswith("'sha256-")
