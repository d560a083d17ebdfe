"""Propose pairs of near duplicates by MinHash; the exact Jaccard similarity decides later.

MinHash: of 128 random orders of all shingles, a signature holds the least shingle of a text in each order. Two texts
agree in one value with probability s, their Jaccard similarity. Rows share a bucket where all 4 values of one of 32
bands agree; Index.pairs pairs the rows of each bucket.

Example:
    Signatures in 2 bands of 2 values. Rows a and b share the bucket (3, 8) of band 0; c meets nobody.

        row   band 0   band 1
        a     3 8      5 1
        b     3 8      2 1
        c     7 8      4 1

What is compared is what user and assistant said. System prompts and tools are left out, because rows that share a
long one would all look alike; they are compared on their own. The answer is left out too where many rows share it
(class labels): it says nothing about two rows being copies. The prompt alone is indexed beside the whole row, so that
conflicts are found: nearly the same prompt, another answer.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from trainer.data.duplicates.bounds import Marks, mark, no_marks, upper_bounds
from trainer.data.duplicates.jaccard import ComparableText, Pairs, conversation_text, num_words
from trainer.data.duplicates.shingles import Sets, Shingle, distinct, is_unspaced, kinds_for, shingle, united

NUM_PERMUTATIONS, NUM_BANDS, SEED = 128, 32, 1
ROWS_PER_BAND = NUM_PERMUTATIONS // NUM_BANDS
"""Pairs of similarity s meet in a band with probability 1 - (1 - s^4)^32: 0.9998 at 0.7, 0.87 at 0.5."""
FOREST_BANDS = 6
"""Bands that order the rows of a bucket too large to compare completely."""
WINDOW = 7
"""Rows of one bucket that each row is compared with; buckets up to one more are compared completely."""

Rows = NDArray[np.int64]


class BandKeys(NamedTuple):
    """Band keys of texts; a text between two kinds of shingle has two entries."""

    rows: Rows
    """(entries,): index of the text."""
    bands: NDArray[np.uint32]
    """(entries, 32)"""
    marks: Marks


class Bands(NamedTuple):
    """Two ways to find similar rows: by the prompt alone, and by prompt and answer."""

    prompt: BandKeys
    conversation: BandKeys


def band_texts(rows: Sequence[ComparableText]) -> Bands:
    """Index texts; those without a word have no entry."""
    prompts, conversations = [text.prompt for text in rows], [conversation_text(text) for text in rows]
    answers = [text.answer for text in rows]
    return Bands(_band(prompts, [""] * len(rows), prompts), _band(prompts, answers, conversations))


def _band(lefts: Sequence[str], rights: Sequence[str], conversations: Sequence[str]) -> BandKeys:
    """Index texts of two parts, whose shingles are joined; `conversations` decides the kind of shingle."""
    by_kind: dict[Shingle, list[int]] = {kind: [] for kind in Shingle}
    words = [num_words(text) for text in conversations]
    for index, text in enumerate(conversations):
        for kind in kinds_for(words[index], unspaced=is_unspaced(text)) if text else ():
            by_kind[kind].append(index)
    entries = [BandKeys(np.zeros(0, np.int64), np.zeros((0, NUM_BANDS), np.uint32), no_marks())]
    for kind, chosen in by_kind.items():
        if chosen:
            sets = united(*(shingle([part[row] for row in chosen], kind) for part in (lefts, rights)))
            marks = mark(sets, kind, [words[row] for row in chosen])
            entries.append(BandKeys(np.array(chosen, np.int64), _band_keys(_signatures(sets)), marks))
    return _joined(entries)


def _joined(parts: Sequence[BandKeys]) -> BandKeys:
    rows, bands, marks = zip(*parts, strict=True)
    columns = (np.concatenate(column) for column in zip(*marks, strict=True))
    return BandKeys(np.concatenate(rows), np.concatenate(bands), Marks(*columns))


def _signatures(sets: Sets) -> NDArray[np.uint32]:
    """Return MinHash signatures, (texts, 128) uint32."""
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        sets.hashes, sets.offsets.astype(np.uint64), NUM_PERMUTATIONS, SEED
    )
    values = array("I")  # takes lists of numbers in a third of the time that numpy does
    for row in matrix.to_rows():
        values.fromlist(row)
    return np.array(values, np.uint32).reshape(-1, NUM_PERMUTATIONS)


def _band_keys(signatures: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash each band of 4 values to 32 bits; a chance collision only costs one exact comparison."""
    bands = signatures.reshape(-1, NUM_BANDS, ROWS_PER_BAND).astype(np.uint64)  # (texts, 32, 4)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for column in range(ROWS_PER_BAND):
        keys = (keys ^ bands[:, :, column]) * np.uint64(0x9E3779B97F4A7C15)
        # the factor mixes upwards only: shift high bits down before the next value
        keys ^= keys >> np.uint64(29)
    return (keys >> np.uint64(32)).astype(np.uint32)


