from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.scoring.measured import Made, make
from trainer.decide.branches import BRANCHES
from trainer.decide.budget import ASSUMED
from trainer.decide.case import rows_needed
from trainer.decide.changes import branch_table, would_change
from trainer.decide.explanation import because
from trainer.decide.headline import headline
from trainer.decide.inputs import ArmInputs, DecisionInputs, Interval
from trainer.decide.resamples import make_table, paired_differences, resample
from trainer.decide.verdict import confidence, decide


def inputs_of(arms: list[Made], rows: int = 200, **changes: object) -> DecisionInputs:
    scores, predictions = make(arms, rows)
    table = make_table(predictions, "exact_match", [arm.name for arm in arms])
    measured = {}
    for arm in arms:
        score = scores["arms"][arm.name]["exact_match"]
        measured[arm.name] = ArmInputs(
            name=arm.name,
            model=arm.model,
            quality=Interval(score["value"], score["low"], score["high"]),
            failures=scores["facts"][arm.name]["failures"],
            documents=arm.documents,
            shots=arm.shots,
            latency_p95_s=arm.latency,
        )
    inputs = DecisionInputs("exact_match", 0.95, rows, measured, paired_differences(table, 0))
    return replace(inputs, **changes)  # type: ignore[arg-type]


BASE = Made("base", 0.3, failure="format")
GOOD_PROMPT = Made("few_shot", 0.995, shots=4)
PROMPT = Made("few_shot", 0.6, shots=4, failure="format")
TUNED = Made("tuned", 0.9, model="tuned")
UNHELPFUL = Made("tuned", 0.61, model="tuned")
KNOWLEDGE = Made("few_shot", 0.3, shots=4, failure="knowledge")
SLOW, LIMIT = replace(GOOD_PROMPT, latency=3.0), {"latency_limit_s": 1.0}


def tuned(right: float, latency: float = 0.5) -> Made:
    return Made("tuned", right, model="tuned", latency=latency)


def costs(volume: float, prompt: float, second: float, name: str = "tuned", **accepted: float) -> dict[str, object]:
    a_day = {"few_shot": prompt, name: second}
    return {"requests_per_day": volume, "cost_per_day": a_day, "cost_per_accepted": accepted}


