"""One arm on one set of questions, with a speaker that says what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from trainer.errors import DataError
from trainer.recipe.arms import Arm, Prompt
from trainer.recipe.gates import Gate
from trainer.recipe.metrics import (
    Confidence,
    Contains,
    ExactMatch,
    Grader,
    JsonFields,
    JsonSchema,
    Label,
    MultipleChoice,
    ValidJson,
)
from trainer.scoring.gates.judge import judge
from trainer.scoring.measure import ArmRun
from trainer.scoring.question import Answer, PromptRequest, Question, Timing, prompt_of
from trainer.scoring.results import ArmResults, Panel
from trainer.scoring.statistics.measurements import Evidence

Say = Callable[[PromptRequest], str]


class Speaker:
    """Says `say(asked)`; every prompt that it is given is kept."""

    def __init__(self, say: Say, *, tells_choices: bool = True) -> None:
        self.say = say
        self.tells_choices = tells_choices
        self.asked: list[PromptRequest] = []
        self.timed = 0

    def answers(self, requests: Sequence[PromptRequest], on_done: Callable[[], None]) -> list[Answer]:
        self.asked += requests
        for _ in requests:
            on_done()
        return [Answer(self.say(prompt), 2, finished=True, prompt_tokens=5) for prompt in requests]

    def fits(self, request: PromptRequest) -> bool:
        return True

    def timings(self, requests: Sequence[PromptRequest]) -> list[Timing]:
        self.timed += len(requests)
        return [Timing(0.1, 0.2 + index, 2) for index in range(len(requests))]

    def figures(self, requests: Sequence[PromptRequest], concurrency: int) -> dict[str, float]:
        return {"throughput_rps": 3.0}

    def choice_scores(self, questions: Sequence[Question], choices: Sequence[list[str]]) -> list[list[float]]:
        return [[-float(len(choice)) for choice in row] for row in choices]


def ask(index: int, reference: str | None = "yes", **row: Any) -> Question:
    return Question(f"s/{index}", [{"role": "user", "content": f"q{index}"}], reference, row, group=f"g{index}")


def run(
    speaker: Speaker, questions: list[Question], graders: list[list[Grader]], arm: Arm | None = None, **settings: int
) -> tuple[ArmResults, Panel]:
    """Measure, and return the results with the panel that holds them."""
    jobs: list[int] = []
    metrics = {grader.title: grader for row in graders for grader in row}
    panel = Panel(questions, metrics, 0)
    prompts = [prompt_of(question) for question in questions]
    arm_run = ArmRun(
        arm or Arm(name="base"), speaker, panel, prompts, graders, on_answer=lambda: jobs.append(1), **settings
    )
    results = arm_run.measure()
    assert len(jobs) >= len(questions)
    return results, panel


def scores(result: ArmResults, metric: str) -> list[float | None]:
    return [None if grade is None else grade.score for grade in result.grades[metric]]


def test_each_question_is_marked_by_its_own_graders() -> None:
    questions = [ask(0), ask(1, "no", accepted="maybe"), ask(2, None)]
    graders: list[list[Grader]] = [[ExactMatch()], [ExactMatch(key="accepted")], [Contains(values=["say"])]]
    results, panel = run(
        Speaker(lambda request: ["yes", "maybe", "say"][int(request.messages[0]["content"][1])]), questions, graders
    )
    assert scores(results, "exact_match") == [1.0, 1.0, None] and scores(results, "contains") == [None, None, 1.0]
    assert panel.scores()["base"]["exact_match"]["n"] == 2


def test_choices_are_never_generated_where_the_model_tells_them() -> None:
    questions = [ask(0, "b", choices=["aa", "b"]), ask(1, "aa", choices=["aa", "b"]), ask(2)]
    graders: list[list[Grader]] = [[MultipleChoice()], [MultipleChoice()], [ExactMatch()]]
    speaker = Speaker(lambda request: "yes")
    results, panel = run(speaker, questions, graders, latency_rows=5)
    assert [prompt.messages[0]["content"] for prompt in speaker.asked] == ["q2"] and speaker.timed == 1
    assert scores(results, "multiple_choice") == [1.0, 0.0, None]
    assert panel.scores()["base"]["clean_stop"]["n"] == 1


def test_choices_are_listed_for_a_model_that_does_not_tell_them() -> None:
    speaker = Speaker(lambda request: "B", tells_choices=False)
    questions = [ask(0, "b", choices=["aa", "b"]), ask(1, "b", choices=["aa", "b"], topic="x")]
    results, panel = run(speaker, questions, [[MultipleChoice(when={"topic": "x"})]] * 2)
    assert (
        scores(results, "multiple_choice") == [None, 1.0] and "A. aa\nB. b" in speaker.asked[0].messages[0]["content"]
    )
    assert len(speaker.asked) == 1 and panel.scores()["base"]["multiple_choice"]["n"] == 1


def test_an_answer_of_the_wrong_form_gets_one_more_attempt_and_both_are_counted() -> None:
    def say(request: PromptRequest) -> str:
        if len(request.messages) > 1:
            assert request.messages[1] == {"role": "assistant", "content": "oops"}
            return '{"a": 1}' if request.messages[0]["content"] == "q0" else "still not"
        return "oops" if request.messages[0]["content"] != "q2" else '{"a": 1}'

    speaker = Speaker(say)
    questions = [ask(index, '{"a": 1}') for index in range(3)]
    results, _ = run(speaker, questions, [[JsonFields(), ValidJson()]] * 3, Arm(name="base", repair=True))
    assert scores(results, "valid_json") == [1.0, 0.0, 1.0] and results.facts["repairs"] == 2
    assert [answer.repaired for answer in results.answers] == [True, True, False] and len(speaker.asked) == 5
    assert results.answers[0].first_text == "oops"
    assert (results.answers[0].num_tokens, results.answers[0].prompt_tokens) == (4, 10)
    assert results.valid() == pytest.approx(2 / 3)


def test_reasoning_is_cut_off_before_it_is_marked_and_before_a_repair() -> None:
    arm = Arm(name="base", prompt=Prompt(text="Think.", reasoning_tag="thinking"), repair=True)
    schema = JsonSchema(schema={"type": "object"})
    speaker = Speaker(lambda request: '<thinking>{"a": </thinking>{"a": 1}')
    results, _ = run(speaker, [ask(0, '{"a": 1}')], [[ExactMatch(), schema]], arm)
    assert scores(results, "exact_match") == scores(results, "json_schema") == [1.0] and results.facts["repairs"] == 0


def test_a_calibration_error_is_no_mean_over_rows() -> None:
    """Right with 0.9 and wrong with 0.9 in turn: the error is 0.4, the mean squared distance 0.41."""
    questions = [ask(index, '{"answer": "yes"}') for index in range(10)]

    def say(request: PromptRequest) -> str:
        answer = "yes" if int(request.messages[0]["content"][1:]) % 2 else "no"
        return f'{{"answer": "{answer}", "confidence": 0.9}}'

    both: list[Grader] = [Confidence(name="ece"), Confidence(name="brier", measure="brier")]
    _, panel = run(Speaker(say), questions, [both] * 10)
    metrics = panel.scores()["base"]
    assert metrics["ece"]["value"] == pytest.approx(0.4) and metrics["ece"]["n"] == 10
    assert metrics["brier"]["value"] == pytest.approx((0.01 + 0.81) / 2)
    assert panel.evidence("base", "ece") is None and panel.evidence("base", "brier") is not None
    assert panel.comparisons([("base", "base")])[0]["metric"] == "brier"


def test_a_calibration_error_without_any_confidence_was_not_measured() -> None:
    for graders, text in (([Confidence()], "no JSON"), ([Confidence(when={"topic": "x"})], '{"confidence": 1}')):
        _, panel = run(Speaker(lambda request, text=text: text), [ask(0, '{"a": 1}')], [list(graders)])  # type: ignore[misc]
        assert "confidence" not in panel.scores()["base"]
        (gate,) = judge([Gate(metric="confidence", arm="base", max=1.0)], {"arms": panel.scores()}, lambda *_: None)
        assert gate["verdict"] == "not_run"


def test_labels_are_those_of_all_rows_together() -> None:
    questions = [ask(0, "red"), ask(1, "blue")]
    results, _ = run(Speaker(lambda request: "blue"), questions, [[Label()]] * 2)
    grades = results.grades["label"]
    assert scores(results, "label") == [0.0, 1.0] and grades[0] is not None and grades[0].failure == "knowledge"


def test_a_row_without_what_a_grader_needs_is_named() -> None:
    with pytest.raises(DataError, match=r"s/1: metric exact_match needs the field `gold`"):
        run(Speaker(lambda request: "x"), [ask(0, gold="x"), ask(1)], [[ExactMatch(key="gold")]] * 2)


def test_values_that_are_no_numbers_pass_no_gate() -> None:
    import numpy as np

    rows = Evidence("ratio", np.array([np.nan, 1.0]), np.ones(2))
    value = {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": 2}
    gates = [
        Gate(metric="loss", max=5.0),
        Gate(metric="loss", max=5.0, confidence=None),
        Gate(metric="loss", max_drop=5.0),
        Gate(metric="loss", layer="must_pass"),
    ]
    result = judge(gates, {"arms": {"tuned": {"loss": value}, "base": {"loss": value}}}, lambda *_: rows)
    assert not any(entry["passed"] for entry in result)
