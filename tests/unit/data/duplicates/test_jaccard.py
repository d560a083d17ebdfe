"""Similarities of pairs are exact, and what is ruled out early could not have mattered."""

from __future__ import annotations

import random

import numpy as np
import pytest

from trainer.data.duplicates.bounds import mark, upper_bounds
from trainer.data.duplicates.jaccard import ComparableText, compare, conversation_text, num_words
from trainer.data.duplicates.minhash import Index, band_texts
from trainer.data.duplicates.shingles import Shingle, shingle, similarities

WORDS = ("to", "be", "or", "not", "cat", "dog", "sat", "mat", "12", "7")


def some_rows(count: int, seed: int = 0) -> list[ComparableText]:
    rng = random.Random(seed)

    def text(longest: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randrange(longest)))

    rows = [ComparableText(text(50), text(60), text(4)) for _ in range(count)]
    return rows + [row._replace(answer=f"{row.answer} dog".strip()) for row in rows[: count // 2]]


def all_pairs(count: int) -> np.ndarray:
    return np.array([(left, right) for left in range(count) for right in range(left)])


def expected(left: str, right: str) -> float:
    words = min(num_words(left), num_words(right))
    kind = Shingle.WORDS_2 if words >= 40 else Shingle.CHARACTERS_5
    return float(similarities(shingle([left], kind), shingle([right], kind))[0])


def test_similarities_are_those_of_the_sets() -> None:
    texts = some_rows(40)
    pairs = all_pairs(len(texts))
    result = compare(texts, pairs, least=0.0)
    for index in range(0, len(pairs), 7):
        left, right = (texts[row] for row in pairs[index])
        assert result.prompt[index] == expected(left.prompt, right.prompt)
        assert result.answer[index] == expected(left.answer, right.answer)
        assert result.context[index] == expected(left.context, right.context)


def test_a_limit_only_leaves_out_what_lies_below_it() -> None:
    texts = some_rows(40)
    pairs = all_pairs(len(texts))
    everything, some = compare(texts, pairs, least=0.0), compare(texts, pairs, least=0.5)
    of_interest = (everything.context >= 0.5) & (np.maximum(everything.prompt, everything.conversation) >= 0.5)
    assert 0 < of_interest.sum() < len(pairs) / 2
    for first, second in zip(everything, some, strict=True):
        assert (first[of_interest] == second[of_interest]).all()


@pytest.mark.parametrize("kind", [Shingle.CHARACTERS_5, Shingle.WORDS_2])
def test_no_similarity_exceeds_its_bound(kind: Shingle) -> None:
    rows = some_rows(60)
    texts = [text for text in map(conversation_text, rows) if (num_words(text) >= 40) is (kind is Shingle.WORDS_2)]
    marks = mark(shingle(texts, kind), kind, [num_words(text) for text in texts])
    pairs = all_pairs(len(texts))
    bounds = upper_bounds(marks, np.arange(len(texts)), pairs, len(texts))
    exact = [expected(texts[left], texts[right]) for left, right in pairs.tolist()]
    assert (bounds >= np.array(exact)).all() and bounds.mean() < 0.9


def test_texts_that_have_nothing_in_common_are_ruled_out() -> None:
    rng = random.Random(1)
    texts = [" ".join("".join(rng.choices("abcdefghijklm", k=5)) for _ in range(20)) for _ in range(50)]
    marks = mark(shingle(texts, Shingle.CHARACTERS_5), Shingle.CHARACTERS_5, [20] * 50)
    assert (upper_bounds(marks, np.arange(50), all_pairs(50), 50) < 0.5).all()


def test_an_index_of_few_texts_has_no_pairs() -> None:
    for texts in ([], [ComparableText("one question", "one answer", "")]):
        index, everything = Index(), np.ones(len(texts), np.bool_)
        index.add(band_texts(texts), 0)
        pairs, crowded = index.pairs(prompt=everything, conversation=everything, least=0.5)
        assert pairs.shape == (0, 2) and not crowded.size


@pytest.mark.parametrize(
    ("left", "right", "is_other"),
    [
        (("the size of course 561", "where number is 561"), ("the size of course 215", "where number is 215"), True),
        (("what lempert teaches", "by lempert"), ("what peterson teaches", "by peterson"), True),
        (("the size of course 561", "where number is 561"), ("tell the size of 561", "where number is 561"), False),
        (("tell me about cats", "a small animal"), ("tell me of cats", "a small pet"), False),
        (("a cat a b", "cat one two three"), ("a dog a b", "dog four five six"), False),
    ],
)
def test_values_that_answers_take_up_make_other_questions(
    left: tuple[str, str], right: tuple[str, str], is_other: bool
) -> None:
    compared = compare([ComparableText(*left, ""), ComparableText(*right, "")], np.array([[0, 1]]), least=0.0)
    assert compared.other_values.tolist() == [is_other]


def test_other_numbers_in_answered_prompts_are_told() -> None:
    prompts = ["pay 20 in may", "pay 30 in may", "in may pay 20", "pay 30 in may"]
    texts = [ComparableText(prompt, answer, "") for prompt, answer in zip(prompts, ("a", "b", "c", ""), strict=True)]
    compared = compare(texts, np.array([[0, 1], [0, 2], [0, 3]]), least=0.0)
    assert compared.other_numbers.tolist() == [True, False, False]
