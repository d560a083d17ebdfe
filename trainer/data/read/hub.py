"""Read rows of a Hugging Face data set: a folder of `save_to_disk`, or an id of the hub.

The only module that knows `datasets`, which takes a second to import and is not needed for files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data.read.parquet_rows import BATCH_ROWS, rows_of_batches
from trainer.data.read.raw_row import RawRow
from trainer.errors import DataError, HardwareError

COMMIT = re.compile(r"^hf://datasets/[^@]+@([0-9a-f]{40})/")
HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


def read_hub(name: str, *, subset: str | None, split: str | None, revision: str | None) -> Iterator[RawRow]:
    """Read the rows of a data set of the hub, from the cache where it is there.

    Raises:
        DataError: there is no such data set, subset or split, or none was chosen among several.
        HardwareError: the hub cannot be reached.
    """
    if not HUB_ID.fullmatch(name):
        raise DataError(f"hub:{name}: not an id of the hub", hint="write it as hub:OWNER/NAME")
    import datasets  # noqa: PLC0415 - heavy

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(name, subset, revision=revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"hub:{name}: {_first_line(error)}", hint="correct the id; a private one: hf auth login"
        ) from error
    except OSError as error:
        raise HardwareError(
            f"hub:{name}: the hub cannot be reached: {_first_line(error)}",
            hint=f"hf download --repo-type dataset {name} --local-dir DIR where there is a network, then path: DIR",
        ) from error
    except Exception as error:  # a data set may fail in the ways of every file format
        raise DataError(f"hub:{name}: {_first_line(error)}", hint="see data.sources[].subset and revision") from error
    _commits[name] = commit_of(loaded)
    return _rows(f"hub:{name}", loaded, split)


_commits: dict[str, str] = {}


def resolved_commit(name: str) -> str:
    """Return the commit at which this process has read a data set of the hub, "" where it is not known."""
    return _commits.get(name, "")


def commit_of(loaded: Any) -> str:
    """Return the commit in the addresses that `datasets` has downloaded, "" where it says none."""
    for part in loaded.values() if isinstance(loaded, dict) else [loaded]:
        info = getattr(part, "info", None)
        for address in getattr(info, "download_checksums", None) or {}:
            if match := COMMIT.match(address):
                return match[1]
    return ""


def read_saved(path: Path, *, split: str | None) -> Iterator[RawRow]:
    """Read the rows of a folder written by `save_to_disk`.

    Raises:
        DataError: it is damaged, or has no such split.
    """
    import datasets  # noqa: PLC0415 - heavy

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # damaged in the ways of JSON and Arrow
        raise DataError(f"{path}: not a readable data set: {_first_line(error)}", hint="save it again") from error
    return _rows(str(path), loaded, split)


def _rows(address: str, loaded: Any, split: str | None) -> Iterator[RawRow]:
    chosen = _choose_split(address, loaded, split) if isinstance(loaded, dict) else loaded
    yield from rows_of_batches(
        batch for table in chosen.with_format("arrow").iter(batch_size=BATCH_ROWS) for batch in table.to_batches()
    )


def _choose_split(address: str, loaded: dict[str, Any], split: str | None) -> Any:
    names = ", ".join(loaded)
    if split is None and len(loaded) > 1:
        raise DataError(f"{address}: several splits: {names}", hint="choose one with data.sources[].split")
    if split is not None and split not in loaded:
        raise DataError(f"{address}: no split {split!r}", hint=f"data.sources[].split is one of: {names}")
    return loaded[split] if split else next(iter(loaded.values()))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
