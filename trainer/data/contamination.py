"""Find training rows that share long runs of words with rows the model is tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.jaccard import ComparableText
from trainer.data.duplicates.shingles import word_windows
from trainer.data.row_file import RowFile
from trainer.data.similar_rows import read_texts
from trainer.data.workers import Workers

COMMON_ROWS = 10
"""Word runs in more training rows, or in more protected rows, than this are phrases of a template, not a test item."""
ROWS_PER_CHUNK = 2000

Kind = Literal["exact", "near", "ngram"]
Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]


class Hit(NamedTuple):
    """A training row and the protected row that it gives away."""

    row: int
    tested: int
    kind: Kind
    score: float
    """Similarity; of word runs their number."""


@dataclass(frozen=True)
class GramChunk:
    """Training rows to be searched for word runs."""

    path: Path
    spans: NDArray[np.int64]
    rows: Rows
    hashes_path: Path
    """Sorted hashes of the word runs that are looked for, a .npy file."""
    num_words: int


def find_shared_runs(
    texts: RowFile, workers: Workers, rows: Rows, protected: Rows, *, num_words: int, folder: Path
) -> list[Hit]:
    """Find rows that repeat a run of words of a protected row.

    Args:
        texts: texts of all rows.
        workers: processes to search with.
        rows: training rows.
        protected: rows that are tested on.
        num_words: length of a run; rows with fewer words have none.
        folder: where the hashes are put meanwhile.

    Returns:
        One hit for each such row, with the protected row it shares most runs with; the score is their number.

    Source:
        13-grams and the leaving out of common ones: Brown et al., Language Models are Few-Shot Learners, appendix C.
    """
    hashes, owner = _protected_runs(read_texts(texts.path, texts.spans(protected)), num_words)
    if not hashes.size:
        return []
    path = folder / "runs.npy"
    np.save(path, hashes)
    try:
        chunks = _chunks(texts, rows, path, num_words)
        matches = [np.zeros((0, 2), np.int64), *workers.map(search_chunk, chunks)]
    finally:
        path.unlink()
    return list(_best_hits(np.concatenate(matches), owner, protected))


def _runs(comparable: Sequence[ComparableText], num_words: int) -> tuple[Hashes, Rows]:
    """Return the word runs of each row, prompt and answer apart, and the row of each; repeated ones again."""
    hashes, owners = [], []
    for side in ([text.prompt for text in comparable], [text.answer for text in comparable]):
        runs = word_windows(side, num_words)
        hashes.append(runs.hashes)
        owners.append(np.repeat(np.arange(len(side)), np.diff(runs.offsets)))
    return np.concatenate(hashes), np.concatenate(owners)


def _protected_runs(comparable: Sequence[ComparableText], num_words: int) -> tuple[Hashes, Rows]:
    """Return the word runs that stand for few protected rows, sorted, and the first row of each."""
    hashes, owner = _runs(comparable, num_words)
    order = np.lexsort((owner, hashes))
    hashes, owner = hashes[order], owner[order]
    is_new = np.ones(hashes.size, np.bool_)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    hashes, owner = hashes[is_new], owner[is_new]
    values, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    rare = counts <= COMMON_ROWS
    return values[rare], owner[first[rare]]


def _chunks(texts: RowFile, rows: Rows, path: Path, num_words: int) -> Iterator[GramChunk]:
    for begin in range(0, rows.size, ROWS_PER_CHUNK):
        chosen = rows[begin : begin + ROWS_PER_CHUNK]
        yield GramChunk(texts.path, texts.spans(chosen), chosen, path, num_words)


def search_chunk(chunk: GramChunk) -> NDArray[np.int64]:
    """Return (hits, 2): training row, and place of the word run in the sorted hashes."""
    protected = np.load(chunk.hashes_path, mmap_mode="r")
    hashes, owner = _runs(read_texts(chunk.path, chunk.spans), chunk.num_words)
    index = np.minimum(np.searchsorted(protected, hashes), protected.size - 1)
    hits = protected[index] == hashes
    matches = np.stack([chunk.rows[owner[hits]], index[hits]], axis=1).astype(np.int64)
    return np.unique(matches, axis=0)


def _best_hits(matches: NDArray[np.int64], owner: Rows, protected: Rows) -> Iterator[Hit]:
    times = np.bincount(matches[:, 1], minlength=owner.size)
    matches = matches[times[matches[:, 1]] <= COMMON_ROWS]
    pairs, counts = np.unique(np.stack([matches[:, 0], owner[matches[:, 1]]], axis=1), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
    _, first = np.unique(pairs[order, 0], return_index=True)
    for index in order[first].tolist():
        row, tested = pairs[index].tolist()
        yield Hit(row, int(protected[tested]), "ngram", float(counts[index]))
