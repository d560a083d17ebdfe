"""Keep the run folder: stage records, fingerprints on content, atomic publish, lock.

`stage.json` is written last, so its presence means that the stage is complete. Short stages write into
`NAME.partial/`, which is renamed; training writes in place, because it resumes from its own checkpoints.
"""

from __future__ import annotations

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

import trainer
from trainer.digests import HashMemory, damage, damaged, hash_bytes, is_model_file
from trainer.disk import disk_errors, read_json, write_json
from trainer.errors import StageError
from trainer.lock import exclusive
from trainer.shapes.files import FileDigest

STAGE_JSON = "stage.json"
STARTED_JSON = "started.json"
# how a training process began and ended: no result, and rewritten after `stage.json`
PROCESS_FILES = (STARTED_JSON, "exit.json", "accelerate.json")


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
            is_output = is_output and not name.name.endswith(".tmp")  # of a process that was killed
            if path.is_file() and name.name != STAGE_JSON and is_output:
                record.outputs[str(name)] = {"sha256": self.hashes.file(path), "bytes": path.stat().st_size}

    def refuse_damaged_weights(self, record: StageRecord, arguments: str) -> None:
        """Compare the weights of a stage with what it noted of them.

        Args:
            record: Of the stage.
            arguments: The recipe, as a fix repeats it.

        Raises:
            StageError: A file is missing or is not the one that the stage wrote.
        """
        for name, written in record.outputs.items():
            path = self.stage_dir(record.stage) / name
            if is_model_file(name) and (fault := damage(path, written, self.hashes)):
                hint = f"bring the file back, or write it anew: trainer {record.stage} {arguments} --force"
                raise damaged(path, fault, hint)

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
