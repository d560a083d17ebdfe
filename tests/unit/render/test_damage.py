"""What eval measured of a spoilt model is told everywhere that people decide."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.unit.render.facts import report_facts
from tests.unit.render.test_card import FULL
from tests.unit.render.test_terminal import written
from trainer.recipe.metrics import ExactMatch
from trainer.render.card import render_card
from trainer.render.report.page import render_report
from trainer.render.scores.damage import constant_row, damage_summary, damages, prompts_and_suites
from trainer.render.scores.rows import NO_SCORES
from trainer.render.scores.summary import render_markdown
from trainer.render.scores.terminal import damage_line, scores_table
from trainer.scoring.question import Answer, Grade, Question
from trainer.scoring.results import Panel
from trainer.scoring.retention import RetentionMeter, general_prompts, task_format
from trainer.scoring.scores import EvalMeasurements, scores_of
from trainer.shapes.scores import Score, Scores

PROMPTS = general_prompts(None, 32)
HEALTHY = [f"The answer to question {index} is simple, and it differs from all the others." for index in range(32)]
GERMAN = [f"Die Antwort auf Frage {index} ist einfach, und sie ist jedes Mal eine andere." for index in range(32)]
REFUSALS = [f"I'm sorry, but I can't help with request number {index}." for index in range(32)]
FORM = [json.dumps({"chapter": index}) for index in range(32)]
LABELS = ["a", "a", "b", "c", "d", "e", "f", "g", "h", "i"]


def panel_of(names: list[str], right: dict[str, list[bool]]) -> Panel:
    questions = [Question(name, [{"role": "user", "content": name}], LABELS[0], group=name) for name in names]
    panel = Panel(questions, {"plain_answer": ExactMatch(kind="exact_match", name="plain_answer")}, seed=0)
    for arm, marks in right.items():
        results = panel.results(arm)
        results.answers = [Answer("x", 1, True) for _ in names]
        results.texts = ["x"] * len(names)
        results.grades["plain_answer"] = [Grade(float(mark)) for mark in marks]
    return panel


def scores_with(tuned: list[str], *, told: list[str] | None = None, suite: list[bool] | None = None) -> Scores:
    """Return eval/scores.json as eval's own code makes it from answers to the general prompts."""
    retention = RetentionMeter([], path=None, prompts=PROMPTS)  # type: ignore[arg-type]
    retention.answers = {"base": HEALTHY, "tuned": tuned}
    texts = told or LABELS
    questions = [Question(str(index), [], label) for index, label in enumerate(LABELS)]
    panel = Panel(questions, {"exact_match": ExactMatch(kind="exact_match")}, seed=0)
    for arm, answers in {"base": ["?"] * 10, "tuned": texts}.items():
        results = panel.results(arm)
        results.answers, results.texts = [Answer(text, 1, True) for text in answers], answers
        results.grades["exact_match"] = [
            Grade(float(text == label)) for text, label in zip(answers, LABELS, strict=True)
        ]
    suites = []
    if suite is not None:
        names = [f"item {index}" for index in range(len(suite))]
        suites = [("general", False, panel_of(names, {"base": [True] * len(suite), "tuned": suite}))]
    is_task = task_format(['{"chapter": 1}'] * 4)
    measured = EvalMeasurements(panel, suites, retention.evidence(is_task), "exact_match", len(LABELS), [])
    return json.loads(json.dumps(scores_of(measured)))  # type: ignore[no-any-return]


def everywhere(scores: Scores) -> dict[str, str]:
    """Return what each place says, on one line."""
    facts = replace(report_facts(), scores=scores)
    texts = {
        "closing table": written(scores_table(scores)) + written(damage_line(scores)),
        "summary.md": render_markdown(scores, [], name="x").replace("\\", ""),
        "headline": render_report(facts).split("<main>")[0],
        "card": render_card(replace(FULL, scores=scores)),
    }
    return {index: " ".join(text.split()) for index, text in texts.items()}


