"""Confident learning on synthetic losses, and the ranking of packed rows by a toy model with planted errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.stores import pair_store, row_store
from trainer.scoring.label_errors import class_thresholds, confident_classes, least_confident, unusual_loss
from trainer.verbs.inspect.losses import classes_of, rank, rank_pairs

CLASSES, WORDS, END, VOCABULARY = 3, 12, 20, 24


class Oracle(torch.nn.Module):
    """Reads the first token of a row and answers with its class; of all else it is unsure."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, VOCABULARY)  # (B, S, V)
        right = WORDS + input_ids[:, 0] % CLASSES
        logits[torch.arange(len(right)), 1, right] = 4.0
        logits[:, 2:, END] = 8.0
        return SimpleNamespace(logits=logits * self.scale)


def packed(labels: list[int]) -> Any:
    """Return rows `word, separator | class, end` whose words go round the classes."""
    rows = [([at % WORDS, 22, WORDS + label, END], [0, 0, 1, 1]) for at, label in enumerate(labels)]
    return row_store(rows)


def test_planted_label_errors_come_first_with_the_right_answer() -> None:
    labels = [at % WORDS % CLASSES for at in range(120)]
    planted = [7, 23, 64, 91, 110]
    for at in planted:
        labels[at] = (labels[at] + 1) % CLASSES
    ranked = rank(Oracle(), packed(labels))
    assert {entry["row"] for entry in ranked[:5]} == set(planted)
    for entry in ranked[:5]:
        assert entry["says"] == [WORDS + entry["row"] % WORDS % CLASSES, END] and entry["probability"] > 0.6
    assert all(entry["says"] is None for entry in ranked[5:])


def test_answers_that_are_no_classes_are_ranked_by_loss() -> None:
    rows = [([at % WORDS, 22, WORDS + at % WORDS % CLASSES, at % 20, END], [0, 0, 1, 1, 1]) for at in range(60)]
    rows[31] = ([31 % WORDS, 22, 23, 23, 23], [0, 0, 1, 1, 1])
    ranked = rank(Oracle(), row_store(rows))
    assert ranked[0]["row"] == 31 and ranked[0]["score"] > 3 and ranked[0]["says"] is None
    assert ranked[0]["loss"] > ranked[1]["loss"]


@pytest.mark.parametrize(
    ("answers", "number"),
    [
        ([(1, 9), (2, 9)] * 20, 2),
        ([(1, 9)] * 40, 0),
        ([(1, 9), (2, 9)] * 5, 0),
        ([(at, 9) for at in range(40)], 0),
        ([(1, 9), (2, 9), None] * 20, 0),
    ],
)
def test_classes_are_few_answers_of_many_rows(answers: list[tuple[int, ...] | None], number: int) -> None:
    assert len(classes_of(answers)) == number


def test_confident_learning_names_the_other_class_only_beyond_its_threshold() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.75, 0.25]])
    labels = np.array([0, 0, 1, 1])
    confidence = probabilities[np.arange(4), labels]
    thresholds = class_thresholds(confidence, labels, 3)
    assert thresholds[:2] == pytest.approx([0.8, 0.525]) and np.isinf(thresholds[2])
    assert least_confident(confidence, labels, 3).tolist() == [3, 1, 0, 2]
    # Row 3 leans to class 0 but not as far as the rows of class 0 do: no verdict.
    assert confident_classes(probabilities, thresholds[:2]).tolist() == [0, -1, 1, -1]
    surer = np.array([[0.85, 0.15]])
    assert confident_classes(surer, thresholds[:2]).tolist() == [0]


def test_unusual_loss_is_measured_by_robust_deviations() -> None:
    losses, counts = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 30.0]), np.ones(6)
    scores = unusual_loss(losses, counts)
    assert scores[5] > 100 and np.abs(scores[:5]).max() < 2
    assert unusual_loss(losses * 4, counts * 4) == pytest.approx(scores)
    assert unusual_loss(np.ones(4), np.ones(4)).tolist() == [0, 0, 0, 0]


# Pairs


def packed_pairs(turned: list[int], longer: int = 0) -> Any:
    """Return pairs `word, separator -> right class, end | another class, end`; those in `turned` the other way round.

    `longer` end tokens follow each chosen answer.
    """
    rows = []
    for at in range(60):
        right, wrong = WORDS + at % WORDS % CLASSES, WORDS + (at + 1) % WORDS % CLASSES
        chosen, rejected = (wrong, right) if at in turned else (right, wrong)
        rows.append(([at % WORDS, 22], [chosen, END, *[END] * longer], [rejected, END]))
    return pair_store(rows)


@pytest.mark.parametrize("longer", [0, 3])
def test_turned_pairs_come_first(longer: int) -> None:
    ranked = rank_pairs(Oracle(), packed_pairs([3, 17, 42], longer), reference=None)
    assert {entry["row"] for entry in ranked[:3]} == {3, 17, 42}
    assert all(entry["margin"] < 0 and entry["score"] > 3 for entry in ranked[:3])
    assert all(entry["margin"] > 0 for entry in ranked[3:])


def test_with_a_reference_only_what_training_moved_counts() -> None:
    model = Oracle()

    @contextmanager
    def half_as_sure() -> Iterator[None]:
        model.scale.data *= 0.5
        yield
        model.scale.data *= 2

    ranked = rank_pairs(model, packed_pairs([3]), reference=half_as_sure)
    # log-odds of right to wrong: 4 after training, 2 before
    assert ranked[0]["row"] == 3 and ranked[0]["margin"] == pytest.approx(-2.0, abs=1e-5)
    assert ranked[1]["margin"] == pytest.approx(2.0, abs=1e-5)
