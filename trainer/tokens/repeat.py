"""Repeat the rows of sources as `data.sources[].repeat` asks."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np

from trainer.data.records.kinds import Record
from trainer.tokens.arrays import Ints


def repeated(rows: Iterable[Record], seed: int) -> Ints:
    """Return the row numbers of one epoch, ascending, int32.

    A whole part of `repeat` gives each row so often; its fraction gives a seeded share of the rows once more.

    Args:
        rows: `source` and `repeat` of each row; both may be missing (repeat 1).
        seed: Of the recipe.

    Example:
        >>> repeated([{"source": "a", "repeat": 2.0}, {"source": "b"}], seed=0).tolist()
        [0, 0, 1]
    """
    sources: dict[tuple[str, float], list[int]] = {}
    for index, row in enumerate(rows):
        sources.setdefault((str(row.get("source")), float(row.get("repeat", 1.0))), []).append(index)
    counts = np.zeros(sum(map(len, sources.values())), dtype=np.int64)
    for (source, repeat), members in sources.items():
        # seeded by the source too: its half stays the same when another source changes
        extra = random.Random(f"{seed} {source}").sample(members, round((repeat % 1) * len(members)))
        counts[members] = int(repeat)  # repeat 2.5: each row twice, half of them once more
        counts[extra] += 1
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def texts_of_rows(rows: Ints, counts: Ints) -> Ints:
    """Return the numbers of all texts of some rows, int32: text after text, a row after a row.

    Args:
        rows: Numbers of rows; one may occur again.
        counts: Texts of each row.

    Example:
        >>> texts_of_rows(np.array([0, 1, 1]), np.array([1, 2])).tolist()
        [0, 1, 2, 1, 2]
    """
    starts = np.cumsum(counts) - counts
    lengths = counts[rows]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    texts: Ints = (np.repeat(starts[rows], lengths) + within).astype(np.int32)
    return texts