Case = tuple[list[Made], int, dict[str, object], str]
"""Arms, rows, what else is stated, and the branch that must hold."""
CASES: dict[str, Case] = {
    "no untuned arm": ([TUNED], 200, {}, "no_prompted_arm"),
    "an endpoint alone": ([Made("big", 0.995, model="endpoint")], 400, {}, "prompt_enough"),
    "hardly any rows": ([BASE, TUNED], 12, {}, "few_rows"),
    "one row": ([Made("base", 1.0)], 1, {}, "few_rows"),
    "target reached on too few rows": ([Made("few_shot", 1.0)], 40, {}, "target_unclear"),
    "20 rows all right": ([Made("base", 1.0)], 20, {}, "target_unclear"),
    "target reached but not shown": ([Made("few_shot", 0.955)], 200, {}, "target_unclear"),
    "few rows and no clear difference": ([PROMPT, UNHELPFUL], 40, {}, "rows_unclear"),
    "all arms are too slow": ([replace(BASE, right=0.9, latency=3.0), tuned(0.3, 4.0)], 200, LIMIT, "none_in_time"),
    "all arms are too slow, the tuned one better": (
        [replace(BASE, latency=3.0), tuned(0.9, 4)],
        200,
        LIMIT,
        "none_in_time",
    ),
    "good prompt too slow, nothing trained": ([SLOW], 400, LIMIT, "prompts_too_slow"),
    "good prompt too slow, tuned as good": ([SLOW, tuned(0.995)], 400, LIMIT, "tuned_in_time"),
    "prompt too slow, tuned better": ([replace(PROMPT, latency=3.0), tuned(0.9)], 400, LIMIT, "tuned_in_time"),
    "good prompt too slow, tuned far worse": ([SLOW, tuned(0.4)], 400, LIMIT, "tuned_in_time_worse"),
    "prompt too slow, tuned perhaps as good": (
        [Made("few_shot", 0.9, latency=3.0), tuned(0.9)],
        200,
        LIMIT,
        "tuned_in_time_unclear",
    ),
    "a slower prompt is better, a fast one enough": (
        [SLOW, Made("fast", 0.985, latency=0.2)],
        600,
        LIMIT,
        "prompt_enough",
    ),
    "a slower prompt is enough, a fast one is not": (
        [replace(SLOW, name="slow"), replace(PROMPT, latency=0.2), tuned(0.9)],
        400,
        LIMIT,
        "tuned_better",
    ),
    "a limit, and no latency measured": ([GOOD_PROMPT], 400, {"latency_limit_s": 9.0}, "prompt_enough"),
    "good prompt": ([BASE, GOOD_PROMPT], 400, {}, "prompt_enough"),
    "good prompt and a tuned arm": ([GOOD_PROMPT, tuned(1.0)], 400, {}, "prompt_enough"),
    "all arms equal and good": ([Made("base", 1.0), Made("few_shot", 1.0), tuned(1.0)], 200, {}, "prompt_enough"),
    "all arms equal and bad": ([Made("base", 0.0), Made("few_shot", 0.0), tuned(0.0)], 200, {}, "tuned_not_better"),
    "good prompt, tuned as good and cheaper": (
        [GOOD_PROMPT, tuned(0.995)],
        400,
        costs(1e5, 90, 20),
        "tuned_as_good_cheaper",
    ),
    "good prompt, tuned as good and dearer": ([GOOD_PROMPT, tuned(0.995)], 400, costs(10, 0.01, 20), "prompt_enough"),
    "good prompt, tuned worse and cheaper": ([GOOD_PROMPT, tuned(0.6)], 400, costs(1e5, 90, 20), "prompt_enough"),
    "good prompt, tuned cheaper and slow": (
        [GOOD_PROMPT, tuned(0.995, 4.0)],
        400,
        costs(1e5, 90, 20) | LIMIT,
        "prompt_enough",
    ),
    "good prompt, large volume, no prices": ([GOOD_PROMPT], 400, {"requests_per_day": 2e6}, "prompt_too_dear"),
    "good prompt, large volume, and cheap": ([GOOD_PROMPT], 400, costs(2e6, 9, 20, ASSUMED), "prompt_enough"),
    "good prompt, dear, nothing trained": ([GOOD_PROMPT], 400, costs(1e5, 90, 20, ASSUMED), "prompt_too_dear"),
    "large volume, prompt not enough": ([BASE, PROMPT], 200, {"requests_per_day": 2e6}, "form"),
    "2 M a day, tuned far worse": (
        [Made("base", 0.9), tuned(0.3)],
        200,
        {"requests_per_day": 2e6},
        "tuned_worse",
    ),
    "tuned better and too slow": ([replace(BASE, right=0.5), tuned(0.9, 4.0)], 200, LIMIT, "tuned_too_slow"),
    "tuned no better and too slow": ([PROMPT, tuned(0.61, 4.0)], 200, LIMIT, "tuned_slow_and_no_better"),
    "tuned better": ([BASE, PROMPT, TUNED], 200, {}, "tuned_better"),
    "tuned better, at a large volume": ([BASE, PROMPT, TUNED], 200, {"requests_per_day": 2e6}, "tuned_better"),
    "tuned better and cheaper": ([PROMPT, TUNED], 200, costs(1e5, 90, 20, few_shot=2, tuned=0.1), "tuned_better"),
    "tuned better, dearer, right answers cheaper": (
        [PROMPT, TUNED],
        200,
        costs(1e5, 18, 20, few_shot=0.3, tuned=0.22),
        "tuned_better",
    ),
    "tuned better and 20,000 times dearer": (
        [PROMPT, TUNED],
        200,
        costs(10, 0.0035, 74.84, few_shot=0.0006, tuned=8.3),
        "tuned_too_dear",
    ),
    "tuned dearer, and it alone reaches the target": (
        [PROMPT, tuned(0.995)],
        400,
        costs(1000, 0.35, 20, few_shot=0.0006, tuned=0.02),
        "tuned_better",
    ),
    "tuned as good and cheaper": ([Made("few_shot", 0.9), tuned(0.9)], 4000, costs(1e5, 90, 20), "tuned_cheaper"),
    "tuned as good and dearer": ([Made("few_shot", 0.9), tuned(0.9)], 4000, costs(1e3, 1, 20), "tuned_not_better"),
    "tuned not better": ([BASE, PROMPT, UNHELPFUL], 200, {}, "tuned_not_better"),
    "tuned worse": ([BASE, PROMPT, tuned(0.3)], 200, {}, "tuned_worse"),
    "tuned worse than base": ([Made("base", 0.6), tuned(0.1)], 200, {}, "tuned_worse"),
    "tuned not better, knowledge missing": ([replace(KNOWLEDGE, right=0.6), UNHELPFUL], 200, {}, "tuned_not_better"),
    "documents help, tuned does not": (
        [replace(KNOWLEDGE, right=0.6), Made("rag", 0.8, documents=True, failure="other"), UNHELPFUL],
        200,
        {},
        "documents_better",
    ),
    "tuned beats documents": (
        [replace(KNOWLEDGE, right=0.6), Made("rag", 0.7, documents=True), TUNED],
        200,
        {},
        "tuned_better",
    ),
    "documents are enough": ([KNOWLEDGE, Made("rag", 0.99, documents=True)], 400, {}, "prompt_enough"),
    "failing on form": ([BASE, PROMPT], 200, {}, "form"),
    "failing on style": ([replace(PROMPT, failure="style")], 200, {}, "form"),
    "failing on knowledge": ([KNOWLEDGE], 200, {}, "documents_first"),
    "documents hardly help": (
        [KNOWLEDGE, Made("rag", 0.32, documents=True, failure="knowledge")],
        200,
        {},
        "documents_not_enough",
    ),
    "documents help and are not enough": (
        [KNOWLEDGE, Made("rag", 0.5, documents=True, failure="other")],
        200,
        {},
        "documents_not_enough",
    ),
    "documents alone, and not enough": (
        [Made("rag", 0.5, documents=True, failure="knowledge")],
        200,
        {},
        "documents_not_enough",
    ),
    "labels, examples tried": ([KNOWLEDGE], 200, {"closed_set": True}, "examples_not_enough"),
    "labels, no examples tried": (
        [Made("base", 0.3, failure="knowledge")],
        200,
        {"closed_set": True},
        "examples_first",
    ),
    "labels, and documents in the recipe": (
        [KNOWLEDGE],
        200,
        {"closed_set": True, "documents_exist": True},
        "documents_first",
    ),
    "failing on other things": ([replace(PROMPT, failure="other")], 200, {}, "otherwise"),
    "refusing": ([replace(PROMPT, failure="refusal")], 200, {}, "otherwise"),
}


