"""A turn that its file marks as not trained is not trained, whichever tool wrote the mark."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.data.records.reasons import RowError
from trainer.data.rows.parse import Parsed, parse_row
from trainer.data.rows.training_marks import TRAINED

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
ASKED, SAID = {"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}


def parsed(row: dict[str, Any]) -> Parsed:
    return parse_row(row, source="f", line=1)


def weights(row: dict[str, Any]) -> list[int | None]:
    return [turn.get("weight") for turn in parsed(row).record["messages"]]


@pytest.mark.parametrize("key", TRAINED)
@pytest.mark.parametrize(
    ("off", "on"), [(False, True), (0, 1), (0.0, 1.0), ("false", "true"), ("False", "True"), ("0", "1")]
)
def test_every_mark_of_a_turn_is_its_weight_in_both_layouts(key: str, off: object, on: object) -> None:
    turns = [USER, {**ANSWER, key: off}, USER, {**ANSWER, key: on}, USER, {**ANSWER, key: None}, USER, ANSWER]
    expected = [None, 0, None, 1, None, None, None, None]
    assert weights({"messages": turns}) == expected
    shared = [ASKED, {**SAID, key: off}, ASKED, {**SAID, key: on}, ASKED, {**SAID, key: None}, ASKED, SAID]
    assert weights({"conversations": shared}) == expected
    assert parsed({"messages": turns}).unused == []


def test_a_masked_turn_is_not_trained() -> None:
    assert weights({"messages": [USER, {**ANSWER, "masked": True}, USER, {**ANSWER, "masked": False}]}) == [
        None,
        0,
        None,
        1,
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"human": "hi", "assistant": "hello", "loss": False}]},
        {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "hello"}], "train": False}]},
        {"messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "a"}], "train": False}]},
        {"contents": [{"parts": [{"text": "hi"}]}, {"role": "model", "parts": [{"text": "hello"}], "weight": 0}]},
    ],
    ids=["pair of ms-swift", "text parts", "blocks", "Gemini"],
)
def test_a_mark_counts_in_every_form_of_a_turn(row: dict[str, Any]) -> None:
    assert parse_row(row, source="f", line=1, check=False).record["messages"][-1]["weight"] == 0


def test_marks_that_agree_are_one_weight() -> None:
    assert weights({"messages": [USER, {**ANSWER, "weight": 0, "train": False, "masked": True}]}) == [None, 0]


@pytest.mark.parametrize(
    "marks",
    [
        *({key: value} for key in (*TRAINED, "masked") for value in (0.5, 2, -1, "half", [0], "")),
        {"weight": 1, "train": False},
        {"loss": True, "masked": True},
        {"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]},
    ],
    ids=str,
)
def test_a_mark_that_cannot_be_followed_is_refused_by_name(marks: dict[str, Any]) -> None:
    with pytest.raises(RowError) as caught:
        parsed({"messages": [USER, {**ANSWER, **marks}]})
    assert caught.value.reason == "invalid_weight"
    assert all(key in caught.value.detail for key in marks)


@pytest.mark.parametrize(("mark", "noted"), [(True, True), (False, False)])
def test_a_question_marked_as_trained_is_said_to_be_none(mark: bool, noted: bool) -> None:
    row = parsed({"messages": [{**USER, "train": mark}, ANSWER]})
    assert row.record["messages"][0]["weight"] == mark
    assert ("asked_marked" in row.notes) == noted
