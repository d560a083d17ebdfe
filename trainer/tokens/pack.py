"""Pack rows into sequences by best-fit-decreasing over all rows; no row is split or repeated.

    capacity 8, lengths [5, 3, 4, 4, 6]   ->   [[6], [5, 3], [4, 4]]

Longest rows first, each into the fullest pack with enough room. Rows of equal length are placed together: after the
first one, the same pack is the fullest with enough room, so it takes as many as fit; packs of equal room are filled in
one operation. The result equals that of row after row; the time grows with the number of lengths, not of rows.

Source: https://arxiv.org/abs/2404.10830 (best-fit packing, no truncation).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from trainer.tokens.arrays import Ints, damaged, map_arrays, write_arrays


@dataclass(frozen=True)
class PackPlan:
    """Rows of each training item: pack i holds rows[offsets[i]:offsets[i + 1]]; int32 and int64."""

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
        write_arrays(path, {"rows": self.rows, "offsets": self.offsets}, {})

    @classmethod
    def load(cls, path: Path) -> PackPlan:
        """Open the file.

        Raises:
            StageError: It is damaged.
        """
        arrays, _ = map_arrays(path)
        if arrays.keys() != {"rows", "offsets"} or arrays["offsets"][-1:].tolist() != [len(arrays["rows"])]:
            raise damaged(path, "it is no plan of packs")
        return cls(**arrays)


def one_by_one(rows: Sequence[int] | Ints) -> PackPlan:
    """Return the plan in which every row is its own item."""
    return PackPlan(np.asarray(rows, dtype=np.int32), np.arange(len(rows) + 1, dtype=np.int64))


def pack_rows(rows: Sequence[int] | Ints, lengths: Ints, *, capacity: int) -> PackPlan:
    """Plan packs of at most `capacity` tokens.

    Args:
        rows: Row numbers; one that occurs twice is packed twice.
        lengths: Tokens of every row of the store, at least one each.
        capacity: Tokens of a pack; no row is longer.

    Example:
        >>> plan = pack_rows(range(5), np.array([5, 3, 4, 4, 6]), capacity=8)
        >>> [plan[index] for index in range(len(plan))]
        [[4], [0, 1], [2, 3]]
    """
    numbers = np.asarray(rows, dtype=np.int32)
    sizes = np.asarray(lengths)[numbers]
    assert not len(sizes) or 0 < sizes.min() <= sizes.max() <= capacity, "rows over the capacity are dropped or cut"
    order = np.argsort(-sizes, kind="stable")  # stable: equal lengths keep the order of the rows
    packs = _best_fit_decreasing(sizes[order], capacity)
    rows_of_pack = np.bincount(packs)
    return PackPlan(
        # rows by falling length, then grouped by pack
        rows=numbers[order[np.argsort(packs, kind="stable")]],
        offsets=np.concatenate([[0], np.cumsum(rows_of_pack)]).astype(np.int64),
    )


@dataclass
class _OpenPacks:
    """Packs by their room: the tokens that they can still take."""

    rooms: list[int] = field(default_factory=list)
    packs: dict[int, list[Ints]] = field(default_factory=dict)

    def take_tightest(self, size: int) -> tuple[int, Ints] | None:
        """Remove and return the smallest room of at least `size`, and all packs with that room."""
        index = bisect_left(self.rooms, size)
        if index == len(self.rooms):
            return None
        room = self.rooms.pop(index)
        groups = self.packs.pop(room)
        return room, groups[0] if len(groups) == 1 else np.concatenate(groups)

    def put(self, room: int, packs: Ints) -> None:
        """Add packs, unless they are full."""
        if room == 0 or not len(packs):
            return
        if room in self.packs:
            self.packs[room].append(packs)
        else:
            insort(self.rooms, room)
            self.packs[room] = [packs]


def _best_fit_decreasing(sizes: Ints, capacity: int) -> Ints:
    """Return the pack of each row, for sizes in falling order."""
    result = np.empty(len(sizes), dtype=np.int32)
    # sizes 6 5 4 4 3: a run of each length begins at 0 1 2 4, the last ends at 5
    bounds = np.flatnonzero(np.diff(sizes, prepend=-1, append=-1)).tolist()
    open_packs = _OpenPacks()
    num_packs = 0
    for first, last in pairwise(bounds):
        size = int(sizes[first])
        while first < last:
            tightest = open_packs.take_tightest(size)
            if tightest is None:
                num_new = -(-(last - first) // (capacity // size))  # ceil(rows / rows that fit in an empty pack)
                tightest = capacity, np.arange(num_packs, num_packs + num_new, dtype=np.int32)
                num_packs += num_new
            room, packs = tightest
            per_pack = room // size  # rows of this length that one such pack takes
            num_used = min(len(packs), -(-(last - first) // per_pack))  # packs that get any of the remaining rows
            count = min(last - first, num_used * per_pack)
            result[first : first + count] = np.repeat(packs[:num_used], per_pack)[:count]
            in_last = count - (num_used - 1) * per_pack  # the last used pack may take fewer rows
            open_packs.put(room - per_pack * size, packs[: num_used - 1])
            open_packs.put(room - in_last * size, packs[num_used - 1 : num_used])
            open_packs.put(room, packs[num_used:])
            first += count
    return result
