from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.unit.render.facts import (
    data_report,
    finding,
    gate,
    logged,
    pack_report,
    prediction,
    proof,
    report_facts,
    score,
    scores,
)
from trainer.render.report.answers import select_answers
from trainer.render.report.page import ReportFacts, StageFacts, render_report

EMPTY = ReportFacts(name="empty", trainer_version="0.1.0", recipe={})
SECTIONS = ("scores", "broken", "answers", "loss", "time", "data", "tokens", "export", "recipe", "environment")


class Balance(HTMLParser):
    """Collects the tags that are opened and never closed, and the attributes that could cause a request."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.requests: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.requests += [f"{name}={value}" for name, value in attrs if name in ("src", "srcset", "action")]
        if tag not in ("meta", "br", "hr", "img", "link", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    return parser


@pytest.mark.parametrize("facts", [EMPTY, report_facts()], ids=["empty", "full"])
def test_the_page_is_well_formed_and_asks_for_nothing(facts: ReportFacts) -> None:
    page = render_report(facts)
    parsed = parse(page)
    assert parsed.open == [] and parsed.requests == []
    assert not parsed.tags & {"link", "iframe", "img", "object"}
    assert "://" not in page.split("<script>")[0] and "@import" not in page and "url(" not in page


@pytest.mark.parametrize("facts", [EMPTY, report_facts()], ids=["empty", "full"])
def test_every_section_stands_on_the_page(facts: ReportFacts) -> None:
    assert re.findall(r'<section id="(\w+)">', render_report(facts)) == list(SECTIONS)


def test_each_missing_part_says_so_in_its_section() -> None:
    for section in re.split(r"<section", render_report(EMPTY))[1:]:
        assert 'class="missing"' in section


@pytest.mark.parametrize(
    "missing",
    [
        {"data_report": None},
        {"pack_report": None},
        {"metrics": []},
        {"scores": None},
        {"gates": None},
        {"gates": []},
        {"verify": None},
        {"verify": {}},
        {"answers": None},
        {"env": {}},
        {"stages": []},
        {"recipe": {}},
    ],
    ids=str,
)
def test_any_one_part_may_be_missing(missing: dict[str, Any]) -> None:
    assert 'class="missing"' in render_report(replace(report_facts(), **missing))


def test_findings_about_tokens_stand_beside_their_counts() -> None:
    few_steps = finding(rule="T002", title="few steps", count=3, detail="3 of <8>", fix="more epochs")
    page = render_report(replace(report_facts(), pack_report=pack_report(lint=[few_steps])))
    tokens = page[page.index('<section id="tokens">') : page.index('<section id="export">')]
    assert "T002" in tokens and "3 of &lt;8&gt;" in tokens and "more epochs" in tokens


def test_what_a_model_answers_is_escaped() -> None:
    evil = '<script>alert(1)</script><img src="x" onerror=alert(1)>'
    answers = select_answers([prediction(evil, evil, base=evil, tuned=evil)])
    facts = replace(report_facts(), name=evil, answers=answers, env={evil: evil})
    facts = replace(facts, gates=[gate("fail", evil)], data_report=data_report(rejected={evil: 3}))
    page = render_report(replace(facts, stages=[StageFacts(evil, 1.0)]))
    assert "img" not in parse(page).tags and page.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_an_answer_that_is_no_valid_unicode_does_not_stop_the_page() -> None:
    answers = select_answers([prediction("\ud800", "a", tuned="\x00\udfff")])
    assert render_report(replace(report_facts(), answers=answers)).encode("utf-8")


def test_answers_are_marked_by_words() -> None:
    page = render_report(report_facts())
    assert '<b class="bad">wrong</b>' in page and '<b class="good">right</b>' in page


def test_numbers_that_are_not_finite_never_reach_the_page() -> None:
    metrics = [logged(1, loss=math.nan), logged(2, loss=math.inf), logged(3, validation_loss=math.nan)]
    bad = score(math.nan, math.nan, math.inf)
    half = score(0.5, math.nan, math.inf)
    facts = replace(
        report_facts(),
        metrics=metrics,
        scores=scores(arms={"base": {"loss": bad}, "tuned": {"loss": bad, "exact_match": half}}),
        verify={"merged": proof(passed=False, mean_kl=math.nan, max_kl=math.inf)},
        stages=[StageFacts("train", math.nan, {"final_loss": math.nan})],
    )
    body = re.sub(r"<[^>]*>", " ", render_report(facts).split("</style>")[1].split("<script>")[0])
    assert not re.search(r"\b(nan|inf|None)\b", body)
    assert "No loss curve" in body


def test_a_run_of_one_step_has_a_curve() -> None:
    assert "data-chart" in render_report(replace(report_facts(), metrics=[logged(1, loss=0.7)]))


def test_what_is_logged_is_drawn_and_stands_in_a_table() -> None:
    values = {"loss": 0.7, "grad_norm": 1.5, "learning_rate": 2e-4, "tokens_per_s": 812.0}
    metrics = [logged(1, **values), logged(2, **values), logged(2, validation_loss=0.5)]
    page = render_report(replace(report_facts(), metrics=metrics))
    training = page[page.index('<section id="loss">') : page.index('<section id="time">')]
    for title in ("loss", "gradient norm", "learning rate", "tokens per second"):
        assert f'aria-label="{title} over optimizer step"' in training and f'<th scope="col">{title}</th>' in training
    assert '<details class="values" open>' in training  # the script closes it: without one the table is what there is


def test_the_contents_name_every_section() -> None:
    page = render_report(report_facts())
    assert re.findall(r'href="#(\w+)"', page) == re.findall(r'<section id="(\w+)">', page)
    assert 'href="../data/index.html"' in page and 'href="../decide/index.html"' not in page


def test_a_resumed_step_is_drawn_once() -> None:
    metrics = [logged(1, loss=2.0), logged(2, loss=1.0)]
    once = render_report(replace(report_facts(), metrics=metrics))
    assert render_report(replace(report_facts(), metrics=[logged(2, loss=9.0), *metrics])) == once


def test_failed_gates_stand_under_the_headline() -> None:
    assert "1 of 2 quality gates failed" in render_report(report_facts()).split("<section")[0]


def test_the_same_facts_give_the_same_page() -> None:
    assert render_report(report_facts()) == render_report(report_facts())


def test_a_path_in_the_recipe_is_written_as_text() -> None:
    assert "path: rows.jsonl" in render_report(replace(EMPTY, recipe={"path": Path("rows.jsonl")}))
