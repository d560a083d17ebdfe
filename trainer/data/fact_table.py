"""Keep facts of all rows as numpy columns, so that the rows themselves stay on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.minhash import Index
from trainer.data.prepare import COLUMNS, Prepared
from trainer.data.records.kinds import Side
from trainer.data.split import Prompts

Rows = NDArray[np.int64]


@dataclass
class FactTable:
    """Facts of all finished rows, in the order in which they were read; about 400 bytes a row with near duplicates."""

    labels: list[str] = field(default_factory=list)
    """Names of the files."""
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    """See `prepare.COLUMNS`; besides `side` and `file` (number in `labels`)."""
    prompts: Prompts = field(default_factory=lambda: Prompts(np.zeros(0, np.uint64), np.zeros(0, np.int64)))
    index: Index = field(default_factory=Index)
    chunk_sizes: list[int] = field(default_factory=list)
    """Rows of each chunk, in order."""
    _parts: list[Prepared] = field(default_factory=list)
    _origins: list[tuple[int, int]] = field(default_factory=list)
    _num_rows: int = 0

    def __len__(self) -> int:
        return self._num_rows

    def add(self, prepared: Prepared, label: str, side: Side) -> None:
        """Add the rows of a chunk; its lines are left behind."""
        if not self.labels or self.labels[-1] != label:
            self.labels.append(label)
        if prepared.bands is not None:
            self.index.add(prepared.bands, self._num_rows)
        num_rows = len(prepared.columns["line"])
        self._parts.append(Prepared(0, columns=prepared.columns, prompts=prepared.prompts))
        self._origins.append((side, len(self.labels) - 1))
        self.chunk_sizes.append(num_rows)
        self._num_rows += num_rows

    def finish(self) -> None:
        """Make the columns of all rows."""
        for name, kind in COLUMNS.items():
            self.columns[name] = np.concatenate([np.zeros(0, kind), *(part.columns[name] for part in self._parts)])
        origins = np.array(self._origins, np.int64).reshape(-1, 2)
        self.columns["side"], self.columns["file"] = np.repeat(origins, self.chunk_sizes, axis=0).T
        flat = np.concatenate([np.zeros(0, np.uint64), *(part.prompts for part in self._parts)])
        self.prompts = Prompts(flat, self.columns["num_prompts"])
        self._parts.clear()

    def rows(self, side: Side) -> Rows:
        """Return the rows of a side, in order."""
        return np.flatnonzero(self.columns["side"] == side)

    def mask(self, rows: Rows) -> NDArray[np.bool_]:
        """Return (all rows,): true for `rows`."""
        chosen = np.zeros(len(self), np.bool_)
        chosen[rows] = True
        return chosen

    def source_and_line(self, row: int) -> tuple[str, int]:
        """Return the file and the line of a row."""
        return self.labels[int(self.columns["file"][row])], int(self.columns["line"][row])

    def ref(self, row: int) -> str:
        """Return `source:line` of a row."""
        source, line = self.source_and_line(row)
        return f"{source}:{line}"
