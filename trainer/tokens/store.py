"""Read and write token files: flat arrays with offsets, in safetensors, memory-mapped.

    input_ids  int32  all tokens of all rows, one after another
    loss_mask  uint8  1 where the token is trained
    offsets    int64  segment i is input_ids[offsets[i]:offsets[i + 1]]
    row_index  int32  line (from 0) of each row in its JSONL file; a line occurs again for each further text of its row

A supervised row has one segment; a preference row has three: prompt, chosen, rejected.

    two supervised rows of 3 and 2 tokens      input_ids  a a a b b      offsets  0 3 5
    one preference row                         input_ids  p p c c c r    offsets  0 2 5 6
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Literal, assert_never, get_args

import numpy as np

from trainer.tokens.arrays import ArraySpool, Ints, damaged, map_arrays, write_arrays
from trainer.tokens.encode import Piece

ARRAYS = {"input_ids", "loss_mask", "offsets", "row_index"}
TOKENS_AT_ONCE = 1 << 20
StoredShape = Literal["single", "pair"]
"""Shapes of `trainer.recipe.method.RowShape` that a token file can hold."""


def segments_of(shape: StoredShape) -> int:
    """Return the segments of a row."""
    match shape:
        case "single":
            return 1
        case "pair":
            return 3
        case _:
            assert_never(shape)


SEGMENTS = {str(segments_of(shape)) for shape in get_args(StoredShape)}


@dataclass(frozen=True)
class TokenStore:
    """The rows of one split, as tokens."""

    input_ids: Ints
    loss_mask: Ints
    offsets: Ints
    row_index: Ints
    segments: int
    """Segments a row: 1, or 3 for preference rows."""
    path: Path | None = None
    """File of which the arrays are views; None: arrays in memory."""
    ways: Mapping[str, int] = field(default_factory=dict)
    """How answers are written (`trainer.tokens.turns.Way`) -> number of answers."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row_index)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as the path, so that another process maps the same pages."""
        if self.path is not None:
            return TokenStore.load, (self.path,)
        return TokenStore, (self.input_ids, self.loss_mask, self.offsets, self.row_index, self.segments)

    def num_lines(self) -> int:
        """Return the number of rows of the file; a row may have several texts here."""
        return len(np.unique(self.row_index))

    @property
    def shape(self) -> StoredShape:
        """Return the shape of the rows."""
        return next(shape for shape in get_args(StoredShape) if segments_of(shape) == self.segments)

    def lengths(self) -> Ints:
        """Return the number of tokens of each row, shape (rows,)."""
        return np.diff(self.offsets[:: self.segments])  # every 1st or 3rd offset begins a row

    def sequence_lengths(self) -> Ints:
        """Return the tokens of the longest sequence of each row, (rows,): of a pair, prompt and longer answer."""
        parts = np.diff(self.offsets).reshape(-1, self.segments)
        # (rows, segments): prompt + max(chosen, rejected); a single row has no second segment, and adds 0
        longest: Ints = parts[:, 0] + parts[:, 1:].max(axis=1, initial=0)
        return longest

    def prompt_lengths(self) -> Ints:
        """Return the tokens of each pair's prompt, shape (rows,); 0 for supervised rows."""
        return np.diff(self.offsets).reshape(-1, self.segments)[:, 0] * (self.segments > 1)

    def num_trained(self) -> Ints:
        """Return the number of trained tokens of each row, shape (rows,)."""
        counts = np.zeros(len(self), dtype=np.int64)
        for rows, bounds, mask in self._masks():
            # prefix sums: trained tokens before each token
            total = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
            counts[rows] = np.diff(total[bounds])
        return counts

    def last_trained(self) -> Ints:
        """Return the last trained token of each row, of a pair that of the chosen answer; shape (rows,)."""
        match self.shape:
            case "single":
                return self._last_of_masks()
            case "pair":
                return self.input_ids[self.offsets[2::3] - 1]  # end of each chosen segment: 2, 5, 8 of [p c r p c r ..]
            case _:
                assert_never(self.shape)

    def _last_of_masks(self) -> Ints:
        positions = np.zeros(len(self), dtype=np.int64)
        for rows, bounds, mask in self._masks():
            trained = np.flatnonzero(mask)
            positions[rows] = self.offsets[rows.start] + trained[np.searchsorted(trained, bounds[1:]) - 1]
        return self.input_ids[positions]

    def ends(self) -> set[int]:
        """Return the tokens that end trained answers: of rows each run of trained tokens, of pairs each answer."""
        if self.segments > 1:
            return set(np.unique(self.input_ids[self.offsets[1:] - 1]).tolist())
        ends: set[int] = set()
        for rows, bounds, mask in self._masks():
            is_last = mask > np.append(mask[1:], 0)
            is_last[bounds[1:] - 1] = mask[bounds[1:] - 1]  # of a row that another row follows
            ends.update(np.unique(self.input_ids[self.offsets[rows.start] :][: len(mask)][is_last]).tolist())
        return ends

    def _masks(self) -> Iterator[tuple[slice, Ints, Ints]]:
        """Yield chunks of rows: a slice of the rows, their bounds in the mask, and the mask."""
        bounds = self.offsets[:: self.segments]
        first = 0
        while first < len(self):
            # rows that end within the next million tokens, and at least one
            last = int(np.searchsorted(bounds, bounds[first] + TOKENS_AT_ONCE, side="right")) - 1
            rows = slice(first, max(first + 1, last))
            inside = bounds[rows.start : rows.stop + 1]
            yield rows, inside - inside[0], self.loss_mask[inside[0] : inside[-1]]
            first = rows.stop

    def row(self, index: int) -> Piece:
        """Return ids and mask of a supervised row."""
        low, high = self.offsets[index], self.offsets[index + 1]
        return self.input_ids[low:high], self.loss_mask[low:high]

    def pair(self, index: int) -> tuple[Ints, Ints, Ints]:
        """Return prompt, chosen and rejected ids of a preference row."""
        prompt, chosen, rejected = (ids for ids, _ in self.pieces(index))
        return prompt, chosen, rejected

    def pieces(self, index: int) -> list[Piece]:
        """Return ids and mask of each segment of a row."""
        bounds = self.offsets[self.segments * index : self.segments * (index + 1) + 1]
        return [(self.input_ids[low:high], self.loss_mask[low:high]) for low, high in pairwise(bounds)]

    @classmethod
    def load(cls, path: Path) -> TokenStore:
        """Map a file; pages are read when they are used.

        Raises:
            StageError: It is damaged.
        """
        arrays, metadata = map_arrays(path)
        if arrays.keys() != ARRAYS or metadata.get("segments") not in SEGMENTS:
            raise damaged(path, "it is no token file")
        ways = json.loads(metadata.get("ways", "{}"))
        store = cls(**arrays, segments=int(metadata["segments"]), path=path.absolute(), ways=ways)
        num_tokens = (len(store.input_ids), len(store.loss_mask), *store.offsets[-1:].tolist())
        if len(store.offsets) != store.segments * len(store) + 1 or len(set(num_tokens)) != 1:
            raise damaged(path, "its arrays do not fit each other")
        return store


