"""Rows of a source, one at a time, with the place each stands at.

The suffix is only a hint: whether a file is a JSON array or JSON lines, packed or not, is told from its first bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.data.files import HINT, find_files, is_saved_dataset, kind_of_file
from trainer.data.hub import read_hub, read_saved
from trainer.data.lines import BUFFER_BYTES, open_unpacked
from trainer.data.raw import RawRow
from trainer.data.read_csv import read_csv
from trainer.data.read_json import read_json
from trainer.data.read_parquet import read_parquet
from trainer.errors import DataError
from trainer.recipe.data import HUB_PREFIX, Source


def open_source(source: Source) -> Iterator[tuple[str, Iterator[RawRow]]]:
    """Yield the name and the rows of each file of a source; the next file is opened when it is asked for.

    A data set of the hub is one file named `hub:OWNER/NAME`, a folder written by `save_to_disk` one by its path.

    Raises:
        DataError: the path, the subset or the split is wrong, or a file cannot be read.
        HardwareError: the hub cannot be reached.
    """
    if source.path.startswith(HUB_PREFIX):
        name = source.path.removeprefix(HUB_PREFIX)
        yield source.path, read_hub(name, subset=source.subset, split=source.split, revision=source.revision)
        return
    path = Path(source.path)
    if is_saved_dataset(path):
        yield source.path, read_saved(path, split=source.split)
        return
    if source.split is not None:
        raise DataError(f"{path}: split {source.split!r}: files have no splits", hint="remove data.sources[].split")
    for file in find_files(path):
        yield str(file), read_rows(file)


def read_rows(path: Path) -> Iterator[RawRow]:
    """Read the rows of one file, without holding the file in memory.

    Raises:
        DataError: the file is missing, empty, of an unknown kind, not UTF-8, or broken as a whole.
    """
    _check_file(path)
    match kind_of_file(path):
        case ".parquet":
            return read_parquet(path)
        case ".csv":
            return read_csv(path)
        case "":
            raise DataError(f"{path}: unknown kind of file {''.join(path.suffixes)!r}", hint=HINT)
        case _:
            return read_json(path)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file", hint="correct the path in the recipe's data section")
    if not path.is_file():
        raise DataError(f"{path}: not a file", hint=HINT)
    if kind_of_file(path) == ".parquet":
        return
    with open_unpacked(path) as stream:
        while part := stream.read1(BUFFER_BYTES):
            if part.strip():
                return
    raise DataError(f"{path}: the file is empty", hint="give a file with at least one row")
