"""Weigh the differences of pairs that may be copies; judge spellings by all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer import exact_json
from trainer.data.duplicates.alternatives import GLUE
from trainer.data.duplicates.jaccard import SHORT_ANSWER_WORDS, Pairs
from trainer.data.duplicates.keys import normalise
from trainer.data.duplicates.pair_verdict import Weights
from trainer.data.duplicates.rewriting import repeats_prompt
from trainer.data.duplicates.spelling import may_be_typo
from trainer.data.duplicates.weigh_difference import (
    DIFFERENT,
    Difference,
    Texts,
    Typo,
    Weight,
    texts_of,
    weigh_letters,
    weigh_turns,
    without_space,
)
from trainer.data.duplicates.words import tokens_of
from trainer.data.row_file import RowFile, read_spans
from trainer.data.workers import Workers

CHUNK_PAIRS, CHUNK_ROWS = 2000, 5000
KNOWN_ROWS, UNKNOWN_ROWS, UNKNOWN_SHARE = 3, 2, 0.1
"""A word in so many rows or more is a word; one in so few, or so few beside it, can be a misspelling of it."""
FREQUENT_ROWS = 10
LONG_LETTERS = 6
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class RowPairs:
    """Pairs of rows to be weighed."""

    path: Path
    spans: NDArray[np.int64]
    """(rows, 2) parts of the file."""
    pairs: Pairs
    """(pairs, 2) of these rows."""


@dataclass(frozen=True)
class WordSearch:
    """Texts in which words are counted."""

    path: Path
    spans: NDArray[np.int64]
    words: frozenset[str]


def weigh_pairs(weights: Weights, spool: RowFile, texts: RowFile, workers: Workers, pairs: Pairs, chosen: Rows) -> None:
    """Fill in what differs between the rows of some pairs.

    Args:
        weights: of all pairs; filled in where they are chosen.
        spool: rows.
        texts: their normalised texts.
        workers: processes to compare with.
        pairs: (pairs, 2) rows.
        chosen: numbers of the pairs to weigh.
    """
    begin = 0
    waiting: list[tuple[int, list[Difference]]] = []
    for part in workers.map(weigh_chunk, _chunks(spool, pairs[chosen])):
        for differences in part:
            pair = int(chosen[begin])
            begin += 1
            if any(difference.typos for difference in differences):
                waiting.append((pair, differences))
            else:
                _fill(weights, pair, differences, forgive=False)
    typos = {typo for _, differences in waiting for difference in differences for typo in difference.typos}
    slips = Slips(typos, _count(typos, texts, workers)) if typos else None
    for pair, differences in waiting:
        typos_of_pair = [typo for difference in differences for typo in difference.typos]
        _fill(weights, pair, differences, forgive=slips is not None and slips.forgive(typos_of_pair))


def _fill(weights: Weights, pair: int, differences: list[Difference], *, forgive: bool) -> None:
    for column, difference in zip((weights.prompt, weights.answer, weights.context), differences, strict=True):
        column[pair] = difference.forgiven if forgive else difference.weight
    weights.is_slot[pair], weights.is_edit[pair] = differences[0].is_slot, differences[0].is_edit


def _chunks(spool: RowFile, pairs: Pairs) -> Iterator[RowPairs]:
    for begin in range(0, len(pairs), CHUNK_PAIRS):
        rows, indices = np.unique(pairs[begin : begin + CHUNK_PAIRS], return_inverse=True)
        yield RowPairs(spool.path, spool.spans(rows), indices.reshape(-1, 2))


def weigh_chunk(chunk: RowPairs) -> list[list[Difference]]:
    """Return what differs in prompt, answer and context of each pair."""
    texts = [texts_of(exact_json.loads(line)) for line in read_spans(chunk.path, chunk.spans)]
    return [_weigh(texts[left], texts[right]) for left, right in chunk.pairs.tolist()]


def _weigh(left: Texts, right: Texts) -> list[Difference]:
    if repeats_prompt(*left[:2]) or repeats_prompt(*right[:2]):
        return [weigh_letters(*sides) for sides in ((left[0], right[0]), (left[1], right[1]), (left[2:], right[2:]))]
    is_short = min(_num_words(left[1]), _num_words(right[1])) < SHORT_ANSWER_WORDS
    same_answer = list(map(normalise, left[1])) == list(map(normalise, right[1]))
    prompt = weigh_turns(left[0], right[0], align=same_answer and not is_short)
    if is_short and _asks_for_spelling(prompt, (*left[1], *right[1])):
        prompt = prompt.unforgiven()
    if prompt.forgiven == Weight.VALUES and not same_answer:  # two questions, whatever their answers
        return [prompt, DIFFERENT, DIFFERENT]
    answer = weigh_turns(left[1], right[1], exactly=is_short)
    if without_space(left[0]) == without_space(right[0]):  # only what is clearly a slip, as if it came again
        answer = answer._replace(typos=answer.typos * 2)
    return [prompt, answer, weigh_turns(left[2:], right[2:])]


def _asks_for_spelling(prompt: Difference, answers: tuple[str, ...]) -> bool:
    """Tell prompts that differ in the spelling of a word which a short answer gives."""
    answer_words = (
        {token.key for answer in answers for token in tokens_of(answer, fold=False)} if prompt.typos else set()
    )
    return any(
        may_be_typo(word, key) or word == key for typo in prompt.typos for word in typo[:2] for key in answer_words
    )


def _num_words(texts: tuple[str, ...]) -> int:
    return sum(len(text.split()) for text in texts)


def _count(typos: set[Typo], texts: RowFile, workers: Workers) -> Counter[str]:
    """Count the rows in which each spelling stands; glue is known without counting."""
    words = frozenset(word for typo in typos for word in (typo.left, typo.right))
    counts = Counter[str]()
    for part in workers.map(count_words, _searches(texts, words)):
        counts.update(part)
    counts.update(dict.fromkeys(words & GLUE, FREQUENT_ROWS))
    return counts


class Slips:
    """Pairs of spellings of which the rows show that one is the other misspelt."""

    def __init__(self, typos: set[Typo], counts: Counter[str]) -> None:
        """Judge spellings by the rows that hold them."""
        self._once = {typo for typo in typos if _is_slip(typo, counts)}
        self._again = {typo for typo in self._once if _is_habit(typo, counts)}

    def forgive(self, typos: list[Typo]) -> bool:
        """Tell whether all differences of two rows are slips.

        An exchange that comes again, in a prompt or in prompt and answer, speaks of two things.
        """
        counts = Counter(typos)
        return all(typo in (self._again if count > 1 else self._once) for typo, count in counts.items())


def _is_slip(typo: Typo, counts: Counter[str]) -> bool:
    """Tell whether one spelling is a word of these rows and the other hardly occurs."""
    if typo.is_name or not _keeps_ends(typo):
        return False
    if max(len(typo.left), len(typo.right)) < LONG_LETTERS:
        return _is_habit(typo, counts)
    rarer, commoner = sorted((counts[typo.left], counts[typo.right]))
    if commoner >= KNOWN_ROWS:
        return rarer <= max(UNKNOWN_ROWS, UNKNOWN_SHARE * commoner)
    # Of two rare spellings none is known: only letters lost or swapped inside a long word are no other word.
    return not _is_exchange(typo)


def _is_habit(typo: Typo, counts: Counter[str]) -> bool:
    """Tell slips so clear that they may come again in a row: letters lost or swapped in a frequent word."""
    rarer, commoner = sorted((counts[typo.left], counts[typo.right]))
    is_rare = rarer <= max(UNKNOWN_ROWS, UNKNOWN_SHARE * commoner)
    return commoner >= FREQUENT_ROWS and is_rare and not typo.is_name and not _is_exchange(typo)


def _keeps_ends(typo: Typo) -> bool:
    """Tell spellings that begin alike, and end alike or in swapped letters: payer and payee are two words.

    `teh` for `the` needs no such proof.
    """
    left, right = typo.left, typo.right
    ends_alike = left[-1] == right[-1] or sorted(left[-2:]) == sorted(right[-2:])
    return (left[0] == right[0] and ends_alike) or not GLUE.isdisjoint((left, right))


def _is_exchange(typo: Typo) -> bool:
    return len(typo.left) == len(typo.right) and sorted(typo.left) != sorted(typo.right)


def _searches(texts: RowFile, words: frozenset[str]) -> Iterator[WordSearch]:
    for begin in range(0, len(texts), CHUNK_ROWS):
        rows = np.arange(begin, min(begin + CHUNK_ROWS, len(texts)))
        yield WordSearch(texts.path, texts.spans(rows), words)


def count_words(search: WordSearch) -> Counter[str]:
    """Count the texts in which each word stands."""
    counts = Counter[str]()
    for line in read_spans(search.path, search.spans):
        counts.update(search.words.intersection(line.decode().split()))
    return counts
