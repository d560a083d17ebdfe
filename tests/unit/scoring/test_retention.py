"""The forgetting meter, against values worked out another way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.errors import DataError
from trainer.scoring.retention import RetentionMeter, Yardstick, general_prompts, task_format
from trainer.scoring.statistics.measurements import score

ROWS = [([1, 30, 31, 32], [40, 41, 42]), ([1, 50], [60]), ([1, 70, 71], [])]


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


@pytest.fixture(scope="module")
def tuned(base: Any) -> Any:
    second = copy.deepcopy(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in second.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return second


def log_probs(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return (T, V) by one pass for each token."""
    rows = []
    for count in range(len(answer)):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer[:count]]])).logits[0, -1]
        rows.append(torch.log_softmax(logits.double(), -1))
    return torch.stack(rows)


def test_an_unchanged_model_has_not_moved(base: Any, tmp_path: Path) -> None:
    yardstick = Yardstick(ROWS, tmp_path / "kept")
    yardstick.record(base)
    drift = yardstick.drift(base)
    assert np.abs(drift.kl).max() < 1e-6 and np.abs(drift.loss_change).max() < 1e-6
    assert drift.counts.tolist() == [3.0, 1.0]  # where the base said nothing there is nothing to compare


def test_divergence_and_loss_are_those_of_one_token_at_a_time(base: Any, tuned: Any, tmp_path: Path) -> None:
    yardstick = Yardstick(ROWS, tmp_path / "kept")
    yardstick.record(base)
    drift = yardstick.drift(tuned)
    for index, (prompt, answer) in enumerate(ROWS[:2]):
        p, q = log_probs(base, prompt, answer), log_probs(tuned, prompt, answer)
        picked = torch.arange(len(answer)), torch.tensor(answer)
        assert drift.kl[index] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)
        assert drift.loss_change[index] == pytest.approx(float(p[picked].sum() - q[picked].sum()), rel=1e-3, abs=1e-4)
    assert (drift.kl > 0).all()


def test_a_wider_vocabulary_is_compared_on_the_shared_part(base: Any, tmp_path: Path) -> None:
    wider = copy.deepcopy(base)
    wider.resize_token_embeddings(base.config.vocab_size + 8, mean_resizing=False)
    yardstick = Yardstick(ROWS, tmp_path / "kept")
    yardstick.record(base)
    assert np.isfinite(yardstick.drift(wider).kl).all()


def test_scores_are_per_token_and_nothing_is_left_on_the_disk(base: Any, tuned: Any, tmp_path: Path) -> None:
    retention = RetentionMeter(ROWS, tmp_path / "kept")
    retention.record(base)
    assert (tmp_path / "kept").exists()
    retention.compare(tuned)
    retention.answers = {"base": ["Paris", "no"], "tuned": ['{"a": 1}', "[1, 2"]}
    evidence_rows = retention.evidence(task_format(['{"a": 1}', '{"b": 2}']))
    assert not (tmp_path / "kept").exists() and retention.drift is not None
    value = score(evidence_rows["kl"]["tuned"], seed=0)["value"]
    assert value == pytest.approx(retention.drift.kl.sum() / 4)
    rates = {arm: rows.values.mean() for arm, rows in evidence_rows["format_leak_rate"].items()}
    assert rates == {"base": 0.0, "tuned": 0.5}  # a list that is cut off does not begin as the task's objects do


def test_a_base_that_says_nothing_is_no_yardstick(base: Any, tmp_path: Path) -> None:
    retention = RetentionMeter([([1, 2], [])], tmp_path / "kept")
    retention.record(base)
    retention.compare(base)
    assert retention.evidence(None) == {}


@pytest.mark.parametrize(
    ("references", "text", "leaks"),
    [
        (['{"a": 1}'], '{"a": 1}', True),
        (['{"a": 1}'], ' {"answer": "Par', True),
        (['{"a": 1}'], "Paris", False),
        (["yes", "no", "yes", "no"], "yes\n", True),
        (["yes", "no", "yes", "no"], "yes, it is", False),
    ],
)
def test_the_form_of_the_task_is_json_or_its_labels(references: list[str], text: str, leaks: bool) -> None:
    is_task = task_format(references)
    assert is_task is not None and is_task(text) is leaks


@pytest.mark.parametrize("references", [[], ["a", "b", "c"], ["one long answer", "another long answer"]])
def test_free_text_has_no_form_to_leak(references: list[str]) -> None:
    assert task_format(references) is None


def test_general_prompts_are_shipped_or_read(tmp_path: Path) -> None:
    shipped = general_prompts(None, 40)
    assert len(set(shipped)) == 40 and general_prompts(None, 3) == shipped[:3]
    path = tmp_path / "own.txt"
    path.write_text("\n one \n\ntwo\n", encoding="utf-8")
    assert general_prompts(path, 9) == ["one", "two"]
    path.write_text("\n \n")
    with pytest.raises(DataError, match="holds no prompt"):
        general_prompts(path, 9)
    path.write_bytes(b"\xff\xfe caf\xe9")
    with pytest.raises(DataError, match="no UTF-8 text"):
        general_prompts(path, 9)
