"""Near duplicates: what is dropped, what is only told, and which copy stays."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from trainer.data.duplicates.jaccard import SHORT_ANSWER_WORDS, ComparableText, compare, num_words
from trainer.data.duplicates.minhash import Edges, Index, band_texts, keep_best
from trainer.data.duplicates.pair_verdict import Weights, judge
from trainer.data.duplicates.shingles import normalise_words
from trainer.data.duplicates.weigh_difference import weigh_texts

WORDS = [
    f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("alo", "eni", "iru", "ota", "ubi") for c in ("", "n", "ster", "ly")
]


def prose(seed: int, num_words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def english(seed: int, num_words: int) -> str:
    """Return prose with the stop words by which English is told."""
    return " ".join(
        f"{word} of the" if index % 4 == 0 else word for index, word in enumerate(prose(seed, num_words).split())
    )


def changed(text: str, seed: int, count: int) -> str:
    words, rng = text.split(), random.Random(seed)
    for index in rng.sample(range(len(words)), count):
        words[index] = "other" + "".join(rng.choices("abcdefgh", k=6))
    return " ".join(words)


def found(rows: list[tuple[str, ...]], *, shared: bool = False) -> tuple[Edges, Any]:
    texts = [ComparableText(*map(normalise_words, (*row, "")[:3])) for row in rows]
    index = Index()
    index.add(band_texts(texts), 0)
    everything = np.ones(len(texts), np.bool_)
    pairs, crowded = index.pairs(prompt=everything, conversation=everything & (not shared), least=0.5)
    compared = compare(texts, pairs, least=0.5)
    values = {text: number for number, text in enumerate(dict.fromkeys(first.answer for first in texts), start=1)}
    answers = np.array([values[first.answer] for first in texts], np.uint64)
    weights = Weights.of(len(pairs))
    for position, (left, right) in enumerate(pairs.tolist()):
        first, second = texts[left], texts[right]
        is_short = min(num_words(first.answer), num_words(second.answer)) < SHORT_ANSWER_WORDS
        prompt = weigh_texts(first.prompt, second.prompt)
        weights.prompt[position], weights.is_slot[position] = prompt.weight, prompt.is_slot
        weights.answer[position] = weigh_texts(first.answer, second.answer, exactly=is_short).weight
        weights.context[position] = weigh_texts(first.context, second.context).weight
    shares = np.full(len(texts), shared)
    edges = judge(pairs, compared, weights, answers=answers, shared=shares, drop=0.7, flag=0.5)
    return edges, crowded


def duplicates(edges: Edges) -> set[tuple[int, int]]:
    return {(left, right) for left, right in edges.pairs[edges.duplicate].tolist()}


def politely(text: str, seed: int) -> str:
    words = text.split()
    words.insert(random.Random(seed).randrange(len(words)), "please")
    return " ".join(words)


def test_reworded_copies_are_found_and_others_are_not() -> None:
    rows = [(english(n, 30), prose(n + 1000, 60)) for n in range(200)]
    copies = [(politely(prompt, n), politely(answer, n)) for n, (prompt, answer) in enumerate(rows[:50])]
    copies += [(changed(prompt, n, 1), answer) for n, (prompt, answer) in enumerate(rows[50:100], start=50)]
    edited = [(changed(prompt, n, 1), changed(answer, n, 3)) for n, (prompt, answer) in enumerate(rows[100:150])]
    edges, _ = found(rows + copies + edited)
    expected = {(n, n + 200) for n in range(100)}
    assert len(duplicates(edges) & expected) >= 97 and duplicates(edges) <= expected


def test_short_rows_are_compared_by_characters() -> None:
    rows = [("How do I track the card you sent me?", "ok then, thanks a lot for telling me about it my friend")]
    rows.append(("How do I track the card you sent to me?", rows[0][1]))
    rows.append(("What is the fee of a transfer abroad?", "There is none."))
    assert duplicates(found(rows)[0]) == {(0, 1)}


def test_a_script_without_spaces_is_compared_by_characters() -> None:
    rng = random.Random(3)
    text = "".join(chr(rng.randrange(0x4E00, 0x5E00)) for _ in range(80))
    copy = text[:30] + "\uff0c" + text[30:]
    second = text[:30] + "\u6f22\u5b57" + text[32:]
    rows = [(first[:40], first[40:]) for first in (text, normalise_words(copy), second)]
    edges, _ = found(rows)
    assert [0, 1] in edges.pairs.tolist() and [0, 2] in edges.pairs.tolist()
    assert not {(0, 2), (1, 2)} & duplicates(edges)


def test_a_shared_answer_does_not_make_prompts_alike() -> None:
    answer = prose(5, 40)
    rows = [(prose(n, 6), answer) for n in range(20)]
    assert len(found(rows)[0].pairs) and not len(found(rows, shared=True)[0].pairs)


def test_another_way_to_ask_for_the_same_long_answer_is_no_copy_but_stays_on_its_side() -> None:
    answer = prose(5, 60)
    edges, _ = found([(english(1, 12), answer), (english(2, 12), answer), (changed(english(1, 12), 3, 1), answer)])
    assert duplicates(edges) == {(0, 2)} and [0, 1] in edges.pairs.tolist()


@pytest.mark.parametrize(
    ("answers", "is_copy"),
    [
        (("42", "43"), False),
        (("42", "42."), True),
        ((prose(1), prose(2)), False),
        ((prose(1), politely(prose(1), 0)), True),
        ((prose(1), changed(prose(1), 0, 2)), False),
    ],
)
def test_other_answers_to_one_prompt_are_a_conflict_and_no_copy(answers: tuple[str, str], is_copy: bool) -> None:
    prompt = prose(0, 60)
    edges, _ = found([(prompt, answers[0]), (politely(prompt, 1), answers[1])])
    assert (edges.duplicate.tolist(), edges.conflict.tolist()) == ([is_copy], [not is_copy])


def test_a_conflict_is_found_however_much_the_answers_differ_in_length() -> None:
    prompt = prose(0, 20)
    edges, _ = found([(prompt, "no"), (changed(prompt, 1, 1), prose(3, 300)), (prose(9, 20), "no")])
    assert edges.pairs[edges.conflict].tolist() == [[0, 1]]


def test_rows_about_other_documents_are_unrelated() -> None:
    question = "Is the claim supported by the document? Say yes or no."
    documents = [prose(n, 80) for n in range(2)]
    edges, _ = found([(question, "yes", document) for document in documents])
    assert not edges.pairs.size
    edges, _ = found([(question, "yes", documents[0]), (question, "yes", politely(documents[0], 1))])
    assert duplicates(edges) == {(0, 1)}


def test_texts_without_words_are_left_alone() -> None:
    assert not found([("?!", "..."), ("--", "!!"), ("", "")])[0].pairs.size


def test_a_crowded_bucket_is_named() -> None:
    rows = [(changed(prose(0, 60), n, 1), prose(1)) for n in range(60)]
    edges, crowded = found(rows)
    assert crowded.size == 60 and len(edges.pairs) > 60


def links(*pairs: tuple[int, int, float]) -> Edges:
    edges = Edges.of(np.array([pair[:2] for pair in pairs]), np.array([pair[2] for pair in pairs]))
    return edges._replace(duplicate=np.ones(len(pairs), np.bool_))


def test_the_best_copy_stays_and_each_other_one_names_a_row_that_stays() -> None:
    rank = np.array([2, 0, 1, 3])
    assert keep_best(links((0, 1, 0.8), (0, 2, 0.9), (2, 3, 0.75)), rank) == {0: (2, 0.9), 3: (2, 0.75)}


def test_a_chain_keeps_rows_that_are_not_alike() -> None:
    # 0 ~ 1 ~ 2, but 0 and 2 are not alike: only the row between them goes.
    assert keep_best(links((0, 1, 0.7), (1, 2, 0.8)), np.arange(3)) == {1: (0, 0.7)}
