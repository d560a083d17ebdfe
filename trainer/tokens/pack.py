"""Which rows share a sequence: best-fit-decreasing, every row whole and once.

    capacity 8, lengths [5, 3, 4, 4, 6]   ->   [[6], [5, 3], [4, 4]]

Longest rows first, each into the fullest pack that still takes it.
Source: https://arxiv.org/abs/2404.10830 (best-fit packing, no truncation).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from trainer.tokens.store import Ints


@dataclass(frozen=True)
class PackPlan:
    """Rows of each training item: pack i holds rows[offsets[i]:offsets[i + 1]]."""

    rows: Ints
    offsets: Ints

    def __len__(self) -> int:
        """Return the number of packs."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> list[int]:
        """Return the rows of one pack."""
        return [int(row) for row in self.rows[self.offsets[index] : self.offsets[index + 1]]]

    def save(self, path: Path) -> None:
        """Write the file."""
        save_file({"rows": self.rows, "offsets": self.offsets}, path)
        path.chmod(0o644)

    @classmethod
    def load(cls, path: Path) -> PackPlan:
        """Read the file."""
        return cls(**load_file(path))


def plan(packs: list[list[int]]) -> PackPlan:
    """Build a plan from lists of rows."""
    return PackPlan(
        rows=np.array([row for pack in packs for row in pack], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(pack) for pack in packs])]).astype(np.int64),
    )


def one_by_one(rows: list[int]) -> PackPlan:
    """Return the plan in which every row is its own item."""
    return plan([[row] for row in rows])


def pack_rows(rows: list[int], lengths: Ints, *, capacity: int) -> PackPlan:
    """Plan packs of at most `capacity` tokens.

    Args:
        rows: Row numbers; one that occurs twice is packed twice.
        lengths: Tokens of every row of the store.
        capacity: Tokens of a pack; no row is longer.
    """
    order = sorted(range(len(rows)), key=lambda index: (-int(lengths[rows[index]]), index))
    packs: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set while some pack has room for exactly r more tokens
    for index in order:
        length = int(lengths[rows[index]])
        assert length <= capacity, "rows over the capacity are dropped or cut before"
        fitting = rooms >> length
        room = capacity
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            pack = len(packs)
            packs.append([])
        packs[pack].append(rows[index])
        by_room[room - length].append(pack)
        rooms |= 1 << (room - length)
    return plan(packs)
