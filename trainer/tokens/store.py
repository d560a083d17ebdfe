"""Token files: flat arrays with offsets, in safetensors, which can be memory-mapped.

    input_ids  int32  all tokens of all rows, one after another
    loss_mask  uint8  1 where the token is trained
    offsets    int64  segment i is input_ids[offsets[i]:offsets[i + 1]]
    row_index  int32  line (from 0) of each row in its JSONL file

A supervised row is one segment; a preference row is three: prompt, chosen, rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from trainer.errors import StageError
from trainer.tokens.chat import PairTokens, Tokens

Ints = np.ndarray[tuple[int], np.dtype[np.integer]]


@dataclass(frozen=True)
class TokenStore:
    """The rows of one split, as tokens."""

    input_ids: Ints
    loss_mask: Ints
    offsets: Ints
    row_index: Ints
    segments: int
    """Segments a row: 1, or 3 for preference rows."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row_index)

    @property
    def is_pairs(self) -> bool:
        """Tell preference rows from supervised ones."""
        return self.segments == 3

    def lengths(self) -> Ints:
        """Return the number of tokens of each row, shape (rows,)."""
        return np.diff(self.offsets[:: self.segments])

    def num_trained(self) -> Ints:
        """Return the number of trained tokens of each row, shape (rows,)."""
        total = np.concatenate([[0], np.cumsum(self.loss_mask, dtype=np.int64)])
        return np.diff(total[self.offsets[:: self.segments]])

    def row(self, index: int) -> tuple[Ints, Ints]:
        """Return ids and mask of a supervised row."""
        low, high = self.offsets[index], self.offsets[index + 1]
        return self.input_ids[low:high], self.loss_mask[low:high]

    def pair(self, index: int) -> tuple[Ints, Ints, Ints]:
        """Return prompt, chosen and rejected ids of a preference row."""
        bounds = self.offsets[3 * index : 3 * index + 4]
        prompt, chosen, rejected = (self.input_ids[low:high] for low, high in pairwise(bounds))
        return prompt, chosen, rejected

    def save(self, path: Path) -> None:
        """Write the file."""
        arrays = {
            "input_ids": self.input_ids,
            "loss_mask": self.loss_mask,
            "offsets": self.offsets,
            "row_index": self.row_index,
        }
        save_file(
            {name: np.ascontiguousarray(value) for name, value in arrays.items()},
            path,
            {"segments": str(self.segments)},
        )
        path.chmod(0o644)  # safetensors writes 0600, unreadable for another user of the same run

    @classmethod
    def load(cls, path: Path) -> TokenStore:
        """Open a file.

        Raises:
            StageError: It is damaged.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                segments = int(file.metadata()["segments"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        except (SafetensorError, OSError) as error:
            raise StageError(f"{path} is damaged: {error}", hint="trainer pack RECIPE --force") from error
        return cls(**arrays, segments=segments)


def from_tokens(rows: Sequence[tuple[int, Tokens]]) -> TokenStore:
    """Build a store from (line, tokens) of supervised rows."""
    return _build([line for line, _ in rows], [(t.ids, t.mask) for _, t in rows], segments=1)


def from_pairs(rows: Sequence[tuple[int, PairTokens]]) -> TokenStore:
    """Build a store from (line, tokens) of preference rows."""
    pieces = [piece for _, pair in rows for piece in _pair_pieces(pair)]
    return _build([line for line, _ in rows], pieces, segments=3)


def _pair_pieces(pair: PairTokens) -> Iterator[tuple[list[int], list[int]]]:
    yield pair.prompt, [0] * len(pair.prompt)
    yield pair.chosen, [1] * len(pair.chosen)
    yield pair.rejected, [1] * len(pair.rejected)


def _build(lines: list[int], pieces: list[tuple[list[int], list[int]]], *, segments: int) -> TokenStore:
    lengths = [len(ids) for ids, _ in pieces]
    return TokenStore(
        input_ids=np.array([token for ids, _ in pieces for token in ids], dtype=np.int32),
        loss_mask=np.array([flag for _, mask in pieces for flag in mask], dtype=np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        row_index=np.array(lines, dtype=np.int32),
        segments=segments,
    )