@pytest.mark.parametrize(("arms", "rows", "changes", "branch"), CASES.values(), ids=CASES)
def test_each_branch_is_reached_by_its_measurement(
    arms: list[Made], rows: int, changes: dict[str, object], branch: str
) -> None:
    choice = decide(inputs_of(arms, rows, **changes))
    assert choice.branch.name == branch
    sentences = [headline(choice), *because(choice, {}), *would_change(choice)]
    assert all(sentence.endswith(".") and "nan" not in sentence and "None" not in sentence for sentence in sentences)
    assert any(character.isdigit() for sentence in sentences for character in sentence)


def test_every_branch_has_a_case() -> None:
    assert {branch.name for branch in BRANCHES} == {branch for *_, branch in CASES.values()}


def test_the_page_shows_the_table_of_the_code() -> None:
    page = (Path(__file__).parents[3] / "docs" / "decide.md").read_text(encoding="utf-8")
    rows = [f"| {condition} | `{verdict}` | {change} |\n" for verdict, condition, change in branch_table()]
    assert "".join(rows) in page


RIGHT: dict[str, tuple[str, tuple[str, ...]]] = {
    "all arms are too slow": ("nothing_fits", ("no arm is in time", "3.00 s", "limit of 1 s")),
    "2 M a day, tuned far worse": ("do_not_tune", ("shown worse than base by -60.0 points",)),
    "tuned better and too slow": ("nothing_fits", ("+40.0 points", "takes 4.00 s, above the limit of 1 s")),
    "documents hardly help": ("tune", ("documents were tried and are not enough",)),
    "documents help and are not enough": ("tune", ("documents were tried and are not enough",)),
    "tuned better and 20,000 times dearer": ("do_not_tune", ("costs 74.84 a day against 0.0035", "10 requests a day")),
    "20 rows all right": ("insufficient_evidence", ("20 held-out rows",)),
    "labels, no examples tried": ("refine_prompt_or_data", ("closed set", "Examples first")),
    "labels, examples tried": ("tune", ("examples were tried",)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_situations_that_were_once_decided_wrongly(case: str) -> None:
    arms, rows, changes, _ = CASES[case]
    choice = decide(inputs_of(arms, rows, **changes))
    verdict, parts = RIGHT[case]
    assert choice.verdict == verdict
    assert all(part in headline(choice) for part in parts)


def test_of_two_prompts_that_reach_the_target_the_cheaper_counts() -> None:
    arms = [Made("cheap", 0.99), Made("dear", 0.995), Made("below", 0.5)]
    for changes in (
        {"cost_per_day": {"cheap": 1.0, "dear": 150.0, "below": 0.1}},
        {"cost_per_1000": {"cheap": 1, "dear": 2}},
    ):
        choice = decide(inputs_of(arms, 1000, **changes))
        assert (choice.verdict, choice.prompted) == ("prompt", "cheap")
        assert any(sentence.startswith("dear has") and "costs more" in sentence for sentence in because(choice, {}))
    unpriced = decide(inputs_of(arms, 1000, cost_per_day={"cheap": 1.0}))
    assert unpriced.prompted == "dear"


def at(volume: float, *, tuned_right: float = 0.9, rows: int = 200) -> DecisionInputs:
    """Return an endpoint at 0.00035 a request, 60 % right, against 74.84 a day, whatever the volume."""
    endpoint, hosted = 0.00035 * volume, 74.84
    arms = [Made("few_shot", 0.6, shots=4, failure="other"), Made("tuned", tuned_right, model="tuned")]
    accepted = {"few_shot": 0.00035 / 0.6, "tuned": hosted / volume / tuned_right}
    return inputs_of(arms, rows, **costs(volume, endpoint, hosted, **accepted))


def test_a_volume_is_named_where_another_verdict_holds_and_nowhere_else() -> None:
    few, many = decide(at(10)), decide(at(1e6))
    assert (few.verdict, many.verdict) == ("do_not_tune", "tune")
    crossing = 74.84 / 0.9 / (0.00035 / 0.6)  # where a right answer costs the same
    message = next(sentence for sentence in would_change(few, at) if "requests a day" in sentence)
    assert message == f"More than {crossing:,.0f} requests a day: tune."
    assert any(f"Fewer than {crossing:,.0f} requests a day: do not tune" in text for text in would_change(many, at))
    sure = decide(inputs_of([PROMPT, TUNED]))
    assert not any("requests a day" in sentence for sentence in would_change(sure, lambda _: sure.case.inputs))


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_to_change_the_verdict_does(case: str) -> None:
    """Every sentence that names another verdict names one that is not this one."""
    arms, rows, changes, _ = CASES[case]
    choice = decide(inputs_of(arms, rows, **changes))
    words = {"do_not_tune": ": do not tune.", "prompt": ": prompt.", "tune": ": tune."}
    assert not any(sentence.endswith(words.get(choice.verdict, ": -")) for sentence in would_change(choice))


def test_more_rows_are_named_where_they_would_settle_it() -> None:
    sentences = would_change(decide(inputs_of([Made("base", 0.97)], 200)))
    assert any("held-out rows: prompt." in sentence for sentence in sentences)


def test_only_changes_of_the_target_that_matter_are_named() -> None:
    sentences = would_change(decide(inputs_of([BASE, PROMPT, TUNED])))
    assert any(sentence.startswith("A target of 53.") and sentence.endswith(": prompt.") for sentence in sentences)


def test_bm25_is_named_where_a_stronger_retriever_is_not_installed() -> None:
    measured = inputs_of([PROMPT, TUNED])
    arms = {**measured.arms, "few_shot": replace(measured.arms["few_shot"], stronger_retriever="pip install x")}
    text = " ".join(because(decide(replace(measured, arms=arms)), {}))
    assert "few_shot: what is shown was found by BM25" in text and "pip install x" in text
    assert "BM25" not in " ".join(because(decide(measured), {}))


def test_equal_arms_have_a_difference_of_some_width() -> None:
    result = inputs_of([Made("base", 1.0), tuned(1.0)], 20).differences["tuned", "base"]
    assert result.low < 0 < result.high


def test_a_clear_case_is_sure_and_a_close_one_is_not() -> None:
    for arms, at_least, at_most in (
        ([BASE, PROMPT, TUNED], 0.99, 1.0),
        ([PROMPT, Made("tuned", 0.7, model="tuned")], 0.2, 0.97),
    ):
        scores, predictions = make(arms, 200)
        assert scores["heldout_rows"] == 200
        inputs = inputs_of(arms)
        table = make_table(predictions, "exact_match", [arm.name for arm in arms])
        share, shares = confidence(inputs, resample(table, seed=1), decide(inputs).verdict)
        assert share is not None and at_least <= share <= at_most
        assert sum(shares.values()) == pytest.approx(1.0)


def test_without_graded_rows_nothing_is_said_about_confidence() -> None:
    table = make_table([], "exact_match", ["base"])
    assert confidence(inputs_of([BASE]), resample(table, seed=0), "tune") == (None, {})


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


def test_a_zero_shot_prompt_alone_is_said_to_be_no_test_of_prompting() -> None:
    text = " ".join(would_change(decide(inputs_of([BASE, UNHELPFUL]))))
    assert "zero-shot" in text and "dynamic_few_shot" in text


def test_documents_that_are_enough_and_too_slow_are_told_as_slow() -> None:
    base, slow = Made("base", 0.3, failure="knowledge", latency=0.2), Made("rag", 0.99, documents=True, latency=5.0)
    line = headline(decide(inputs_of([base, slow], 400, latency_limit_s=1.0)))
    assert "rag has 99.0%" in line and "rag" in line and "takes 5.00 s, above the limit of 1 s" in line
