"""Keep the run folder: stage records, fingerprints on content, atomic publish, lock.

`stage.json` is written last, so its presence means that the stage is complete. Short stages write into
`NAME.partial/`, which is renamed; training writes in place, because it resumes from its own checkpoints.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

import trainer
from trainer import exact_json
from trainer.errors import HardwareError, StageError, TrainerError
from trainer.lock import exclusive
from trainer.shapes.files import FileDigest

STAGE_JSON = "stage.json"
STARTED_JSON = "started.json"
# how a training process began and ended: no result, and rewritten after `stage.json`
PROCESS_FILES = (STARTED_JSON, "exit.json", "accelerate.json")
_JSON_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE


def cache_dir() -> Path:
    """Return the folder for converted models and remembered hashes (`TRAINER_CACHE` moves it)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recipe-trainer"
    return Path(os.environ.get("TRAINER_CACHE") or default)


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the whole new one.

    Raises:
        HardwareError: The disk is full or not writable.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with staged.open("wb") as file:
            file.write(orjson.dumps(value, option=_JSON_OPTIONS, default=str))
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file of the run folder.

    Raises:
        StageError: The file is damaged.
    """
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise StageError(
            f"{path}:{error.lineno}: damaged: {error.msg}", hint=f"remove {path} and run the stage again"
        ) from error


def read_json_lines(path: Path) -> list[Any]:
    """Read a JSON Lines file of the run folder; a missing one has no lines."""
    return [exact_json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a message that says so.

    Raises:
        HardwareError: Writing below `path` failed for such a reason.
    """
    try:
        yield
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        where = path if path.exists() else next((parent for parent in path.parents if parent.exists()), path)
        free = shutil.disk_usage(where).free / 2**20
        raise HardwareError(
            f"{reason}: {getattr(error, 'filename', None) or path} ({free:.0f} MiB free)",
            hint="free some space, or choose another place with --run-dir DIR or TRAINER_RUNS=DIR; then run again",
        ) from error


_DISK_REASONS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "quota used up",
    errno.EROFS: "read-only file system",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EEXIST: "a file is in the way",
    errno.ENOTDIR: "a file is in the way",
}
# safetensors, shutil.copytree and torch.save raise kinds of their own; torch's names no cause
_FULL_DISK_TEXTS = ("No space left on device", "PytorchStreamWriter failed writing", "unexpected pos ")


def _disk_reason(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.errno is not None:
        return _DISK_REASONS.get(error.errno)
    is_full = not isinstance(error, TrainerError) and any(text in str(error) for text in _FULL_DISK_TEXTS)
    return _DISK_REASONS[errno.ENOSPC] if is_full else None


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
            self.entries = orjson.loads(self.path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            pass  # a memory: without it files are read again

    def file(self, path: Path) -> str:
        """Return the sha256 of a file, read again only where it seems to have changed."""
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        key = str(path.resolve())
        if key in self.entries and self.entries[key][:3] == mark:
            return str(self.entries[key][3])
        digest = hash_file(path)
        # a file touched within the clock's grain could change again unseen
        if time.time_ns() - stat.st_mtime_ns > 2_000_000_000:
            self.entries[key] = [*mark, digest]
            self._save()
        return digest

    def _save(self) -> None:
        try:
            write_json(self.path, self.entries)
        except (OSError, HardwareError):
            pass  # a memory: without it files are read again


@dataclass
class StageRecord:
    """What `stage.json` holds."""

    stage: str
    version: int
    fingerprint: str
    sections: dict[str, object]
    inputs: dict[str, str]
    outputs: dict[str, FileDigest] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0
    trainer_version: str = ""
    accepted: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Wall time of the stage in seconds."""
        return self.ended - self.started


class RunFolder:
    """One run: `runs/NAME`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hashes = HashMemory()

    def stage_dir(self, stage: str) -> Path:
        """Return the folder of a stage."""
        return self.path / stage

    def record(self, stage: str) -> StageRecord | None:
        """Return the record of a finished stage, or None.

        Raises:
            StageError: The record is damaged.
        """
        path = self.stage_dir(stage) / STAGE_JSON
        if not path.is_file():
            return None
        value = read_json(path)
        try:
            return StageRecord(**value)
        except TypeError as error:
            raise StageError(f"{path}: not a stage record", hint=f"trainer {stage} {self.path} --force") from error

    def write_record(self, record: StageRecord) -> None:
        """Complete a stage: hash its outputs and write `stage.json`."""
        folder = self.stage_dir(record.stage)
        self.hash_outputs(record, folder)
        write_json(folder / STAGE_JSON, record.__dict__)

    def hash_outputs(self, record: StageRecord, folder: Path) -> None:
        """Note size and sha256 of every file of a stage; checkpoints and logs of training stay out."""
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            is_output = name.parts[0] not in ("checkpoints", *PROCESS_FILES) and not name.name.startswith(".")
            if path.is_file() and name.name != STAGE_JSON and is_output:
                record.outputs[str(name)] = {"sha256": self.hashes.file(path), "bytes": path.stat().st_size}

    @contextmanager
    def staged(self, record: StageRecord) -> Iterator[Path]:
        """Yield a partial folder; on success it replaces the stage's folder, `stage.json` written last."""
        folder = self.stage_dir(record.stage)
        partial = folder.with_name(f"{folder.name}.partial")
        with disk_errors(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            self.hash_outputs(record, partial)
            record.ended = time.time()
            write_json(partial / STAGE_JSON, record.__dict__)
            if folder.exists():
                old = folder.with_name(f"{folder.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
                partial.rename(folder)
                shutil.rmtree(old)
            else:
                partial.rename(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder for this process.

        Raises:
            StageError: Another process holds it.
        """
        hint = "wait until it ends, or use another run folder: --set name=NEW"
        with ExitStack() as stack:
            with disk_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(exclusive(self.path / ".lock", subject=self.path, hint=hint))
            yield


@dataclass
class StageContext:
    """What a stage is given: where to write, where its inputs lie, and whom to tell."""

    run: RunFolder
    dir: Path
    numbers: dict[str, Any]
    say: Callable[[str], None]
    record: StageRecord
    accepted: frozenset[str] = frozenset()
    resume_from: str | None = None
    worker: bool = False

    def input(self, stage: str, name: str = "") -> Path:
        """Return the path of an input file made by another stage."""
        return self.run.stage_dir(stage) / name


def environment() -> dict[str, object]:
    """Return the facts about machine and packages that a result may depend on."""
    names = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "tokenizers", "safetensors")
    return {
        "recipe-trainer": trainer.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in names},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "code": hash_bytes(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
