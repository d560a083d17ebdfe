"""Which files a path of the recipe stands for."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.errors import DataError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PACKED_SUFFIXES = (".gz", ".zst")
KNOWN = (*JSON_SUFFIXES, ".csv", ".parquet")
HINT = f"use one of {', '.join(KNOWN)}; {' and '.join(PACKED_SUFFIXES)} may follow (not .parquet)"
SAVED_MARKS = ("dataset_dict.json", "state.json")
"""A folder written by `Dataset.save_to_disk` holds one of these."""
DESCRIPTIONS = frozenset({*SAVED_MARKS, "dataset_info.json", "dataset_infos.json"})
"""Files about rows, which lie beside them in folders of the hub."""


def kind_of_file(path: Path) -> str:
    """Return the suffix that tells how a file is read, without `.gz` or `.zst`; empty where it is none we know."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_packed = bool(suffixes) and suffixes[-1] in PACKED_SUFFIXES
    suffix = "".join(suffixes[:-1][-1:] if is_packed else suffixes[-1:])
    return suffix if suffix in KNOWN and not (is_packed and suffix == ".parquet") else ""


def is_saved_dataset(path: Path) -> bool:
    """Tell a folder written by `save_to_disk` from a folder of row files."""
    return path.is_dir() and any((path / mark).is_file() for mark in SAVED_MARKS)


def find_files(path: Path) -> list[Path]:
    """Return the row files that a path stands for: the file, or all known ones inside a folder, in order of name.

    Raises:
        DataError: there is nothing at the path, or a folder without row files.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file", hint="correct the path in the recipe's data section")
    if not path.is_dir():
        return [path]
    # os.walk does not follow links to folders, which may lead round in circles.
    found = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    files = [file for file in found if _is_row_file(file.relative_to(path))]
    if not files:
        raise DataError(f"{path}: no row files in this folder", hint=HINT)
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def _is_row_file(inside: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in inside.parts)
    return not is_hidden and inside.name not in DESCRIPTIONS and kind_of_file(inside) != ""