class TokenWriter:
    """Write a token file row by row; the tokens are collected on disk, not in memory.

    For use in a `with` block, which writes the file if it ends without an error.
    """

    def __init__(self, path: Path, *, segments: int) -> None:
        self.path = path
        self.segments = segments
        self.input_ids = ArraySpool(path.parent, np.dtype(np.int32))
        self.loss_mask = ArraySpool(path.parent, np.dtype(np.uint8))
        self.lengths: list[Ints] = []
        self.lines: list[Ints] = []
        self.ways: Counter[str] = Counter()

    def add(self, lines: Sequence[int], pieces: Sequence[Piece]) -> None:
        """Add rows: their lines, and their segments one after another."""
        assert len(pieces) == self.segments * len(lines)
        if not pieces:
            return
        self.input_ids.append(np.concatenate([ids for ids, _ in pieces]))
        self.loss_mask.append(np.concatenate([mask for _, mask in pieces]))
        self.lengths.append(np.array([len(ids) for ids, _ in pieces], dtype=np.int64))
        self.lines.append(np.array(lines, dtype=np.int32))

    def __enter__(self) -> TokenWriter:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Write the file, unless there was an error."""
        with self.input_ids.file, self.loss_mask.file:
            if kind is None:
                metadata = {"segments": str(self.segments), "ways": json.dumps(self.ways)}
                write_arrays(self.path, self._arrays(), metadata)

    def _arrays(self) -> dict[str, Ints | ArraySpool]:
        lengths = np.concatenate([np.zeros(1, dtype=np.int64), *self.lengths])
        return {
            "input_ids": self.input_ids,
            "loss_mask": self.loss_mask,
            "offsets": np.cumsum(lengths, dtype=np.int64),
            "row_index": np.concatenate([np.empty(0, dtype=np.int32), *self.lines]),
        }
