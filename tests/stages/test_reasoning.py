"""A model that was trained to reason is graded, cut off and served by what it says after its reasoning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Project
from tests.trained import Trained
from trainer.tokens.reasoning import AnswerForm

ANSWER, REASONING = "a small quick fox", "It says fox, and a fox it is, quick and small."


def rows() -> list[dict[str, Any]]:
    """Return rows that hold their reasoning in each of the two ways, trained alike."""
    results = []
    for at, (colour, animal) in enumerate((colour, animal) for colour in tiny.COLOURS for animal in tiny.ANIMALS):
        turn = {"role": "assistant", "content": ANSWER, "reasoning_content": REASONING}
        if at % 2:
            turn = {"role": "assistant", "content": f"<think>\n{REASONING}\n</think>\n\n{ANSWER}"}
        results.append({"messages": [{"role": "user", "content": f"Describe {colour} {animal} {at}."}, turn]})
    return results


@pytest.fixture(scope="module")
def reasoning_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Trained:
    """A run that has learned to reason and to answer; do not change it."""
    folder = tmp_path_factory.mktemp("reasoning")
    (folder / "thinking.jinja").write_text(tiny.THINKING_TEMPLATE)
    model = {"name_or_path": str(tiny_model_dir), "chat_template": "thinking.jinja"}
    return Trained(
        Project(folder),
        model,
        adapter={"kind": "none", "r": None},
        data={"split": {"heldout": 0.2}, "dedupe": {"near": False}},
        train={"max_steps": 100, "learning_rate": 3e-3, "global_batch_size": 8},
    ).prepare(rows())


@pytest.fixture
def reasoned(reasoning_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    copied = Trained(reasoning_run.project.copied_to(tmp_path), reasoning_run.model, **reasoning_run.changes)
    return copied


def test_answers_are_graded_without_their_reasoning_and_have_room_for_it(reasoned: Trained) -> None:
    scores = reasoned.evaluate(max_new_tokens="auto", metrics=["exact_match"], latency_rows=1)
    assert scores["arms"]["tuned"]["exact_match"]["value"] == 1.0
    assert scores["arms"]["tuned"]["clean_stop"]["value"] == 1.0
    for line in reasoned.lines():
        answer = line["answers"]["tuned"]
        assert line["reference"] == answer["content"] == ANSWER
        assert answer["text"] == f"<think>\n{REASONING}\n</think>\n\n{ANSWER}"
        assert line["reference_tokens"] == answer["num_tokens"] > 32
    assert reasoned.read("gates.json") == []

    source = tiny.write_rows(reasoned.project.folder / "in.jsonl", [{"prompt": "Describe a pink fox."}])
    target = reasoned.project.folder / "out.jsonl"
    result = reasoned.project.call("predict", str(source), str(target))
    assert result.code == 0, result.text
    (row,) = [json.loads(line) for line in target.read_text().splitlines()]
    assert (row["answer"], row["reasoning"]) == (ANSWER, REASONING) and row["finished"]


def test_answers_cut_off_inside_their_reasoning_are_said(reasoned: Trained) -> None:
    result = reasoned.call(max_new_tokens=8, metrics=["exact_match"])
    assert result.code == 0, result.text
    num = len(reasoned.lines())
    assert f"eval tuned: {num} of {num} answers were cut off inside their reasoning" in result.text
    assert reasoned.read("scores.json")["arms"]["tuned"]["exact_match"]["value"] == 0.0
    assert reasoned.read("scores.json")["facts"]["tuned"]["endless_reasoning"] == num


@pytest.mark.parametrize("accepted", [False, True])
def test_a_model_that_knows_its_answers_and_is_graded_for_something_else_is_an_error(
    reasoned: Trained, monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    monkeypatch.setattr(AnswerForm, "split", lambda *_, **__: None)
    real = "trainer.scoring.generation.responders.PromptEncoder.right_answer"
    monkeypatch.setattr(real, lambda self, row, history, turn: (ANSWER, 40))  # as if graded against content alone
    result = reasoned.call(
        *(["--accept", "failed-gate"] if accepted else []), max_new_tokens="auto", metrics=["exact_match"]
    )
    assert result.code == (0 if accepted else 6)
    (entry,) = reasoned.read("gates.json")
    assert entry["gate"]["metric"] == "answers_as_trained" and entry["verdict"] == "fail"
    assert "tuned knows" in entry["sentence"] and ANSWER in entry["sentence"] and REASONING in entry["sentence"]
    assert accepted or "what is graded" in result.err