@dataclass
class Index:
    """Band keys of all rows, in the chunks in which they were made: 400 bytes a row."""

    chunks: list[Bands] = field(default_factory=list)

    def add(self, bands: Bands, first_row: int) -> None:
        """Add the texts of a chunk whose text 0 is row `first_row`."""
        self.chunks.append(Bands(*(keys._replace(rows=keys.rows + first_row) for keys in bands)))

    def pairs(self, *, prompt: NDArray[np.bool_], conversation: NDArray[np.bool_], least: float) -> tuple[Pairs, Rows]:
        """Return the pairs of rows that share a bucket, and the rows of buckets too large to compare completely.

        Args:
            prompt: (rows,) rows whose prompt is compared.
            conversation: (rows,) rows that are compared as a whole.
            least: pairs whose prompts, and who as a whole, are certainly less alike are left out.

        Returns:
            (pairs, 2) with the lesser row first, each pair once, sorted.
        """
        packed_pairs, crowded = np.zeros(0, np.uint64), np.zeros(prompt.size, np.bool_)
        for part, chosen in enumerate((prompt, conversation)):
            parts = [chunk[part] for chunk in self.chunks]
            masks = [chosen[keys.rows] for keys in parts]
            rows = _chosen([keys.rows for keys in parts], masks, np.int64)
            columns = partial(_band_column, parts, masks)
            for band in range(NUM_BANDS):
                pairs, cut = _bucket_pairs(columns, rows, band)
                # after each band: most pairs recur in several bands, and would fill memory 32 times
                packed_pairs, crowded[cut] = distinct(np.concatenate([packed_pairs, pairs])), True
        both = np.stack([packed_pairs >> np.uint64(32), packed_pairs & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64)
        return self._possible(both, prompt.size, least), np.flatnonzero(crowded)

    def _possible(self, pairs: Pairs, num_rows: int, least: float) -> Pairs:
        """Leave out pairs that met by chance."""
        possible = np.zeros(len(pairs), np.bool_)
        for parts in zip(*self.chunks, strict=True):  # prompts, then conversations
            rows = np.concatenate([np.zeros(0, np.int64), *(keys.rows for keys in parts)])
            columns = zip(no_marks(), *(keys.marks for keys in parts), strict=True)
            marks = Marks(*(np.concatenate(column) for column in columns))
            possible |= upper_bounds(marks, rows, pairs, num_rows) >= least
        return pairs[possible]


def _chosen(parts: list[NDArray[Any]], masks: list[NDArray[np.bool_]], kind: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *(part[mask] for part, mask in zip(parts, masks, strict=True))])


def _band_column(parts: Sequence[BandKeys], masks: list[NDArray[np.bool_]], band: int) -> NDArray[np.uint32]:
    return _chosen([keys.bands[:, band % NUM_BANDS] for keys in parts], masks, np.uint32)


