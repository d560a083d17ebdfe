"""Find similar rows: take candidates from the index, and compare their texts on disk exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.jaccard import ComparableText, Compared, Pairs, compare
from trainer.data.duplicates.minhash import Edges
from trainer.data.duplicates.pair_verdict import SAME_ANSWER, SHARED_ANSWER_ROWS, Weights, judge, of_interest
from trainer.data.duplicates.texts import OPENING_WORDS, unpack_texts, without_opening
from trainer.data.fact_table import FactTable
from trainer.data.prepare import OPENINGS
from trainer.data.row_file import RowFile, read_spans
from trainer.data.weigh_pairs import weigh_pairs
from trainer.data.workers import Workers

CHUNK_PAIRS, CHUNK_BYTES = 2000, 2_000_000
"""Pairs to compare in one go, and the bytes of their texts: as sets of shingles they take fifty times as much."""
TEMPLATE_ROWS = 10
"""Rows whose prompts begin alike."""
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class PairChunk:
    """Pairs of rows to compare."""

    path: Path
    spans: NDArray[np.int64]
    """(texts, 2) parts of the file; a row may come several times."""
    openings: NDArray[np.int64]
    """(texts,) words of the prompt that are left out."""
    pairs: Pairs
    """(pairs, 2) texts."""
    least: float
    """See `verify.compare`."""


def read_texts(path: Path, spans: NDArray[np.int64]) -> list[ComparableText]:
    """Read the texts by which rows are compared."""
    return [unpack_texts(line) for line in read_spans(path, spans)]


def compare_chunk(chunk: PairChunk) -> Compared:
    """Compare pairs of rows on disk exactly."""
    comparable = map(without_opening, read_texts(chunk.path, chunk.spans), chunk.openings.tolist())
    return compare(list(comparable), chunk.pairs, least=chunk.least)


def find_similar(
    table: FactTable, texts: RowFile, spool: RowFile, workers: Workers, rows: Rows, *, drop: float, flag: float
) -> tuple[Edges, Rows]:
    """Find the pairs among `rows` that are near duplicates, contradict each other, or belong together.

    Args:
        table: facts of all rows.
        texts: their texts, normalised.
        spool: the rows as they are.
        workers: processes to compare with.
        rows: rows that are compared.
        drop: similarity from which rows can be copies.
        flag: similarity from which rows belong on one side of the split.

    Returns:
        The pairs, and the rows whose neighbours were too many to compare all of them.
    """
    shared = shared_answers(table, rows)
    least = min(drop, flag, SAME_ANSWER)
    pairs, crowded = table.index.pairs(
        prompt=_one_of_each_prompt(table, rows), conversation=table.mask(rows) & ~shared, least=least
    )
    parts = [
        Compared.of(0),
        *workers.map(compare_chunk, _chunks(texts, pairs, shared_openings(table, rows, pairs), least)),
    ]
    compared = Compared(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    weights = Weights.of(len(pairs))
    weigh_pairs(weights, spool, texts, workers, pairs, np.flatnonzero(of_interest(compared, drop=drop)))
    answers = table.columns["answer"]
    return judge(pairs, compared, weights, answers=answers, shared=shared, drop=drop, flag=flag), crowded


def shared_answers(table: FactTable, rows: Rows) -> NDArray[np.bool_]:
    """Return (all rows,): true where many of `rows` give the same answer, which then tells nothing about copies."""
    answers = table.columns["answer"]
    values, counts = np.unique(answers[rows], return_counts=True)
    often = values[(counts >= SHARED_ANSWER_ROWS) & (values != 0)]
    return np.isin(answers, often) & (table.columns["prompt_chars"] > 0)


def _one_of_each_prompt(table: FactTable, rows: Rows) -> NDArray[np.bool_]:
    """Choose the first row of each prompt: rows with the very same prompt are told by its key.

    Rows whose answers differ are one each, so that a copy of any of them is found.
    """
    columns = table.columns
    prompted = rows[columns["prompt_chars"][rows] > 0]
    of_side = columns["prompt"] + columns["side"].astype(np.uint64)
    keys = np.stack([of_side[prompted], columns["answer"][prompted], columns["context"][prompted]], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)
    return table.mask(_capped(prompted[np.sort(first)], of_side))


def _capped(rows: Rows, prompt: NDArray[np.uint64], limit: int = 8) -> Rows:
    """Keep the first `limit` rows of each prompt.

    Example:
        >>> _capped(np.array([0, 1, 2, 3]), np.array([5, 5, 6, 5], np.uint64), limit=2)
        array([0, 1, 2])
    """
    order = np.argsort(prompt[rows], kind="stable")
    keys = prompt[rows][order]
    nth = np.arange(keys.size) - np.searchsorted(keys, keys, side="left")
    return np.sort(rows[order[nth < limit]])


def shared_openings(table: FactTable, rows: Rows, pairs: Pairs) -> NDArray[np.int64]:
    """Return (pairs,): words of a template with which both prompts begin; 0 where there is none.

    A long template would make all that is asked through it alike. Ten rows with one opening make a template.
    """
    result = np.zeros(len(pairs), np.int64)
    for name, num_words in zip(OPENINGS, OPENING_WORDS, strict=True):
        openings = table.columns[name]
        values, counts = np.unique(openings[rows], return_counts=True)
        templates = values[(counts >= TEMPLATE_ROWS) & (values != 0)]
        left, right = openings[pairs[:, 0]], openings[pairs[:, 1]]
        result[(left == right) & np.isin(left, templates)] = num_words
    return result


def _chunks(texts: RowFile, pairs: Pairs, openings: NDArray[np.int64], least: float) -> Iterator[PairChunk]:
    spans = texts.spans(pairs.reshape(-1))
    ends = np.cumsum((spans[:, 1] - spans[:, 0]).reshape(-1, 2).sum(axis=1))
    factor = max(OPENING_WORDS) + 1
    keys = pairs * factor + openings[:, None]
    begin = 0
    while begin < len(pairs):
        passed = ends[begin - 1] if begin else 0
        full = int(np.searchsorted(ends, passed + CHUNK_BYTES, side="right"))
        end = max(min(full, begin + CHUNK_PAIRS), begin + 1)
        chosen, indices = np.unique(keys[begin:end], return_inverse=True)
        rows, left_out = np.divmod(chosen, factor)
        yield PairChunk(texts.path, texts.spans(rows), left_out, indices.reshape(-1, 2), least)
        begin = end


def join_edges(parts: Sequence[Edges]) -> Edges:
    """Put the pairs of several rounds together, each pair once."""
    joined = Edges(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    _, first = np.unique(joined.pairs, axis=0, return_index=True)
    return joined.chosen(first)
