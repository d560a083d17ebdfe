"""Report rows with the same meaning in other words, found by sentence embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.data.contamination_check import excerpt
from trainer.data.dataset import Rows, RowSet
from trainer.data.duplicates.texts import answer_text, prompt_text
from trainer.data.embedding import Vectors, load_embedder
from trainer.recipe.data import Semantic
from trainer.shapes.report import RowPair, SemanticPairs

Embed = Callable[[Sequence[str]], Vectors]
Codes = NDArray[np.int64]
"""Pairs as one number each: left * rows + right, so that sets of pairs are compared at once."""

MAX_LISTED, MAX_PLACES = 20, 1000
BLOCK_ROWS = 256
"""Rows compared with all others at a time: 20 MB of similarities for 20,000 rows."""
DIGITS = 4
"""Similarities are rounded to so many digits: further ones vary with the number of threads."""


def find_semantic(
    row_set: RowSet, sides: dict[str, Rows], section: Semantic, *, load: Callable[[str], Embed] = load_embedder
) -> SemanticPairs:
    """Compare what the rows of all sides mean, and list the pairs that the other steps did not find.

    Returns:
        `semantic` of report.json: rows compared, pairs, pairs of rows on different sides, and the most similar ones.

    Raises:
        HardwareError: The model is not there.
    """
    rows = _chosen(np.sort(np.concatenate(list(sides.values()))), section.max_rows)
    texts = [_text(row_set, row) for row in rows.tolist()]
    with_text = np.array([bool(text) for text in texts], np.bool_)
    rows = rows[with_text]
    vectors = load(section.model)([text for text in texts if text])
    known = _word_pairs(row_set, rows)
    count, across = 0, 0
    best: list[tuple[float, int, int]] = []
    side_of = _sides_of(row_set, sides)[rows]
    for left, right, scores in similar_pairs(vectors, section.threshold):
        is_new = ~np.isin(left * rows.size + right, known) & ~_same_prompt(row_set, rows[left], rows[right])
        left, right, scores = left[is_new], right[is_new], scores[is_new]
        count += left.size
        across += int(np.count_nonzero(side_of[left] != side_of[right]))
        top = np.lexsort((right, left, -scores))[:MAX_PLACES]
        best += zip((-scores[top]).tolist(), rows[left[top]].tolist(), rows[right[top]].tolist(), strict=True)
        best = sorted(best)[:MAX_PLACES]
    return {
        "rows_compared": int(rows.size),
        "threshold": section.threshold,
        "pairs": count,
        "pairs_across_sides": across,
        "places": [[row_set.table.ref(left), row_set.table.ref(right)] for _, left, right in best],
        "samples": [_listed(row_set, left, right, -score) for score, left, right in best[:MAX_LISTED]],
    }


def similar_pairs(vectors: Vectors, threshold: float) -> Iterator[tuple[Codes, Codes, NDArray[np.float32]]]:
    """Yield the pairs of vectors with a cosine of at least `threshold`, a block of rows at a time.

    Args:
        vectors: (rows, D) of unit length.
        threshold: smallest similarity.

    Yields:
        Left rows, right rows (left < right), similarities, of one length.
    """
    for begin in range(0, len(vectors), BLOCK_ROWS):
        scores = np.round(vectors[begin : begin + BLOCK_ROWS] @ vectors[begin:].T, DIGITS)
        left, right = np.nonzero(scores >= np.float32(threshold))
        is_pair = left < right
        left, right = left[is_pair], right[is_pair]
        yield left + begin, right + begin, scores[left, right]


def _chosen(rows: Rows, limit: int) -> Rows:
    return rows[:: -(-rows.size // limit)] if rows.size > limit else rows


def _text(row_set: RowSet, row: int) -> str:
    record = row_set.spool.row(row)
    return "\n".join(part for part in (prompt_text(record), answer_text(record)) if part.strip())


def _word_pairs(row_set: RowSet, rows: Rows) -> Codes:
    """Return the pairs of `rows` that shared words have shown, as codes of their places in `rows`."""
    edges = row_set.copies.edges
    if edges is None:
        return np.zeros(0, np.int64)
    pairs = np.sort(edges.pairs[np.isin(edges.pairs, rows).all(axis=1)], axis=1)
    left, right = np.searchsorted(rows, pairs).T
    codes: Codes = left * rows.size + right
    return codes


def _same_prompt(row_set: RowSet, left: Rows, right: Rows) -> NDArray[np.bool_]:
    """Tell pairs with the very same prompt: they are conflicts, or several answers to one prompt."""
    columns = row_set.table.columns
    same: NDArray[np.bool_] = columns["prompt"][left] == columns["prompt"][right]
    return same & (columns["prompt_chars"][left] > 0)


def _sides_of(row_set: RowSet, sides: dict[str, Rows]) -> NDArray[np.int64]:
    side_of = np.full(len(row_set.table), -1, np.int64)
    for number, rows in enumerate(sides.values()):
        side_of[rows] = number
    return side_of


def _listed(row_set: RowSet, row: int, partner: int, score: float) -> RowPair:
    table = row_set.table
    return {
        "row": table.ref(row),
        "of": table.ref(partner),
        "similarity": round(score, 3),
        "text": excerpt(row_set, row),
        "of_text": excerpt(row_set, partner),
    }
