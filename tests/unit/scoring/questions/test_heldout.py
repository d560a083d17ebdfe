"""The held-out rows that are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.stores import pair_store, row_store
from trainer.errors import DataError
from trainer.scoring.questions.from_rows import conversation
from trainer.scoring.questions.heldout import HeldOut, read_examples, read_held_out
from trainer.scoring.statistics.measurements import Evidence
from trainer.tokens.store import TokenStore

NUM = 12


def lines(count: int = NUM, **more: Any) -> list[bytes]:
    rows = [
        {
            "messages": [{"role": "user", "content": f"q{index}"}, {"role": "assistant", "content": "a"}],
            "source": "r.jsonl",
            "line": index,
            "metadata": {"customer": f"c{index % 2}"},
            **more,
        }
        for index in range(count)
    ]
    return [json.dumps(row).encode() for row in rows]


def store(count: int = NUM) -> TokenStore:
    return row_store([([1, 10 + index, 40], [0, 0, 1]) for index in range(count)])


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()


def evidence(rows: HeldOut, model: Any) -> dict[str, Evidence]:
    return rows.evidence(model, rows.scores(model))


def test_a_sample_is_seeded_ordered_and_keeps_rows_with_their_tokens() -> None:
    sample = read_held_out(store(), lines(), max_rows=5, seed=3)
    again = read_held_out(store(), lines(), max_rows=5, seed=3)
    second = read_held_out(store(), lines(), max_rows=5, seed=4)
    indices = [row["line"] for row in sample.rows]
    assert len(indices) == 5 and indices == sorted(indices) == [row["line"] for row in again.rows]
    assert indices != [row["line"] for row in second.rows]
    assert [int(ids[1]) - 10 for ids, _ in sample.tokens] == indices


def test_numbers_of_held_out_rows_are_graded_as_they_are_written() -> None:
    complete = [line.replace(b'"c1"', b"9400110200881234567000").replace(b'"c0"', b"1e400") for line in lines()]
    rows = read_held_out(store(), complete, max_rows=2, seed=3).rows
    assert {str(row["metadata"]["customer"]) for row in rows} <= {"9400110200881234567000", "1e400"}


def test_rows_that_pack_left_out_are_no_questions() -> None:
    tokens = row_store([([1, 10 + line, 40], [0, 0, 1]) for line in (1, 4)], lines=(1, 4))
    assert [row["line"] for row in read_held_out(tokens, lines(), max_rows=9, seed=0).rows] == [1, 4]


def test_no_rows_are_an_error_with_a_fix() -> None:
    with pytest.raises(DataError, match="no held-out rows") as caught:
        read_held_out(row_store([]), [], max_rows=5, seed=0)
    assert "data.split.heldout" in caught.value.hint


def test_losses_are_grouped_as_the_split_groups_rows(model: Any) -> None:
    evidence_rows = evidence(read_held_out(store(), lines(), max_rows=NUM, seed=0, by="customer"), model)["loss"]
    assert set(evidence_rows.groups or ()) == {"customer=c0", "customer=c1"}
    alone = evidence(read_held_out(store(), lines(), max_rows=NUM, seed=0), model)["loss"]
    assert len(set(alone.groups or ())) == NUM and np.array_equal(alone.values, evidence_rows.values)


def test_pairs_tell_which_side_is_likelier_and_by_how_much(model: Any) -> None:
    pair = ([1, 10], [40, 41], [60])
    swapped = ([1, 10], [60], [40, 41])
    rows = [
        json.dumps({"prompt": [{"role": "user", "content": f"q{index}"}], "chosen": [], "rejected": []}).encode()
        for index in range(2)
    ]
    evidence_rows = evidence(read_held_out(pair_store([pair, swapped]), rows, max_rows=9, seed=0), model)
    with torch.no_grad():
        after = torch.log_softmax(model(torch.tensor([[1, 10, 40]])).logits[0].double(), -1)
    log_chosen, log_rejected = float(after[1, 40] + after[2, 41]), float(after[1, 60])
    assert evidence_rows["preference_margin"].values == pytest.approx(
        [log_chosen - log_rejected, log_rejected - log_chosen], rel=1e-4
    )
    assert evidence_rows["preference_accuracy"].values.tolist() == [
        float(log_chosen > log_rejected),
        float(log_chosen < log_rejected),
    ]


def test_a_model_whose_losses_are_no_numbers_prefers_nothing(model: Any) -> None:
    class Broken(torch.nn.Linear):
        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            logits = torch.full((*input_ids.shape, 600), torch.nan)
            return type("Out", (), {"logits": logits})

    pair = ([1, 10], [40], [60])
    row = json.dumps({"prompt": [{"role": "user", "content": "q"}], "chosen": [], "rejected": []}).encode()
    evidence_rows = evidence(read_held_out(pair_store([pair]), [row], max_rows=9, seed=0), Broken(1, 1))
    assert (
        evidence_rows["preference_accuracy"].values.tolist() == [0.0] and np.isnan(evidence_rows["loss"].values).all()
    )


def test_examples_come_from_any_layout_and_a_bad_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shots.jsonl"
    path.write_text('{"instruction": "say a", "output": "a"}\n{"prompt": "say b", "completion": "b"}\n')
    texts = [[turn["content"] for turn in conversation(row) or []] for row in read_examples(path)]
    assert texts == [["say a", "a"], ["say b", "b"]]
    path.write_text('{"instruction": "say a", "output": "a"}\n{"nothing": 1}\n')
    with pytest.raises(DataError, match=r"shots\.jsonl:2"):
        read_examples(path)


def test_a_row_with_two_texts_is_one_row_whose_losses_are_added(model: Any) -> None:
    texts: list[tuple[list[int], list[int]]] = [([1, 10, 40], [0, 0, 1]), ([1, 11, 40, 41], [0, 0, 1, 1])]
    other: tuple[list[int], list[int]] = ([1, 12, 40], [0, 0, 1])
    split = read_held_out(row_store([*texts, other], lines=(0, 0, 1)), lines(), max_rows=9, seed=0)
    assert [row["line"] for row in split.rows] == [0, 1] and len(split.tokens) == 3
    scores = split.scores(model)
    alone = read_held_out(row_store([*texts, other]), lines(), max_rows=9, seed=0).scores(model)
    assert np.allclose(scores.losses, [alone.losses[0] + alone.losses[1], alone.losses[2]])
    assert scores.counts.tolist() == [3, 1] and len(evidence(split, model)["loss"].values) == 2
    decoded = split.last_answers(lambda ids: " ".join(map(str, ids)), [True, True])
    assert list(decoded.values()) == ["40 41", "40"]
