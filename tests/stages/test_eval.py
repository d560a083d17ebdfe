"""The eval stage on tiny models: what is measured, what is kept, and what a gate says about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.trained import Trained
from trainer.recipe.load import load_suite
from trainer.scoring.graders.choice import right_choice
from trainer.scoring.question import Answer, PromptRequest, Question, Timing
from trainer.scoring.questions.suite import read_items
from trainer.stages import eval as stage

Fresh = Callable[..., Trained]
GENERAL = tiny.ROOT / "recipes" / "suites" / "general.yaml"
CAN_DROP = {"knowledge": 0.1, "truthfulness": 0.2, "arithmetic": 0.2, "refusal": 0.3, "plain_answer": 0.3}
"""Metrics of the shipped suite whose right answers are known without a model."""


class Scripted:
    """A responder that knows the answers of a suite by heart, or answers one word to everything."""

    tells_choices = True

    def __init__(self, questions: list[Question], word: str | None) -> None:
        self.questions = {json.dumps(question.messages): question for question in questions}
        self.word = word

    def answers(self, requests: list[PromptRequest], on_done: Callable[[], None]) -> list[Answer]:
        return [Answer(self.word or self.right(prompt), 1, finished=True) for prompt in requests]

    def right(self, request: PromptRequest) -> str:
        question = self.questions.get(json.dumps(request.messages))
        if question is None:
            return "of the task"
        if "expected" in question.row:
            return "I'm sorry, but I can't help with that." if question.row["expected"] == "refuse" else "Here it is."
        return question.reference or question.row.get("accepted", ["none"])[0]

    def fits(self, request: PromptRequest) -> bool:
        return True

    def timings(self, requests: list[PromptRequest]) -> list[Timing]:
        return []

    def choice_scores(self, questions: list[Question], choices: list[list[str]]) -> list[list[float]]:
        right = [0 if self.word else self.place(*pair) for pair in zip(questions, choices, strict=True)]
        return [[float(index == best) for index in range(len(row))] for best, row in zip(right, choices, strict=True)]

    def place(self, question: Question, choices: list[str]) -> int:
        suite = read_items(load_suite(GENERAL))
        graders = {
            item.id: graders_of_item[0] for item, graders_of_item in zip(suite.questions, suite.graders, strict=True)
        }
        return right_choice(graders[question.id], question, choices)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Let base know the shipped suite by heart, and the tuned model say `word`; None: know it as well."""

    def script(word: str | None) -> None:
        questions = read_items(load_suite(GENERAL)).questions

        def responder(work: Any, arm: Any, model: Any, limit: int) -> Scripted:
            return Scripted(questions, word if arm.model == "tuned" else None)

        monkeypatch.setattr(stage.EvalRun, "_responder", responder)

    return script


def suite_gates() -> list[dict[str, Any]]:
    return [{"suite": "general", "metric": metric, "max_drop": drop} for metric, drop in CAN_DROP.items()]


# A planted regression


def test_a_model_that_answers_everything_with_one_word_is_stopped_by_the_shipped_suite(
    trained: Trained, scripted: Callable[[str | None], None]
) -> None:
    scripted("yes")
    result = trained.call(suites=[str(GENERAL)], gates=suite_gates(), metrics=["exact_match"])
    assert result.code == 6 and "quality gate failed: suite general: tuned: knowledge drops" in result.err
    verdicts = {entry["gate"]["metric"]: entry["verdict"] for entry in trained.read("gates.json")}
    # half of the refusals want an answer, and any word is one: 6 of 12 prove a drop, not one of more than 0.3
    assert verdicts == dict.fromkeys(CAN_DROP, "fail") | {"refusal": "insufficient_evidence"}
    arms = trained.read("scores.json")["suites"]["general"]["arms"]
    assert all(arms["base"][metric]["value"] == 1.0 for metric in CAN_DROP)
    assert "<failure" in (trained.project.run / "eval/junit.xml").read_text()
    assert trained.project.call("export").code == 6 and not (trained.project.run / "export").exists()
    accepted = trained.project.call("export", "--accept", "failed-gate")
    assert accepted.code == 0, accepted.text
    assert json.loads((trained.project.run / "export/stage.json").read_text())["accepted"] == ["failed-gate"]


