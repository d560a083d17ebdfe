"""Judged answers become pairs: the better one is chosen, a tie is no pair."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.data.read.expand import expand
from trainer.data.read.raw_row import RawRow
from trainer.data.records.reasons import RowError
from trainer.data.rows.parse import parse_row

USER = {"role": "user", "content": "hi"}
PAIR = {
    "prompt": [USER],
    "chosen": [{"role": "assistant", "content": "good"}],
    "rejected": [{"role": "assistant", "content": "bad"}],
}


def pair_of(row: dict[str, Any], **options: Any) -> tuple[str, dict[str, Any]]:
    layout, record, *_ = parse_row(row, source="f", line=1, **options)
    return layout, {name: record[name] for name in PAIR}


def arena(first: str, second: str) -> dict[str, Any]:
    return {
        "conversation_a": [USER, {"role": "assistant", "content": first}],
        "conversation_b": [USER, {"role": "assistant", "content": second}],
    }


def two(first: str, second: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "hi", first: "good", second: "bad", **more}


TWO: list[dict[str, Any]] = [
    two("response_1", "response_2", preference_strength=-2),
    two("response_2", "response_1", preference_strength=3),
    {"context": [USER], "response1": "bad", "response2": "good", "overall_preference": 1},
    {"history": "hi", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1, "score_A": 2, "score_B": 9},
    {"history": "hi", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0},
    two("response_a", "response_b", winner="response_a"),
    two("response_b", "response_a", winner="B"),
    two("response_0", "response_1", better_response_id=0),
    two("response_1", "response_0", better_response_id=1, safer_response_id=0),
    two("response_1", "response_2", preferred="1"),
    two("answer_1", "answer_0", score_0="-0.5", score_1="0.5"),
    two("response_a", "response_b", winner_model_a=1, winner_model_b=0, winner_tie=0),
    {**arena("good", "bad"), "winner": "model_a"},
    {**arena("bad", "good"), "winner": "model_b"},
]


@pytest.mark.parametrize("row", TWO, ids=range(len(TWO)))
def test_of_two_answers_the_better_is_chosen(row: dict[str, Any]) -> None:
    assert pair_of(row) == ("two_answers", PAIR)


TIES: list[dict[str, Any]] = [
    two("response_1", "response_2", preference_strength=0),
    two("response_a", "response_b", winner="tie (bothbad)"),
    two("response_a", "response_b", winner_model_a=0, winner_model_b=0, winner_tie=1),
    {"prompt": "hi", "completions": [{"response": "a", "score": 2}, {"response": "b", "score": 2}]},
]


@pytest.mark.parametrize("row", TIES, ids=range(len(TIES)))
def test_a_tie_is_left_out_and_no_fault_of_the_row(row: dict[str, Any]) -> None:
    with pytest.raises(RowError) as caught:
        pair_of(row)
    assert caught.value.reason == "no_preference"


def test_a_verdict_that_is_not_known_is_shown() -> None:
    with pytest.raises(RowError, match="winner: left: none of a, b and tie") as caught:
        pair_of(two("response_a", "response_b", winner="left"))
    assert caught.value.reason == "invalid_label"


def test_openais_pairs_have_their_prompt_and_tools_in_the_input() -> None:
    requests = {
        "messages": [USER],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "parallel_tool_calls": True,
    }
    row = {"input": requests, "preferred_output": PAIR["chosen"], "non_preferred_output": PAIR["rejected"]}
    assert pair_of(row) == ("openai_preference", PAIR)
    parsed = parse_row(row, source="f", line=1)
    assert parsed.record["tools"] == requests["tools"] and parsed.unused == ["input.parallel_tool_calls"]


def scored(*answers: tuple[str, float], key: str = "score", text: str = "response") -> list[dict[str, Any]]:
    return [{text: answer, key: score, "model": "m"} for answer, score in answers]


RANKED: list[dict[str, Any]] = [
    {"instruction": "hi", "completions": scored(("mid", 5), ("bad", 1.5), ("good", 9), key="overall_score")},
    {
        "prompt": "\n\nHuman: hi\n\nAssistant: ",
        "answers": scored(("bad", 7.0), ("good", 1.0), ("mid", 2.0), key="rank", text="answer"),
    },
    {"prompt": [USER], "responses": ["mid", "good", "bad"], "scores": [0.1, 0.9, -3]},
    {"question": "hi", "responses": ["mid", "good", "bad"], "ranks": [2, 1, 3]},
]


@pytest.mark.parametrize("row", RANKED, ids=range(len(RANKED)))
def test_of_ranked_answers_best_and_worst_make_the_pair_or_all_by_name(row: dict[str, Any]) -> None:
    assert pair_of(row) == ("ranked", PAIR)
    assert parse_row(row, source="f", line=1).notes == {"best_and_worst"}
    pairs = [raw.value for raw in expand(iter([RawRow(7, {**row, "id": 1})]), "ranked_pairs", {})]
    answers = [pair_of(pair, format="ranked_pairs")[1] for pair in pairs]
    texts = [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in answers]
    assert texts == [("good", "mid"), ("good", "bad"), ("mid", "bad")]
    assert all(pair["prompt"] == [USER] for pair in answers)
    assert parse_row(pairs[0], source="f", line=7, format="ranked_pairs").record["metadata"] == {"id": 1}


@pytest.mark.parametrize(
    "scores",
    [[10**400 + 1, 10**400], [10**400, 0.5], [0.5, -(10**400)], ["2", "1.5"], [True, False]],
    ids=["long", "long and decimal", "decimal and long", "text", "truth values"],
)
def test_scores_of_any_length_are_compared_as_they_are(scores: list[Any]) -> None:
    listed = {"prompt": "hi", "responses": ["good", "bad"], "scores": scores}
    reversed_ = {"prompt": "hi", "responses": ["bad", "good"], "scores": scores[::-1]}
    apart = two("response_1", "response_2", score_1=scores[0], score_2=scores[1])
    assert [pair_of(row)[1] for row in (listed, reversed_, apart)] == [PAIR] * 3


@pytest.mark.parametrize("score", [float("nan"), "nan", "inf", 1e999], ids=str)
def test_what_is_no_number_is_no_score(score: object) -> None:
    with pytest.raises(RowError, match="unknown_format"):
        pair_of({"prompt": "hi", "responses": ["good", "bad"], "scores": [score, 1]})


def test_equal_answers_make_no_pair_of_all() -> None:
    row = {"prompt": "hi", "responses": ["a", "b", "c"], "scores": [2, 2, 1]}
    assert len(list(expand(iter([RawRow(1, row)]), "ranked_pairs", {}))) == 2
    [raw] = expand(iter([RawRow(1, {**row, "scores": [1, 1, 1]})]), "ranked_pairs", {})
    assert raw.error is not None and raw.error.reason == "no_preference"


def test_the_questions_of_an_article_are_rows() -> None:
    qas = [{"id": n, "question": f"q{n}", "answers": [{"text": f"a{n}", "answer_start": 0}]} for n in range(3)]
    article = {"title": "T", "paragraphs": [{"context": "P", "qas": qas[:2]}, {"context": "O", "qas": qas[2:]}]}
    rows = list(expand(iter([RawRow(4, article)]), "auto", {}))
    parsed = [parse_row(row.value, source="f", line=row.line) for row in rows]
    assert [row.line for row in rows] == [4, 4, 4] and {each.format for each in parsed} == {"rag"}
    assert [each.record["messages"][1]["content"] for each in parsed] == ["a0", "a1", "a2"]
    assert "P" in parsed[0].record["messages"][0]["content"] and "O" in parsed[2].record["messages"][0]["content"]
