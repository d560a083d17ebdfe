"""Write and find checkpoints that are whole or absent.

A checkpoint is written aside, its files hashed into `manifest.json`, synced and renamed to `step_000500`. Resuming
takes the newest one whose manifest verifies; damaged ones are reported and skipped.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.digests import hash_file
from trainer.errors import StageError
from trainer.model.durable import sync

MANIFEST = "manifest.json"
NAME = re.compile(r"^step_(\d{6,})$")


def step_name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step_{step:06d}"


def publish(staged: Path, target: Path) -> None:
    """Hash, sync and rename a staged checkpoint."""
    names = sorted(str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file())
    for name in names:
        (staged / name).chmod(0o644)
    files = {name: {"sha256": hash_file(staged / name), "bytes": (staged / name).stat().st_size} for name in names}
    (staged / MANIFEST).write_text(json.dumps({"files": files}, indent=2))
    for name in [*names, MANIFEST]:
        # before the rename: a file system may order the rename before the data it names
        sync(staged / name)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged.rename(target)
    sync(target.parent)


def damage(folder: Path) -> str | None:
    """Return the first fault of a checkpoint, or None."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return f"{MANIFEST} is missing or damaged"
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        # the size first: a file cut short is told without reading it
        if path.stat().st_size != facts["bytes"] or hash_file(path) != facts["sha256"]:
            return f"{name} is damaged"
    return None


def steps(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield (step, checkpoint), the newest first."""
    # sorted by number: names of seven digits come after those of six
    numbered = [(int(match[1]), path) for path in folder.glob("step_*") if (match := NAME.match(path.name))]
    yield from sorted(numbered, reverse=True)


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest whole checkpoint."""
    for _, path in steps(folder):
        fault = damage(path)
        if fault is None:
            return path
        say(f"train: {path.name} is passed over: {fault}")
    return None


def requested(folder: Path, name: str) -> Path:
    """Return the checkpoint of --resume-from.

    Raises:
        StageError: It is missing or damaged.
    """
    path = folder / name
    names = ", ".join(path.name for _, path in steps(folder)) or "none"
    if not path.is_dir():
        raise StageError(f"no checkpoint {name} in {folder}", hint=f"there are: {names}")
    fault = damage(path)
    if fault:
        raise StageError(f"{path}: {fault}", hint=f"choose another one of: {names}")
    return path


def rotate(folder: Path, *, keep: int, best: int | None) -> None:
    """Remove the oldest checkpoints beyond `keep`, never the best one."""
    for index, (step, path) in enumerate(steps(folder)):
        # the best one is loaded at the end (`load_best_model_at_end`)
        if index >= keep and step != best:
            shutil.rmtree(path)
