"""Store finished rows on disk, and read them by number: all rows are never in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from trainer import exact_json
from trainer.data.records.kinds import Record


class RowFile:
    """A file of lines that is appended to, and then read by row number; 8 bytes a row stay in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w+b")
        self._sizes: list[NDArray[np.int64]] = []
        self._offsets = np.zeros(1, np.int64)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def append(self, lines: bytes, sizes: NDArray[np.int64]) -> None:
        """Add lines, given one after the other, with the bytes of each."""
        self._file.write(lines)
        self._sizes.append(sizes)

    def close_writing(self) -> None:
        """Make all lines readable, by other processes too."""
        self._file.flush()
        sizes = np.concatenate(self._sizes) if self._sizes else np.zeros(0, np.int64)
        self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self._sizes.clear()

    def __len__(self) -> int:
        return self._offsets.size - 1

    def spans(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (rows, 2): where each line begins and ends, for `read_spans`."""
        chosen = np.asarray(rows, np.int64)
        return np.stack([self._offsets[chosen], self._offsets[chosen + 1]], axis=1)

    def lines(self, rows: Sequence[int] | NDArray[np.int64]) -> Iterator[bytes]:
        """Yield lines, with their line ends."""
        return read_spans(self.path, self.spans(rows))

    def row(self, row: int) -> Record:
        """Return one row."""
        (line,) = self.lines([row])
        record: Record = exact_json.loads(line)
        return record


def read_spans(path: Path, spans: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield parts of a file in the order asked for."""
    with path.open("rb") as file:
        position = 0
        for begin, end in spans.tolist():
            if begin != position:
                file.seek(begin)
            yield file.read(end - begin)
            position = end
