from __future__ import annotations

from dataclasses import replace

import pytest

from trainer.scoring.decision import Choice, confidence, decide, rows_needed
from trainer.scoring.explanation import because, headline, rows_for, would_change
from trainer.scoring.grounds import (
    ArmGrounds,
    Grounds,
    Interval,
    make_table,
    paired_differences,
    resample,
)

from .measured import Made, make, wilson

KINDS = ("format", "style", "knowledge", "refusal", "other")


def grounds_of(arms: list[Made], rows: int = 200, **changes: object) -> Grounds:
    scores, predictions = make(arms, rows)
    table = make_table(predictions, "exact_match", [arm.name for arm in arms])
    resamples = resample(table, seed=0)
    assert resamples is not None
    measured = {}
    for arm in arms:
        score = scores["arms"][arm.name]["exact_match"]
        measured[arm.name] = ArmGrounds(
            name=arm.name,
            model=arm.model,
            quality=Interval(score["value"], score["low"], score["high"]),
            failures=scores["facts"][arm.name]["failures"],
            documents=arm.documents,
            shots=arm.shots,
            latency_p95_s=arm.latency,
        )
    made = Grounds("exact_match", 0.95, rows, measured, paired_differences(table, resamples))
    return replace(made, **changes)  # type: ignore[arg-type]


BASE = Made("base", 0.3, failure="format")
GOOD_PROMPT = Made("few_shot", 0.995, shots=4)
PROMPT = Made("few_shot", 0.6, shots=4, failure="format")
TUNED = Made("tuned", 0.9, model="tuned")
UNHELPFUL = Made("tuned", 0.61, model="tuned")
CASES = {
    "hardly any rows": ([BASE, TUNED], 12, {}, "insufficient_evidence"),
    "target reached on too few rows": ([Made("few_shot", 1.0)], 40, {}, "insufficient_evidence"),
    "target reached but not shown": ([Made("few_shot", 0.955)], 200, {}, "insufficient_evidence"),
    "no untuned arm": ([TUNED], 200, {}, "insufficient_evidence"),
    "few rows and no clear difference": ([PROMPT, UNHELPFUL], 40, {}, "insufficient_evidence"),
    "good prompt": ([BASE, GOOD_PROMPT], 400, {}, "prompt"),
    "good prompt and a tuned arm": ([GOOD_PROMPT, Made("tuned", 1.0, model="tuned")], 400, {}, "prompt"),
    "good prompt too slow": ([replace(GOOD_PROMPT, latency=3.0)], 400, {"latency_limit_s": 1.0}, "smaller_tuned_model"),
    "a slower prompt is better, a fast one enough": (
        [replace(GOOD_PROMPT, latency=3.0), Made("fast", 0.985, latency=0.2)],
        600,
        {"latency_limit_s": 1.0},
        "prompt",
    ),
    "large volume": ([BASE, PROMPT], 200, {"requests_per_day": 2e6}, "smaller_tuned_model"),
    "tuned better": ([BASE, PROMPT, TUNED], 200, {}, "tune"),
    "tuned not better": ([BASE, PROMPT, UNHELPFUL], 200, {}, "do_not_tune"),
    "tuned worse": ([BASE, PROMPT, Made("tuned", 0.3, model="tuned")], 200, {}, "do_not_tune"),
    "tuned not better, knowledge missing": (
        [replace(PROMPT, failure="knowledge"), UNHELPFUL],
        200,
        {},
        "do_not_tune",
    ),
    "tuned as good and cheaper": (
        [Made("few_shot", 0.9), Made("tuned", 0.9, model="tuned")],
        4000,
        {"requests_per_day": 1e5, "cost_per_day": {"few_shot": 90.0, "tuned": 20.0}},
        "tune",
    ),
    "tuned as good and dearer": (
        [Made("few_shot", 0.9), Made("tuned", 0.9, model="tuned")],
        4000,
        {"requests_per_day": 1e3, "cost_per_day": {"few_shot": 1.0, "tuned": 20.0}},
        "do_not_tune",
    ),
    "before training, failing on form": ([BASE, PROMPT], 200, {}, "tune"),
    "before training, failing on style": ([replace(PROMPT, failure="style")], 200, {}, "tune"),
    "before training, failing on knowledge": ([replace(PROMPT, failure="knowledge")], 200, {}, "rag_first"),
    "documents help": (
        [replace(PROMPT, failure="knowledge"), Made("rag", 0.8, documents=True, failure="other"), UNHELPFUL],
        200,
        {},
        "rag_first",
    ),
    "documents do not help": (
        [replace(PROMPT, failure="knowledge"), Made("rag", 0.58, documents=True, failure="knowledge")],
        200,
        {},
        "refine_prompt_or_data",
    ),
    "tuned beats documents": (
        [replace(PROMPT, failure="knowledge"), Made("rag", 0.7, documents=True), TUNED],
        200,
        {},
        "tune",
    ),
    "before training, other failures": ([replace(PROMPT, failure="other")], 200, {}, "refine_prompt_or_data"),
}


