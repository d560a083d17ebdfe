"""Weigh the pairs of rows that may be copies: the rows are read again, and their spelling is judged by all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data import exact
from trainer.data.alternatives import GLUE
from trainer.data.judge import Weights
from trainer.data.spool import Spool, read_spans
from trainer.data.verify import SHORT_ANSWER_WORDS, Pairs
from trainer.data.weigh import Difference, Typo, texts_of, weigh_turns
from trainer.data.workers import Workers

CHUNK_PAIRS, CHUNK_ROWS = 2000, 5000
KNOWN_ROWS, UNKNOWN_ROWS, UNKNOWN_SHARE = 3, 2, 0.05
"""A word in so many rows or more is a word; one in so few, or so few beside it, can be a misspelling of it."""
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


def weigh_pairs(weights: Weights, spool: Spool, said: Spool, workers: Workers, pairs: Pairs, chosen: Rows) -> None:
    """Fill in what differs between the rows of some pairs.

    Args:
        weights: of all pairs; filled in where they are chosen.
        spool: rows.
        said: their normalised texts.
        workers: processes to compare with.
        pairs: (pairs, 2) rows.
        chosen: numbers of the pairs to weigh.
    """
    begin = 0
    waiting: list[tuple[int, list[Difference]]] = []
    for part in workers.map(weigh_chunk, _chunks(spool, pairs[chosen])):
        for differences in part:
            place = int(chosen[begin])
            begin += 1
            if any(found.typos for found in differences):
                waiting.append((place, differences))
            else:
                _fill(weights, place, differences, forgive=False)
    typos = {typo for _, differences in waiting for found in differences for typo in found.typos}
    slips = _slips(typos, said, workers) if typos else set()
    for place, differences in waiting:
        of_pair = [typo for found in differences for typo in found.typos]
        # The same exchange in prompt and answer is no slip: the rows speak of two things.
        _fill(weights, place, differences, forgive=len(set(of_pair)) == len(of_pair) and slips.issuperset(of_pair))


def _fill(weights: Weights, place: int, differences: list[Difference], *, forgive: bool) -> None:
    for column, found in zip((weights.prompt, weights.answer, weights.context), differences, strict=True):
        column[place] = found.forgiven if forgive else found.weight
    weights.is_slot[place] = differences[0].is_slot


def _chunks(spool: Spool, pairs: Pairs) -> Iterator[RowPairs]:
    for begin in range(0, len(pairs), CHUNK_PAIRS):
        rows, places = np.unique(pairs[begin : begin + CHUNK_PAIRS], return_inverse=True)
        yield RowPairs(spool.path, spool.spans(rows), places.reshape(-1, 2))


def weigh_chunk(chunk: RowPairs) -> list[list[Difference]]:
    """Return what differs in prompt, answer and context of each pair."""
    texts = [texts_of(exact.loads(line)) for line in read_spans(chunk.path, chunk.spans)]
    weighed = []
    for left, right in chunk.pairs.tolist():
        one, other = texts[left], texts[right]
        is_short = min(_num_words(one[1]), _num_words(other[1])) < SHORT_ANSWER_WORDS
        answer = weigh_turns(one[1], other[1], exactly=is_short)
        weighed.append([weigh_turns(one[0], other[0]), answer, weigh_turns(one[2:], other[2:])])
    return weighed


def _num_words(texts: tuple[str, ...]) -> int:
    return sum(len(text.split()) for text in texts)


def _slips(typos: set[Typo], said: Spool, workers: Workers) -> set[Typo]:
    """Return the pairs of spellings of which one is a word of these rows and the other hardly occurs."""
    words = frozenset(word for typo in typos for word in typo)
    counts = Counter[str]()
    for part in workers.map(count_words, _searches(said, words)):
        counts.update(part)
    counts.update(dict.fromkeys(words & GLUE, KNOWN_ROWS))
    return {typo for typo in typos if _is_slip(typo, counts[typo.left], counts[typo.right])}


def _is_slip(typo: Typo, left: int, right: int) -> bool:
    rarer, other = sorted((left, right))
    if other >= KNOWN_ROWS:
        return rarer <= max(UNKNOWN_ROWS, UNKNOWN_SHARE * other)
    # Of two rare spellings none is known: only letters lost or swapped inside a long word are no other word.
    is_exchange = len(typo.left) == len(typo.right) and sorted(typo.left) != sorted(typo.right)
    return min(map(len, typo)) >= LONG_LETTERS and typo.left[-1] == typo.right[-1] and not is_exchange


def _searches(said: Spool, words: frozenset[str]) -> Iterator[WordSearch]:
    for begin in range(0, len(said), CHUNK_ROWS):
        rows = np.arange(begin, min(begin + CHUNK_ROWS, len(said)))
        yield WordSearch(said.path, said.spans(rows), words)


def count_words(search: WordSearch) -> Counter[str]:
    """Count the texts in which each word stands."""
    counts = Counter[str]()
    for line in read_spans(search.path, search.spans):
        counts.update(search.words.intersection(line.decode().split()))
    return counts
