"""Find the files that a path of the recipe stands for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import DataError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_TABLE_SUFFIXES = (".csv", ".tsv")
TABLE_SUFFIXES = (*TEXT_TABLE_SUFFIXES, ".parquet", ".arrow", ".feather")
DOCUMENT_SUFFIXES = (".txt", ".md")
PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
ROW_SUFFIXES = (*JSON_SUFFIXES, *TABLE_SUFFIXES)
KNOWN_SUFFIXES = (*ROW_SUFFIXES, *DOCUMENT_SUFFIXES)
BINARY_SUFFIXES = (".parquet", ".arrow", ".feather")
HINT = (
    f"use one of {', '.join(KNOWN_SUFFIXES)}; {', '.join(PACKED_SUFFIXES)} may follow "
    f"(not after {', '.join(BINARY_SUFFIXES)})"
)
_PANDAS = (
    "python -c \"import pandas; pandas.{}.to_json('rows.jsonl', orient='records', lines=True, force_ascii=False)\""
)
CONVERSIONS = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods"), _PANDAS.format("read_excel('{name}', dtype=str)")),
    **dict.fromkeys(
        (".sqlite", ".sqlite3", ".db"),
        "sqlite3 -csv -header {name} 'select * from TABLE' > rows.csv, with the table's name",
    ),
    **dict.fromkeys((".pkl", ".pickle"), _PANDAS.format("read_pickle('{name}')")),
    **dict.fromkeys((".orc",), _PANDAS.format("read_orc('{name}')")),
    **dict.fromkeys((".yaml", ".yml"), "write the rows as JSON lines: one object on each line"),
    **dict.fromkeys((".xml",), _PANDAS.format("read_xml('{name}', dtype=str)")),
    **dict.fromkeys((".zip",), "unzip {name}, and name the file inside"),
    **dict.fromkeys((".tar", ".tgz"), "tar xf {name}, and name the file inside"),
    **dict.fromkeys((".pdf",), "pdftotext {name} document.txt"),
    **dict.fromkeys(
        (".docx", ".doc", ".rtf", ".odt", ".html", ".htm", ".epub"), "pandoc {name} -t plain -o document.txt"
    ),
}
"""Suffix of a file that holds rows or text and is not read -> how to convert it."""
SAVED_MARKS = ("dataset_dict.json", "state.json")
"""A folder written by `Dataset.save_to_disk` holds one of these."""
DESCRIPTIONS = frozenset({*SAVED_MARKS, "dataset_info.json", "dataset_infos.json"})
"""Files about rows, which lie beside them in folders of the hub."""
NOT_DOCUMENTS = frozenset({"readme", "license", "licence", "changelog", "notice", "copying", "contributing"})
"""Names of texts about a folder, which are none of its documents."""
WILDCARDS = "*?["


def kind_of_file(path: Path) -> str:
    """Return the suffix that tells how a file is read, without `.gz` and the like; empty where it is none we know."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_packed = bool(suffixes) and suffixes[-1] in PACKED_SUFFIXES
    suffix = "".join(suffixes[:-1][-1:] if is_packed else suffixes[-1:])
    return suffix if suffix in KNOWN_SUFFIXES and not (is_packed and suffix in BINARY_SUFFIXES) else ""


def is_pattern(path: str) -> bool:
    """Whether a path stands for the files that it matches."""
    return any(character in path for character in WILDCARDS)


def is_saved_dataset(path: Path) -> bool:
    """Tell a folder written by `save_to_disk` from a folder of row files."""
    return path.is_dir() and any((path / mark).is_file() for mark in SAVED_MARKS)


def unknown_kind(path: Path) -> DataError:
    """Return the error about a file of a kind that is not read, with a command that converts it."""
    conversion = CONVERSIONS.get(path.suffix.lower())
    hint = conversion.replace("{name}", path.name) if conversion else HINT
    return DataError(f"{path}: unknown kind of file {''.join(path.suffixes)!r}", hint=hint)


def find_files(path: Path) -> list[Path]:
    """Return the row files that a path stands for, in order of name.

    A file stands for itself, a pattern (`*`, `?`, `**`) for what it matches, a folder for all row files inside. Its
    `.txt` and `.md` files are documents where it holds no row files: else they are about the rows.

    Raises:
        DataError: there is nothing at the path, or a folder without row files.
    """
    if path.exists():
        return _inside(path) if path.is_dir() else [path]
    if not is_pattern(str(path)):
        raise DataError(f"{path}: no such file", hint="correct the path in the recipe's data section")
    matched = sorted(_matches(path))
    files = [file for file in matched if file.is_file() and kind_of_file(file)]
    if not files:
        problem = f"{len(matched)} matches, none of them a row file" if matched else "no file matches"
        raise DataError(
            f"{path}: {problem}", hint=HINT if matched else "correct the pattern in the recipe's data section"
        )
    return files


def _matches(pattern: Path) -> Iterator[Path]:
    fixed = next(parent for parent in pattern.parents if not is_pattern(str(parent)))
    return fixed.glob(str(pattern.relative_to(fixed)))


def passed_over(path: Path) -> list[Path]:
    """Return the files inside a folder that could hold rows or documents and are not read."""
    if not path.is_dir() or is_saved_dataset(path):
        return []
    read = set(find_files(path))
    could = [file for file in _walk(path) if kind_of_file(file) or file.suffix.lower() in CONVERSIONS]
    return sorted(file for file in could if file not in read and not _is_about(file))


def _inside(folder: Path) -> list[Path]:
    files = [file for file in _walk(folder) if kind_of_file(file) and file.name not in DESCRIPTIONS]
    rows = [file for file in files if kind_of_file(file) in ROW_SUFFIXES]
    chosen = rows or [file for file in files if not _is_about(file)]
    if not chosen:
        raise DataError(f"{folder}: no row files in this folder", hint=_convert_first(folder))
    return sorted(chosen, key=lambda file: file.relative_to(folder).as_posix())


def _walk(folder: Path) -> list[Path]:
    """Return the files of a folder that are not hidden; links to folders may lead round in circles."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _is_about(file: Path) -> bool:
    return file.name in DESCRIPTIONS or file.name.split(".")[0].lower() in NOT_DOCUMENTS


def _convert_first(folder: Path) -> str:
    files = sorted(file for file in _walk(folder) if file.suffix.lower() in CONVERSIONS)
    return unknown_kind(files[0]).hint if files else HINT
