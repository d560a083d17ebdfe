"""Name the row on which our own code fails."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.data.records.reasons import RowError
from trainer.errors import RowBugError, TrainerError


@contextmanager
def naming(source: str, line: int) -> Iterator[None]:
    """Turn an unexpected exception into one that names the row; its text, which may quote the row, is not shown.

    Raises:
        RowBugError: anything but the errors that are meant, and the machine's own.
    """
    try:
        yield
    except (RowError, TrainerError, OSError, MemoryError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} in {last.name}, line {last.lineno}"
        raise RowBugError(f"{source}:{line}: this is a bug of recipe-trainer: {where}") from error
