"""Write and read files so that a failure leaves nothing half made, and tell a full disk or memory as what it is."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from trainer import exact_json
from trainer.errors import HardwareError, StageError, TrainerError

_JSON_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
STALE_S = 3600
"""Age of a staged file that no process can still be writing."""
FULL_BYTES = 64 << 20
"""Free space of a disk that a failed write of unknown name is laid to."""


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
        try:
            with staged.open("wb") as file:
                file.write(orjson.dumps(value, option=_JSON_OPTIONS, default=str))
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
        _sweep(path)


def _sweep(path: Path) -> None:
    """Remove what killed processes left of this file."""
    for staged in path.parent.glob(f"{path.name}.*.tmp"):
        with suppress(OSError):  # another process may do the same
            if time.time() - staged.stat().st_mtime > STALE_S:
                staged.unlink()


def read_json(path: Path) -> Any:
    """Read a JSON file of the run folder.

    Raises:
        StageError: The file is missing or damaged.
    """
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise StageError(
            f"{path}:{error.lineno}: damaged: {error.msg}", hint=f"remove {path} and run the stage again"
        ) from error


def read_json_lines(path: Path) -> list[Any]:
    """Read a JSON Lines file of the run folder; a missing one has no lines.

    Raises:
        StageError: A line is damaged.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(exact_json.loads(line))
        except ValueError as error:
            raise StageError(
                f"{path}:{number}: damaged: {error}",
                hint=f"run the stage again: trainer {path.parent.name} RECIPE --force",
            ) from error
    return values


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a message that says so.

    Raises:
        HardwareError: Writing below `path` failed for such a reason.
    """
    try:
        yield
    except Exception as error:
        if failure := disk_failure(error, path):
            raise failure from error
        raise


_DISK_REASONS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "quota used up",
    errno.EROFS: "read-only file system",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EEXIST: "a file is in the way",
    errno.ENOTDIR: "a file is in the way",
}
# safetensors, shutil.copytree and torch.save raise kinds of their own; torch's name no cause
_FULL_DISK_TEXTS = (
    "No space left on device",
    "PytorchStreamWriter failed writing",
    "unexpected pos ",
    "basic_ios::clear: iostream error",
)
_MEMORY_TEXTS = ("DefaultCPUAllocator", "Cannot allocate memory", "std::bad_alloc", "MemoryError")


def disk_failure(error: Exception, path: Path) -> HardwareError | None:
    """Return what a failed write is told as; None where the disk is not the cause.

    Args:
        error: What was raised.
        path: What was being written, for errors that name no file.
    """
    reason = _disk_reason(error)
    if reason is None:
        return None
    name = getattr(error, "filename", None)
    file = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else _full_folder(path)
    free = shutil.disk_usage(_existing(file)).free / 2**20
    return HardwareError(
        f"{reason}: {file} ({free:.0f} MiB free)", hint=f"free some space, or {_elsewhere(file)}; then run again"
    )


def _full_folder(path: Path) -> Path:
    """Return which of the folders written to lies on a full disk: some libraries do not say what they were writing."""
    folders = (path, cache_dir(), Path(tempfile.gettempdir()))
    full = [folder for folder in folders if shutil.disk_usage(_existing(folder)).free < FULL_BYTES]
    return full[0] if full else path


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else next(parent for parent in path.parents if parent.exists())


def _elsewhere(file: Path) -> str:
    absolute = file.absolute()
    if absolute.is_relative_to(cache_dir().absolute()):
        return "choose another place for converted models with TRAINER_CACHE=DIR"
    if absolute.is_relative_to(tempfile.gettempdir()) and "runs" not in absolute.parts:
        return "choose other places: --run-dir DIR or TRAINER_RUNS=DIR for the run, TMPDIR=DIR for temporary files"
    return "choose another place with --run-dir DIR or TRAINER_RUNS=DIR"


def _disk_reason(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.errno is not None:
        return _DISK_REASONS.get(error.errno)
    is_full = not isinstance(error, TrainerError) and any(text in str(error) for text in _FULL_DISK_TEXTS)
    return _DISK_REASONS[errno.ENOSPC] if is_full else None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or the one that it comes from, is a failed allocation of main memory.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("no"))
        (True, False)
    """
    if error is None or isinstance(error, TrainerError):
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # torch raises RuntimeError, safetensors its own kind
    return any(text in str(error) for text in _MEMORY_TEXTS) or is_out_of_memory(error.__cause__)


def memory_failure(error: BaseException) -> HardwareError | None:
    """Return what a failed allocation of main memory is told as; None for other errors."""
    if not is_out_of_memory(error):
        return None
    detail = (str(error).strip().splitlines() or ["MemoryError"])[-1]
    return HardwareError(
        f"out of main memory: {detail}",
        hint="a smaller train.micro_batch_size, eval.batch_size or model; end other programs; or a higher memory limit",
    )