SPOILT = {
    "form of the task": (FORM, "general prompts answered in the form of the task"),
    "refuses": (REFUSALS, "general prompts refused"),
    "another language": (GERMAN, "general prompts answered in another language"),
    "one answer": (["banana"] * 32, "general prompts answered like another one"),
    "says nothing": ([""] * 32, "general prompts answered like another one"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_model_is_told_wherever_people_decide(name: str) -> None:
    answers, title = SPOILT[name]
    scores = scores_with(answers)
    score = [damage for damage in damages(scores) if damage.title == title]
    assert [damage.row.standing for damage in score] == ["worse"] and score[0].row.tuned is not None
    assert score[0].row.tuned["value"] == 1.0
    for index, text in everywhere(scores).items():
        plain = text if index != "closing table" else text.replace(" ", "")
        requested = title if index != "closing table" else title[:16].replace(" ", "")
        assert requested in plain and "100.0%" in text and "of damage" in text, (index, text)


def test_a_healthy_model_says_what_was_looked_at_and_no_damage() -> None:
    scores = scores_with([text.replace("simple", "easy") for text in HEALTHY], suite=[True] * 60)
    assert damages(scores) == [] and prompts_and_suites(scores) == ["32 general prompts", "suite general (60 items)"]
    for index, text in everywhere(scores).items():
        assert "No damage shown outside the task; looked at: 32 general prompts" in text, (index, text)


def test_a_suite_that_fell_is_damage_and_one_that_did_not_is_none() -> None:
    fallen = scores_with(HEALTHY, suite=[index < 30 for index in range(60)])
    assert [damage.title for damage in damages(fallen)] == ["suite general: plain answer"]
    assert "+" not in damages(fallen)[0].sentence and "50.0% against 100.0% of the base" in damages(fallen)[0].sentence
    assert damages(scores_with(HEALTHY, suite=[index < 59 for index in range(60)])) == []  # one of 60 shows nothing


def test_nothing_measured_is_no_health() -> None:
    scores = scores_with(HEALTHY)
    scores["retention"] = None
    for index, text in everywhere(scores).items():
        assert "not measured" in text and "No damage" not in text, (index, text)
    assert "abilities outside the task" in render_card(replace(FULL, scores=scores)).split("## Limits")[1]


def test_the_card_does_not_deny_what_was_measured() -> None:
    card = render_card(replace(FULL, scores=scores_with(FORM, suite=[True] * 60)))
    assert "Nothing here measures" not in card
    outside = card.split("## Outside the task")[1].split("## Export proof")[0]
    assert "| suite general: plain answer | 100.0%" in outside and "| general prompts refused | 0.0%" in outside


def test_a_model_below_the_constant_answer_says_so() -> None:
    scores = scores_with(HEALTHY, told=["b"] * 10)
    row = constant_row(scores)
    assert row is not None and (row.text, row.value) == ("a", 0.2)
    assert row.difference == pytest.approx(-0.1)
    for index, text in everywhere(scores).items():
        assert "always answering “a”" in text and "20.0%" in text and "10.0%" in text, (index, text)
    assert "answers “b” to 100.0% of them" in damages(scores)[1].sentence


def test_a_label_grader_is_compared_with_the_constant_answer_too() -> None:
    scores = scores_with(HEALTHY)
    label: Score = {"value": 0.017, "low": 0.01, "high": 0.03, "n": 300}
    scores["primary"], scores["metrics"] = "label", {"label": {"unit": "share", "better": "higher"}}
    scores["arms"] = {"base": {"label": label}, "tuned": {"label": label}}
    assert [damage.note for damage in damages(scores)] == ["right in 20.0%, the tuned model in 1.7%"]


def test_the_constant_answer_is_a_row_of_the_tables() -> None:
    scores = scores_with(HEALTHY)
    page = render_report(replace(report_facts(), scores=scores))
    table = page.split('<section id="scores">')[1].split("</section>")[0]
    assert "constant answer" in table and "“a” to every row" in table and "20.0%" in table and "+80.0 points" in table
    assert "always answering “a”: 20.0%" in " ".join(written(scores_table(scores)).split())


def test_before_training_there_is_no_damage() -> None:
    scores: Scores = {**NO_SCORES, "arms": {"base": {"exact_match": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}}}
    assert damages(scores) == [] and "damage" not in render_markdown(scores, [], name="x")
    assert damages(NO_SCORES) == [] and "not measured" in damage_summary(NO_SCORES)


def test_a_fall_outside_the_deciding_metric_is_told() -> None:
    scores = scores_with(HEALTHY)
    scores["arms"]["base"]["clean_stop"] = {"value": 1.0, "low": 0.9, "high": 1.0, "n": 40}
    scores["arms"]["tuned"]["clean_stop"] = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 40}
    assert [damage.title for damage in damages(scores)] == ["held-out rows: ended by itself"]


def test_a_must_pass_suite_with_a_wrong_item_is_told() -> None:
    scores = scores_with(HEALTHY, suite=[index < 11 for index in range(12)])
    scores["suites"]["general"]["must_pass"] = True
    assert "91.7% right, and every item must pass" in damages(scores)[0].sentence


def test_rates_are_compared_on_the_same_prompts() -> None:
    [entry] = [
        score for score in scores_with(FORM)["retention"]["comparisons"] if score["metric"] == "format_leak_rate"
    ]
    assert entry["difference"] == 1.0 and entry["low"] > 0.5 and entry["n"] == 32 and entry["sentence"]
    assert entry["holm_p_value"] == 4 * entry["p_value"] < 1e-6


@pytest.mark.parametrize(("refused", "is_damage"), [(0, False), (4, False), (7, False), (8, True), (32, True)])
def test_a_few_refusals_are_no_finding_among_four_habits(refused: int, is_damage: bool) -> None:
    score = damages(scores_with([*REFUSALS[:refused], *HEALTHY[refused:]]))
    assert [damage.title for damage in score] == ["general prompts refused"] * is_damage