@pytest.mark.parametrize(("arms", "rows", "changes", "verdict"), CASES.values(), ids=CASES)
def test_each_branch_is_reached_by_its_measurement(
    arms: list[Made], rows: int, changes: dict[str, object], verdict: str
) -> None:
    grounds = grounds_of(arms, rows, **changes)
    choice = decide(grounds)
    assert choice.verdict == verdict
    sentences = [headline(grounds, choice), *because(grounds, choice, {}), *would_change(grounds, choice, None)]
    assert all(sentence.endswith(".") and "nan" not in sentence and "None" not in sentence for sentence in sentences)
    assert any(character.isdigit() for sentence in sentences for character in sentence)


def test_a_clear_case_is_sure_and_a_close_one_is_not() -> None:
    for arms, at_least, at_most in (
        ([BASE, PROMPT, TUNED], 0.99, 1.0),
        ([PROMPT, Made("tuned", 0.7, model="tuned")], 0.2, 0.97),
    ):
        scores, predictions = make(arms, 200)
        assert scores["heldout_rows"] == 200
        grounds = grounds_of(arms)
        table = make_table(predictions, "exact_match", [arm.name for arm in arms])
        share, shares = confidence(grounds, resample(table, seed=1), decide(grounds).verdict)
        assert share is not None and at_least <= share <= at_most
        assert sum(shares.values()) == pytest.approx(1.0)


def test_without_graded_rows_nothing_is_said_about_confidence() -> None:
    table = make_table([], "exact_match", ["base"])
    assert confidence(grounds_of([BASE]), resample(table, seed=0), "tune") == (None, {})


def test_rows_of_a_group_are_drawn_together() -> None:
    arms = [Made("base", 0.5)]
    _, single = make(arms, 200)
    grouped = [{**row, "group": f"g{index // 50}"} for index, row in enumerate(single)]
    for index, row in enumerate(grouped):
        row["answers"]["base"]["grades"]["exact_match"] = float(index // 50 % 2)
    spread = {}
    for name, rows in (("single", make(arms, 200)[1]), ("grouped", grouped)):
        resamples = resample(make_table(rows, "exact_match", ["base"]), seed=0)
        assert resamples is not None
        spread[name] = resamples.shifts.std()
    assert spread["grouped"] > 4 * spread["single"]  # four groups instead of two hundred rows


def test_only_rows_that_every_arm_answered_are_compared() -> None:
    _, predictions = make([BASE, TUNED], 50)
    del predictions[3]["answers"]["tuned"]
    predictions[4]["answers"]["base"]["grades"] = {}
    predictions[5]["answers"]["base"]["grades"]["exact_match"] = float("nan")
    assert make_table(predictions, "exact_match", ["base", "tuned"]).num_rows == 47


def test_rows_needed_are_those_of_a_run_without_failure() -> None:
    assert rows_needed(0.95) == 59 and rows_needed(0.9) == 29


def test_the_rows_said_to_be_enough_are_enough() -> None:
    rows = rows_for(0.97, 0.95)
    assert wilson(round(0.97 * rows), rows)["low"] == pytest.approx(0.95, abs=0.003)
    assert wilson(round(0.97 * rows / 2), rows // 2)["low"] < 0.947


def test_a_zero_shot_prompt_alone_is_said_to_be_no_test_of_prompting() -> None:
    grounds = grounds_of([BASE, UNHELPFUL])
    said = " ".join(would_change(grounds, decide(grounds), None))
    assert "zero-shot" in said and "dynamic_few_shot" in said


@pytest.mark.parametrize(
    ("at", "volume", "said"),
    [(None, 100.0, "never"), (5000.0, 100.0, "More than 5,000"), (5000.0, 9000.0, "Fewer than 5,000")],
)
def test_the_break_even_is_among_what_would_change_the_verdict(at: float | None, volume: float, said: str) -> None:
    grounds = grounds_of([PROMPT, TUNED], requests_per_day=volume)
    choice: Choice = decide(grounds)
    sentences = would_change(grounds, choice, {"requests_per_day": at, "first": None, "replicas": None})
    assert any(said in sentence for sentence in sentences)