def test_a_model_that_kept_everything_passes_where_there_are_items_enough(
    trained: Trained, scripted: Callable[[str | None], None]
) -> None:
    scripted(None)
    result = trained.call(suites=[str(GENERAL)], gates=suite_gates(), metrics=["exact_match"])
    verdicts = {entry["gate"]["metric"]: entry["verdict"] for entry in trained.read("gates.json")}
    assert result.code == 0, (result.text, verdicts)


# Layers of gates


def test_each_layer_passes_only_by_what_was_measured(trained: Trained) -> None:
    """Too little evidence and a layer that did not run are no passes, and each is told apart."""
    gates = [
        {"metric": "loss", "max": 50.0},
        {"metric": "loss", "min_gain": 40.0},
        {"metric": "exact_match", "max_drop": 0.05},
        {"metric": "kl", "max": 1.0},
        {"metric": "latency_p50_s", "max": 100.0},
        {"suite": "general", "metric": "knowledge", "max_drop": 0.1},
        {"slice": {"topic": "none"}, "metric": "exact_match", "min": 0.1},
    ]
    result = trained.call(gates=gates, slices=["topic"])
    items = [(entry["layer"], entry["verdict"], entry["passed"]) for entry in trained.read("gates.json")]
    assert items == [
        ("task", "pass", True),
        ("task", "fail", False),
        ("task", "insufficient_evidence", False),
        ("retention", "not_run", False),
        ("operations", "not_run", False),
        ("retention", "not_run", False),
        ("task", "not_run", False),
    ]
    assert result.code == 6
    assert (trained.project.run / "eval/junit.xml").read_text().count("<failure ") == 6
    summary = (trained.project.run / "eval/summary.md").read_text()
    assert "not_run" in summary or "not run" in summary


def test_must_pass_items_are_named(trained: Trained, tmp_path: Path) -> None:
    items = [
        {"id": "any", "prompt": "Say a word.", "graders": [{"kind": "length", "unit": "characters", "max": 10_000}]},
        {"id": "lost", "prompt": "Say it.", "graders": [{"kind": "contains", "values": ["\u2603 never said"]}]},
    ]
    suite = {"suite_version": 1, "name": "cases", "must_pass": True, "max_new_tokens": 4, "items": items}
    (tmp_path / "cases.yaml").write_text(json.dumps(suite))
    gates = [
        {"suite": "cases", "metric": "contains", "layer": "must_pass"},
        {"suite": "cases", "metric": "length", "min": 1},
    ]
    result = trained.call(suites=["cases.yaml"], gates=gates)
    wrong, right = trained.read("gates.json")
    assert (
        result.code == 6 and "cases/lost" in result.err and (wrong["layer"], wrong["verdict"]) == ("must_pass", "fail")
    )
    assert right["passed"] and right["layer"] == "must_pass" and right["items"] == [{"id": "cases/any", "passed": True}]
    assert [line["id"] for line in trained.lines("suites.jsonl")] == ["cases/any", "cases/lost"]


# Arms, rows and turns


def talk(topic: str, *turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(turns)]
    return {"messages": messages, "topic": topic, "customer": f"c{topic}"}


def talks(count: int = 24) -> list[dict[str, Any]]:
    """Return rows of one and of two turns, in two topics."""
    results = []
    for index, row in enumerate(tiny.rows(count)):
        prompt, answer = (message["content"] for message in row["messages"])
        more = ["And its size?", f"size {index}"] if index % 2 else []
        results.append(talk("odd" if index % 2 else "even", prompt, answer, *more))
    return results


def test_every_turn_is_asked_after_its_true_history(fresh: Fresh) -> None:
    run = fresh(talks())
    run.evaluate(turns="last")
    last = run.lines()
    run.evaluate(turns="all")
    complete = run.lines()
    two_turns = [line for line in last if len(line["messages"]) == 3]
    assert two_turns and len(complete) == len(last) + len(two_turns)
    by_id = {line["id"]: line for line in complete}
    for line in two_turns:
        earlier = by_id[f"{line['id']}#1"]
        assert line["messages"][1]["content"] == earlier["reference"] and line["messages"][:1] == earlier["messages"]
        assert earlier["group"] == line["group"] and earlier["answers"]["tuned"]["text"] is not None


