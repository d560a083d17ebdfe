"""Write rows as they are answered, so that an interrupted batch goes on where it stopped.

While a batch runs, rows are appended in the order in which they end; a finished batch is put into the order of its
input, so that the bytes do not depend on interruptions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from trainer import exact_json
from trainer.disk import disk_errors

INPUT_LINE = "input_line"
"""Key by which a written row names its row of the input."""

Row = dict[str, Any]


class Output:
    """A JSONL file that grows; what stands in it is not asked again.

    Args:
        path: The file. A last line that was cut off is taken away: its row is asked again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: dict[int, tuple[int, int]] = {}
        """Line of the input -> (offset, size) of the row."""
        self.size = 0
        if path.is_file():
            self._read()

    def _read(self) -> None:
        with self.path.open("r+b") as file:
            for text in file:
                line_number = _line_number_of(text)
                if line_number is None:
                    break
                self.written[line_number] = (self.size, len(text))
                self.size += len(text)
            file.truncate(self.size)

    def write(self, line_number: int, row: Row) -> None:
        """Append a row; it is in the file when this returns.

        Raises:
            HardwareError: The disk is full or not writable.
        """
        text = exact_json.dumps({INPUT_LINE: line_number, **row}, option=orjson.OPT_APPEND_NEWLINE)
        with disk_errors(self.path), self.path.open("ab") as file:
            file.write(text)
        self.written[line_number] = (self.size, len(text))
        self.size += len(text)

    def finish(self) -> None:
        """Put the rows into the order of the input.

        Raises:
            HardwareError: The disk is full or not writable.
        """
        line_numbers = list(self.written)
        if line_numbers == sorted(line_numbers):
            return
        staged = self.path.with_name(f"{self.path.name}.sorted")
        with disk_errors(self.path), self.path.open("rb") as old, staged.open("wb") as new:
            for line_number in sorted(line_numbers):
                offset, size = self.written[line_number]
                old.seek(offset)
                new.write(old.read(size))
        staged.replace(self.path)


def _line_number_of(text: bytes) -> int | None:
    """Return which row of the input a line answers; None where it is damaged."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    line_number = value.get(INPUT_LINE) if isinstance(value, dict) else None
    return line_number if isinstance(line_number, int) and text.endswith(b"\n") else None
