"""Hashed shingles agree with sets of strings."""

from __future__ import annotations

import random

import numpy as np
import pytest

from trainer.data.duplicates.shingles import (
    Shingle,
    is_unspaced,
    kind_for_pair,
    kinds_for,
    normalise_words,
    pair_similarities,
    shingle,
    similarities,
    united,
    word_windows,
)

TEXTS = ["", "a", "ab cd", "to be or not to be", "the cat sat on the mat " * 3 + "x", "\u4f60\u597d\u4e16\u754c", "x y"]


def as_set(text: str, kind: Shingle) -> set[object]:
    units, width = (text.split(), 2) if kind is Shingle.WORDS_2 else (list(text), 3 if kind == 0 else 5)
    return {tuple(units[n : n + width]) for n in range(max(len(units) - width + 1, 1))} if units else set()


@pytest.mark.parametrize("kind", list(Shingle))
def test_similarities_are_exact(kind: Shingle) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(("to", "be", "or", "not", "b", "e"), k=rng.randrange(12))) for _ in range(200)]
    left = [normalise_words(text) for text in TEXTS * 2 + texts]
    right = [normalise_words(text) for text in TEXTS + TEXTS[::-1] + texts[::-1]]
    values = similarities(shingle(left, kind), shingle(right, kind))
    for first, second, similarity in zip(left, right, values, strict=True):
        a, b = as_set(first, kind), as_set(second, kind)
        assert similarity == pytest.approx(len(a & b) / len(a | b) if a | b else 1.0), (first, second)


def test_texts_do_not_run_into_each_other() -> None:
    first = shingle(["abcdef", "ghijkl"], Shingle.CHARACTERS_5)
    second = shingle(["abcdefghijkl", ""], Shingle.CHARACTERS_5)
    assert similarities(first, second).tolist() == [2 / 8, 0.0]


def test_a_union_holds_the_shingles_of_both() -> None:
    a, b = shingle(["to be", ""], Shingle.WORDS_2), shingle(["or not", "be"], Shingle.WORDS_2)
    assert (similarities(united(a, b), united(b, a)) == 1).all()
    assert similarities(united(a, b), a).tolist() == [0.5, 0.0]


def test_normalising_folds_case_width_accents_and_punctuation() -> None:
    assert (
        normalise_words("  \uff28ello,\n Caf\u00e9!! ") == normalise_words("hello caf\u0065\u0301") == "hello caf\u00e9"
    )
    assert normalise_words("ASCII only -- here.") == "ascii only here"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("\u4f60\u597d\u4e16\u754c ok", True), ("hello", False), ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", True)],
)
def test_scripts_without_spaces_are_recognised(text: str, expected: bool) -> None:
    assert is_unspaced(text) is expected


def test_rows_of_nearly_one_length_are_always_indexed_alike() -> None:
    for shorter in range(1, 200):
        for longer in range(shorter, int(shorter / 0.7) + 1):
            kind = kind_for_pair(shorter, unspaced=False)
            assert kind in kinds_for(shorter, unspaced=False)
            # word pairs at 0.7 bound the ratio of lengths, 5 characters nearly so
            if longer <= shorter * 1.19:
                assert kind in kinds_for(longer, unspaced=False), (shorter, longer)


def test_word_runs_need_enough_words() -> None:
    runs = word_windows(["a b c", "a b", "b c d e"], 3)
    assert (runs.offsets == [0, 1, 1, 3]).all() and len(set(runs.hashes.tolist())) == 3


def test_the_same_run_of_words_has_one_hash_wherever_it_stands() -> None:
    item = word_windows(["x a b c", "", "a b c y z"], 3).hashes.tolist()
    assert item[1] == item[2] and len(set(item)) == 4


def test_sets_of_one_list_are_compared_as_sets_of_two_are() -> None:
    rng = random.Random(2)
    texts = TEXTS + [" ".join(rng.choices(("to", "be", "or", "not", "b", "e"), k=rng.randrange(12))) for _ in range(99)]
    texts = [normalise_words(text) for text in texts]
    pairs = np.array([(rng.randrange(len(texts)), rng.randrange(len(texts))) for _ in range(500)])
    for kind in Shingle:
        left, right = (shingle([texts[row] for row in column], kind) for column in pairs.T.tolist())
        assert (pair_similarities(shingle(texts, kind), pairs) == similarities(left, right)).all()
