"""Rows written as they are answered, so that an interrupted batch goes on where it stopped.

While a batch runs, rows are appended in the order in which they end; a finished batch is put into the order of its
input, so that the bytes do not depend on interruptions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from trainer import exact_json
from trainer.rundir import disk_errors

PLACE = "input_line"
"""Key by which a written row names its row of the input."""

Row = dict[str, Any]


class Output:
    """A JSONL file that grows; what stands in it is not asked again.

    Args:
        path: The file. A last line that was cut off is taken away: its row is asked again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, tuple[int, int]] = {}
        """Line of the input -> (offset, size) of the row."""
        self.size = 0
        if path.is_file():
            self._read()

    def _read(self) -> None:
        with self.path.open("r+b") as file:
            for line in file:
                place = _place(line)
                if place is None:
                    break
                self.done[place] = (self.size, len(line))
                self.size += len(line)
            file.truncate(self.size)

    def write(self, place: int, row: Row) -> None:
        """Append a row; it is in the file when this returns.

        Raises:
            HardwareError: The disk is full or not writable.
        """
        line = exact_json.dumps({PLACE: place, **row}, option=orjson.OPT_APPEND_NEWLINE)
        with disk_errors(self.path), self.path.open("ab") as file:
            file.write(line)
        self.done[place] = (self.size, len(line))
        self.size += len(line)

    def finish(self) -> None:
        """Put the rows into the order of the input.

        Raises:
            HardwareError: The disk is full or not writable.
        """
        places = list(self.done)
        if places == sorted(places):
            return
        staged = self.path.with_name(f"{self.path.name}.sorted")
        with disk_errors(self.path), self.path.open("rb") as old, staged.open("wb") as new:
            for place in sorted(places):
                offset, size = self.done[place]
                old.seek(offset)
                new.write(old.read(size))
        staged.replace(self.path)


def _place(line: bytes) -> int | None:
    """Return which row of the input a line answers; None where it is damaged."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    place = value.get(PLACE) if isinstance(value, dict) else None
    return place if isinstance(place, int) and line.endswith(b"\n") else None
