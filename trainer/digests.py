"""Compute and remember the sha256 of files, and refuse weights that are not the ones that were written."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path, PurePath
from typing import TypeGuard

import orjson

from trainer.disk import cache_dir, write_json
from trainer.errors import HardwareError, StageError
from trainer.shapes.files import FileDigest

MODEL_FILES = (".safetensors", ".gguf")
CONFIGS = ("config.json", "adapter_config.json")
LISTS = ("provenance.json", "manifest.json")
"""Lists of files inside the folder that they describe: of an exported format, and of a checkpoint."""
GRAIN_NS = 2_000_000_000


def hash_bytes(data: bytes) -> str:
    """Return the sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def hash_value(value: object) -> str:
    """Return the sha256 of a JSON value, independent of the order of keys.

    Example:
        >>> hash_value({"a": 1, "b": 2}) == hash_value({"b": 2, "a": 1})
        True
    """
    return hash_bytes(orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str))


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashMemory:
    """sha256 of files, remembered by size, modification time and inode, so that weights are read once."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_dir() / "hashes.json"
        self.entries: dict[str, list[int | str]] = {}
        try:
            entries = orjson.loads(self.path.read_bytes())
            self.entries = entries if isinstance(entries, dict) else {}
        except (OSError, orjson.JSONDecodeError):
            pass  # a memory: without it files are read again

    def file(self, path: Path) -> str:
        """Return the sha256 of a file, read again only where it seems to have changed."""
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        key = str(path.resolve())
        entry = self.entries.get(key)
        if isinstance(entry, list) and entry[:3] == mark:
            return str(entry[3])
        digest = hash_file(path)
        # a file touched within the clock's grain could change again unseen
        if time.time_ns() - stat.st_mtime_ns > GRAIN_NS:
            self.entries[key] = [*mark, digest]
            self._save()
        return digest

    def _save(self) -> None:
        try:
            write_json(self.path, self.entries)
        except (OSError, HardwareError):
            pass  # a memory: without it files are read again


def write_list(folder: Path) -> None:
    """Write `manifest.json` over the files of a folder."""
    files = {
        path.name: {"sha256": hash_file(path), "bytes": path.stat().st_size}
        for path in folder.iterdir()
        if path.is_file()
    }
    write_json(folder / "manifest.json", {"files": files})


def is_whole(folder: Path) -> bool:
    """Tell whether a folder has a list of its files, and they are the ones that were written."""
    try:
        refuse_damage(folder)
    except StageError:
        return False
    return bool(written_files(folder))


def is_model_file(name: str) -> bool:
    """Tell whether a file decides what a model computes: weights, and the settings that they are read with."""
    return name.endswith(MODEL_FILES) or name.rpartition("/")[2] in CONFIGS


def damage(path: Path, written: FileDigest, hashes: HashMemory) -> str | None:
    """Return how a file differs from what was noted when it was written; None where it does not."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != written["bytes"]:
        return f"has {size} bytes, {written['bytes']} were written"
    return None if hashes.file(path) == written["sha256"] else "has other content than was written"


def refuse_damage(folder: Path, hashes: HashMemory | None = None, *, hint: str | None = None) -> None:
    """Compare the weights in a folder with the list of files that was written with them, where there is one.

    Args:
        folder: An adapter, a model, an exported format or a checkpoint.
        hashes: Digests that are remembered.
        hint: What to do about it; by default the stage that wrote the folder is named.

    Raises:
        StageError: A file is missing or is not the one that was written.
    """
    hashes = hashes or HashMemory()
    for name, written in sorted(written_files(folder).items()):
        if is_model_file(name) and (fault := damage(folder / name, written, hashes)):
            stage = folder.parent.name if folder.parent.name in ("train", "export") else "export"
            raise damaged(
                folder / name, fault, hint or f"bring the file back, or write it anew: trainer {stage} RECIPE --force"
            )


def damaged(path: Path, fault: str, hint: str) -> StageError:
    """Return the error for weights that are not the ones that were written."""
    return StageError(f"{path} {fault}: damaged weights are not used, and weights are never edited by hand", hint=hint)


def written_files(folder: Path) -> dict[str, FileDigest]:
    """Return what was noted of the files of a folder, by their name below it; nothing where there is no list."""
    for name in LISTS:
        if files := _listed(folder / name, "files"):
            return files
    prefix = f"{folder.name}/"
    outputs = _listed(folder.parent / "stage.json", "outputs")
    return {name.removeprefix(prefix): written for name, written in outputs.items() if name.startswith(prefix)}


def _listed(path: Path, key: str) -> dict[str, FileDigest]:
    try:
        values = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    files = values.get(key) if isinstance(values, dict) else None
    return files if lists_files(files) else {}


def lists_files(files: object) -> TypeGuard[dict[str, FileDigest]]:
    """Tell a well-formed list of files, all of them below the folder."""
    return isinstance(files, dict) and all(
        isinstance(file, dict)
        and isinstance(file.get("bytes"), int)
        and isinstance(file.get("sha256"), str)
        and not (PurePath(name).is_absolute() or ".." in PurePath(name).parts)
        for name, file in files.items()
    )
