"""Bound the Jaccard similarity of pairs from above by 512 bits a text, without reading the rows again.

Each shingle sets one bit. A bit of the left text alone stands for at least one shingle that the right text lacks. So
with l bits of the left text alone, r bits of the right text alone and |L|, |R| shingles,

    |L and R| <= m = min(|L| - l, |R| - r)        Jaccard <= m / (m + l + r)

Long texts set all bits, and their bound is 1.

Example:
    |L| = 3 shingles set bits 1, 4, 7 and |R| = 3 set bits 1, 4, 9: l = r = 1, m = 2, Jaccard <= 2 / 4. That is exact,
    unless two different shingles meet in one bit: then the similarity is less.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.shingles import LONG_WORDS, Sets, Shingle

NUM_BITS = 512
PAIRS_AT_ONCE = 2**16
SET_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)
"""Bits that are set in each byte."""


class Marks(NamedTuple):
    """Bits of texts by one kind of shingle each; a text between two kinds has two entries."""

    kinds: NDArray[np.uint8]
    """(entries,): `Shingle`."""
    words: NDArray[np.uint16]
    """(entries,): words of the text; from `LONG_WORDS` on only that it has so many."""
    sizes: NDArray[np.uint32]
    """(entries,): shingles, repeated ones counted."""
    bits: NDArray[np.uint8]
    """(entries, 64)."""


def mark(sets: Sets, kind: Shingle, words: list[int]) -> Marks:
    """Return the bits of texts that have the shingles `sets` and so many words."""
    sizes = np.diff(sets.offsets)
    is_set = np.zeros((sizes.size, NUM_BITS), np.bool_)
    # (texts, 512): text i owns the next sizes[i] hashes
    is_set[np.repeat(np.arange(sizes.size), sizes), sets.hashes % np.uint64(NUM_BITS)] = True
    bits = np.packbits(is_set, axis=1)  # (texts, 64) bytes
    clipped = np.minimum(np.array(words, np.int64), LONG_WORDS).astype(np.uint16)
    return Marks(np.full(sizes.size, kind, np.uint8), clipped, sizes.astype(np.uint32), bits)


def no_marks() -> Marks:
    """Return the bits of no texts."""
    bits = np.zeros((0, NUM_BITS // 8), np.uint8)
    return Marks(np.zeros(0, np.uint8), np.zeros(0, np.uint16), np.zeros(0, np.uint32), bits)


def upper_bounds(marks: Marks, rows: NDArray[np.int64], pairs: NDArray[np.int64], num_rows: int) -> NDArray[np.float64]:
    """Return for each pair a similarity that it cannot exceed; 1 where nothing is known.

    Args:
        marks: entries of all texts.
        rows: (entries,) row of each entry.
        pairs: (pairs, 2) rows.
        num_rows: all rows.
    """
    entry, words = np.full((len(Shingle), num_rows), -1, np.int32), np.zeros(num_rows, np.uint16)
    # (kinds, rows): -1 where a row has no entry
    entry[marks.kinds, rows], words[rows] = np.arange(rows.size), marks.words
    bounds = np.ones(len(pairs))
    for begin in range(0, len(pairs), PAIRS_AT_ONCE):
        left, right = pairs[begin : begin + PAIRS_AT_ONCE].T
        # The kind by which the two are compared, see `shingles.kind_for_pair`.
        is_long = np.minimum(words[left], words[right]) >= LONG_WORDS
        kind = np.where(is_long, Shingle.WORDS_2, Shingle.CHARACTERS_5)
        unspaced = entry[Shingle.CHARACTERS_3]
        kind[(unspaced[left] >= 0) | (unspaced[right] >= 0)] = Shingle.CHARACTERS_3
        left_entry, right_entry = entry[kind, left], entry[kind, right]
        comparable = np.flatnonzero((left_entry >= 0) & (right_entry >= 0))
        bounds[begin + comparable] = _bounds(marks, left_entry[comparable], right_entry[comparable])
    return bounds


def _bounds(marks: Marks, left: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.float64]:
    left_bits, right_bits = marks.bits[left], marks.bits[right]
    only_left, only_right = (
        SET_BITS[bits].sum(axis=1, dtype=np.int64) for bits in (left_bits & ~right_bits, right_bits & ~left_bits)
    )
    shared = np.minimum(marks.sizes[left] - only_left, marks.sizes[right] - only_right)  # m of the formula
    bounds: NDArray[np.float64] = shared / np.maximum(shared + only_left + only_right, 1)
    return bounds