def test_slices_hold_every_row_once_and_each_has_its_gate(fresh: Fresh) -> None:
    run = fresh(talks())
    gates = [{"metric": "token_f1", "slice": {"topic": topic}, "min": 0.0} for topic in ("odd", "even")]
    scores = run.evaluate(slices=["topic", "nowhere"], gates=gates, metrics=["token_f1"])
    topics = scores["slices"]["topic"]
    assert set(topics) == {"odd", "even"} and scores["slices"]["nowhere"] == {}
    assert sum(result["n"] for result in topics.values()) == scores["heldout_rows"]
    assert topics["odd"]["arms"]["tuned"]["token_f1"]["n"] == topics["odd"]["n"]
    assert [entry["verdict"] for entry in run.read("gates.json")] == ["pass", "pass"]


@pytest.mark.parametrize("count", [1, 6])
def test_one_row_or_one_group_proves_nothing(fresh: Fresh, tmp_path: Path, count: int) -> None:
    rows = [{**row, "customer": "one" if index >= 18 else f"c{index}"} for index, row in enumerate(tiny.rows(24))]
    tiny.write_rows(tmp_path / "held.jsonl", rows[18 : 18 + count])
    split = {"heldout_path": "held.jsonl", "by": "customer"}
    run = fresh(rows[:18], data={"split": split})
    gates = [
        {"metric": "loss", "min_gain": -100.0},
        {"metric": "token_f1", "max_drop": 0.5},
        {"metric": "loss", "max": 1e6},
    ]
    result = run.call(metrics=["token_f1", "loss"], gates=gates)
    scores = run.read("scores.json")
    assert scores["heldout_rows"] == count and {line["group"] for line in run.lines()} == {"customer=one"}
    for arm in ("base", "tuned"):
        loss = scores["arms"][arm]["loss"]
        assert (loss["low"], loss["high"]) == (None, None) and loss["value"] > 0
    assert result.code == 6 and [entry["verdict"] for entry in run.read("gates.json")] == ["insufficient_evidence"] * 3


def test_max_rows_is_a_seeded_sample(trained: Trained) -> None:
    every = trained.evaluate()["heldout_rows"]
    requests = []
    for _ in range(2):
        trained.evaluate(max_rows=3)
        requests.append([line["id"] for line in trained.lines()])
        trained.evaluate()
    assert every > 3 and len(set(requests[0])) == 3 and requests[0] == requests[1]
    assert set(requests[0]) < {line["id"] for line in trained.lines()}


def test_preference_rows_are_measured_by_accuracy_and_margin(fresh: Fresh) -> None:
    run = fresh(method={"kind": "dpo"})
    gates = [{"metric": "preference_accuracy", "min": 0.999}, {"metric": "preference_margin", "min_gain": 1000.0}]
    result = run.call(gates=gates)
    scores = run.read("scores.json")
    assert result.code == 6 and scores["primary"] == "preference_accuracy"
    for arm in ("base", "tuned"):
        score = scores["arms"][arm]
        assert (
            0 <= score["preference_accuracy"]["value"] <= 1
            and score["preference_margin"]["n"] == scores["heldout_rows"]
        )
    assert {"exact_match", "preference_margin"} <= {comparison["metric"] for comparison in scores["comparisons"]} | {
        "exact_match"
    }
    assert [entry["passed"] for entry in run.read("gates.json")] == [False, False]


def test_where_tuning_started_is_an_arm_of_its_own(fresh: Fresh, tmp_path: Path) -> None:
    first = fresh()
    second = Trained(
        type(first.project)(tmp_path / "second"), first.model, adapter={"init_from": str(first.project.run), "r": None}
    ).prepare()
    scores = second.evaluate()
    assert list(scores["arms"]) == ["base", "start", "tuned"] and scores["facts"]["start"]["model"] == "start"
    first.evaluate(metrics=["loss"])
    assert scores["arms"]["start"]["loss"]["value"] not in (
        scores["arms"]["base"]["loss"]["value"],
        scores["arms"]["tuned"]["loss"]["value"],
    )
    compared_arms = {(comparison["arm"], comparison["vs"]) for comparison in scores["comparisons"]}
    assert {("start", "base"), ("tuned", "base")} <= compared_arms