def _bucket_pairs(
    columns: Callable[[int], NDArray[np.uint32]], rows: Rows, band: int
) -> tuple[NDArray[np.uint64], Rows]:
    """Pair each row with the next rows of its bucket and with the bucket's first, as `row << 32 | row`.

    Args:
        columns: returns (entries,) keys of a band.
        rows: (entries,) row of each entry.
        band: which one.

    Returns:
        The pairs, and the rows of buckets with more rows than that.
    """
    keys = columns(band)
    if keys.size < 2:
        return np.zeros(0, np.uint64), rows[:0]
    # Another order in each band: a large bucket that recurs then gives other neighbours each time.
    shuffled = np.random.default_rng(band).permutation(keys.size)
    # key in the upper half, entry in the lower: one sort of numbers groups entries by bucket
    packed = np.sort((keys[shuffled].astype(np.uint64) << np.uint64(32)) | np.arange(keys.size, dtype=np.uint64))
    keys = (packed >> np.uint64(32)).astype(np.uint32)
    meets = np.concatenate([keys[1:] == keys[:-1], [False]])
    meets[1:] |= meets[:-1].copy()  # rows alone in their bucket, the most, are put aside
    keys, packed = keys[meets], packed[meets]
    entries = shuffled[(packed & np.uint64(0xFFFFFFFF)).astype(np.int64)]
    first = np.searchsorted(keys, keys, side="left")  # (entries,): where each entry's bucket begins
    positions = np.arange(keys.size)
    crowded = np.isin(first, first[positions - first > WINDOW])
    if crowded.any():
        entries[crowded] = _closest_first(entries[crowded], first[crowded], columns, band)
    rows = rows[entries].astype(np.uint64)
    # a far row of a large bucket meets its first row too, so that each bucket hangs together
    left, right = [first[positions - first > WINDOW]], [positions[positions - first > WINDOW]]
    for step in range(1, WINDOW + 1):
        same = np.flatnonzero(keys[step:] == keys[:-step])  # both in one bucket, `step` apart
        left.append(same)
        right.append(same + step)
    one_row, other_row = rows[np.concatenate(left)], rows[np.concatenate(right)]
    pairs = (np.minimum(one_row, other_row) << np.uint64(32)) | np.maximum(one_row, other_row)
    return distinct(pairs[one_row != other_row]), rows[crowded].astype(np.int64)


def _closest_first(entries: Rows, buckets: Rows, columns: Callable[[int], NDArray[np.uint32]], band: int) -> Rows:
    """Order the entries of each bucket so that those which meet in the next bands too stand side by side.

    A copy among hundreds of rows of one pattern would else hardly be compared with its original.

    Source: Bawa, Condie, Ganesan: LSH Forest, WWW 2005.
    """
    following = [columns(band + step)[entries].astype(np.int64) for step in range(FOREST_BANDS, 0, -1)]
    # lexsort sorts by its last key first: bucket, next band, the one after it ..
    return entries[np.lexsort(np.stack([*following, buckets]))]


class Edges(NamedTuple):
    """Pairs of rows that have something in common."""

    pairs: Pairs
    """(edges, 2) rows."""
    score: NDArray[np.float64]
    """Similarity that decided."""
    duplicate: NDArray[np.bool_]
    """Nothing that decides differs: one of them can go."""
    conflict: NDArray[np.bool_]
    """The same prompt, or nearly, and another answer."""
    alike: NDArray[np.bool_]
    """Nearly the same question and answer, no value or negation another one: learning one gives away the other."""
    slots: NDArray[np.bool_]
    """Rows of one pattern that differ in what stands in its slots."""

    @classmethod
    def of(cls, pairs: Pairs, score: NDArray[np.float64]) -> Edges:
        """Make pairs of which no more is known than how similar they are."""
        return cls(pairs, score, *(np.zeros(len(pairs), np.bool_) for _ in range(4)))

    def chosen(self, selection: NDArray[Any]) -> Edges:
        """Return some of the pairs: by number, or where `selection` is true."""
        return Edges(*(column[selection] for column in self))


def keep_best(edges: Edges, rank: Rows) -> dict[int, tuple[int, float]]:
    """Choose among duplicates: the best row stays, and each row that goes has a direct copy that stays.

    Args:
        edges: pairs; only duplicates count.
        rank: (rows,) place of each row when the best come first.

    Returns:
        Row that goes -> (row that stays, similarity).
    """
    copies: dict[int, tuple[int, float]] = {}
    for row, better_copies in _by_rank(edges, rank):
        # rows come best first, so whether a better copy stays is known by now; no chain a -> b -> c of copies
        staying = [(score, -int(rank[copy]), copy) for copy, score in better_copies if copy not in copies]
        if staying:
            score, _, copy = max(staying)
            copies[row] = (copy, score)
    return copies


def _by_rank(edges: Edges, rank: Rows) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """Yield each row that has a better copy, best rows first, with its better copies."""
    better: dict[int, list[tuple[int, float]]] = {}
    for (left, right), score in zip(edges.pairs[edges.duplicate].tolist(), edges.score[edges.duplicate], strict=True):
        worse, best = (right, left) if rank[left] < rank[right] else (left, right)
        better.setdefault(worse, []).append((best, float(score)))
    for row in sorted(better, key=lambda row: int(rank[row])):
        yield row, better[row]
