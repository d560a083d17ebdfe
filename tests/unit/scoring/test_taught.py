"""A model that knows its answers token by token and does not give them is noticed, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.render.scores.junit import render_junit
from trainer.render.scores.rows import NO_SCORES
from trainer.render.scores.summary import render_markdown
from trainer.scoring.generation.likelihood import row_scores
from trainer.scoring.question import Answer, Question
from trainer.scoring.questions.heldout import HeldOut
from trainer.scoring.results import ArmResults
from trainer.scoring.taught import contradiction

NUM = 10


def questions(count: int = NUM) -> list[Question]:
    return [Question(f"r:{at}", [], f"right {at}", reference_tokens=2) for at in range(count)]


def results(
    texts: list[str], items: list[Question] | None = None, *, finished: bool = True, num_tokens: int = 2
) -> ArmResults:
    items = questions() if items is None else items
    return ArmResults("tuned", items, {}, [Answer(text, num_tokens, finished) for text in texts], texts)


def known(*indices: int) -> dict[str, str]:
    return {f"r:{at}": f"<think></think>right {at}<end>" for at in indices}


def test_answers_that_are_known_and_not_given_are_an_error_with_both_texts() -> None:
    entry = contradiction(results(["wrong"] * NUM), known(*range(NUM)))
    assert entry is not None and entry["verdict"] == "fail" and entry["layer"] == "must_pass" and not entry["passed"]
    assert entry["sentence"].startswith("tuned knows 10 of 10 held-out answers token by token, and gives 0 of them")
    trained, answered, graded, against = entry["sentence"].splitlines()[1:]
    assert trained.endswith("'<think></think>right 0<end>'") and answered.endswith("'wrong'")
    assert graded.endswith("'wrong'") and against.endswith("'right 0'")
    assert 'failures="1"' in render_junit([entry], name="run")
    assert "0 of 1 gates passed" in render_markdown(NO_SCORES, [entry], name="run")


@pytest.mark.parametrize(
    ("texts", "indices"),
    [
        ([f" right\n{at} " for at in range(NUM)], range(NUM)),
        (["right 0", "right 1", *["wrong"] * 8], range(NUM)),
        (["wrong"] * NUM, range(4)),
        (["wrong"] * NUM, ()),
        (["wrong"] * 2, range(2)),
    ],
    ids=["given", "two of ten given", "few known", "none known", "few rows"],
)
def test_other_arms_pass(texts: list[str], indices: Any) -> None:
    assert contradiction(results(texts, questions(len(texts))), known(*indices)) is None


def test_answers_cut_before_the_right_one_ends_tell_nothing() -> None:
    short = results(["right"] * NUM, finished=False, num_tokens=1)
    assert contradiction(short, known(*range(NUM))) is None
    long = results(["no end"] * NUM, finished=False, num_tokens=9)
    assert contradiction(long, known(*range(NUM))) is not None


def test_earlier_turns_and_text_rows_are_no_matter() -> None:
    items = [Question(f"r:{at}#1", [], "right") for at in range(NUM)]
    assert contradiction(results(["wrong"] * NUM, items), known(*range(NUM))) is None
    both = [Question(f"r:{at}#1", [{"role": "user"}], "right") for at in range(3 * NUM)] + questions()
    entry = contradiction(results(["wrong"] * 4 * NUM, both), known(*range(NUM)))
    assert entry is not None and "10 of 10" in entry["sentence"]
    assert contradiction(results([], []), known(1)) is None


def test_an_answer_is_known_where_greedy_decoding_would_repeat_it(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    prompts = [[1, 10, 11, 12], [1, 20], [1, 30, 31]]
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(5):
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        rows.append((np.array(ids[0]), np.array([0] * len(prompt) + [1] * 5)))
    wrong_end = rows[0][0].copy()
    wrong_end[-1] = (wrong_end[-1] + 1) % 600
    wrong_before = (rows[1][0], np.array([0, 1, 0, 1, 1, 1, 1]))  # the token before the last answer is another turn's
    everything = [*rows, (wrong_end, rows[0][1]), wrong_before]
    scores = row_scores(model, everything, batch_size=3)
    assert scores.is_likeliest.tolist() == [True, True, True, False, True]
    one_by_one = [row_scores(model, [row], batch_size=1) for row in everything]
    assert np.allclose(scores.losses, [single.losses[0] for single in one_by_one], atol=1e-4)
    assert scores.counts.tolist() == [single.counts[0] for single in one_by_one]


def test_the_trained_text_of_the_last_answer_is_shown() -> None:
    rows = [{"source": "a", "line": at} for at in range(3)]
    tokens = [
        (np.array([1, 2, 3, 4, 5]), np.array(mask)) for mask in ([0, 1, 0, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 1, 1])
    ]
    sample = HeldOut(rows, tokens, None)
    assert sample.last_answers(str, [True, True, False]) == {"a:0": "[4, 5]", "a:1": "[3, 4]"}
