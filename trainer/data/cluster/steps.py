"""Define the steps of a cluster job for datatrove's executors: local, Slurm, Ray (extra `cluster`)."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.slurm import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from trainer.data.cluster.launch import VARIABLE, ClusterSettings
from trainer.data.prepare import Rules, chunks, prepare
from trainer.data.read.sources import num_files, open_inputs, system_text
from trainer.data.workers import num_workers
from trainer.errors import BY_EXIT_CODE, StageError, TrainerError
from trainer.recipe.data import DataSection

Items = Iterator[tuple[int, Any]]
"""Number of the file that a chunk comes from, and the chunk or what became of it."""

# Its log of an exception shows the values of variables, and these may be personal data.
logger.disable("datatrove")

POLL_SECONDS = 5.0
MAX_UNSEEN = 6
"""Polls in a row that find tasks unfinished and no job in Slurm's queue, before the job counts as dead."""


@dataclass(frozen=True)
class Failed:
    """An error of a task, in place of a result.

    It travels as text: an exception with arguments of its own does not survive the way between processes.
    """

    exit_code: int
    """That of a `TrainerError`; 0 for a fault of the program."""
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failed:
        if isinstance(error, TrainerError):
            return cls(error.exit_code, error.message, error.hint)
        return cls(0, "".join(traceback.format_exception(error)))


class ReadSources(PipelineStep):
    """The chunks of a recipe's files that fall to a task.

    A task takes whole files where there are at least as many as tasks; else every n-th chunk of each file, and reads
    past the others.

    Args:
        data: the recipe's data section, as JSON.
    """

    name, type = "read", "READER"

    def __init__(self, data: str) -> None:
        super().__init__()
        self.data, self.folder = data, str(Path.cwd())

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Items:
        os.chdir(self.folder)
        file_number = 0
        try:
            section = DataSection.model_validate_json(self.data)
            # Made here and not sent: the key of the pseudonyms comes from the environment and is never written down.
            rules = Rules.of(section, system_text(section))
            takes_files = num_files(section) >= world_size
            inputs = open_inputs(section)
            while (file := next(inputs, None)) is not None:
                if not takes_files or file_number % world_size == rank:
                    for index, chunk in enumerate(chunks(file.rows, rules, file.origin)):
                        if takes_files or index % world_size == rank:
                            yield file_number, chunk
                file_number += 1
        except Exception as error:
            yield file_number, Failed.of(error)


class ReadChunks(PipelineStep):
    """The chunks that were put down for a task.

    Args:
        folder: holds a file of pickled chunks for each task, see `write_chunks`.
    """

    name, type = "read", "READER"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.chunks, self.folder = str(folder), str(Path.cwd())

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Items:
        os.chdir(self.folder)
        for chunk in read_pickles(_share(Path(self.chunks), 0, rank)):
            yield 0, chunk


class Apply(PipelineStep):
    """What one machine does to chunks, done to each chunk of a task."""

    name, type = "apply", "FORMATTER"

    def __init__(self, function: Callable[[Any], Any] = prepare) -> None:
        super().__init__()
        self.function = function

    def run(self, data: Items, rank: int = 0, world_size: int = 1) -> Items:
        os.environ.setdefault("RAYON_NUM_THREADS", "1")
        number = 0
        try:
            for number, chunk in data:
                self.stat_update("chunks")
                yield number, chunk if isinstance(chunk, Failed) else self.function(chunk)
        except Exception as error:
            yield number, Failed.of(error)


class Keep(PipelineStep):
    """Results put down for the process that began the work, see `Results`.

    Args:
        folder: on a disk that all machines share.
    """

    name, type = "keep", "WRITER"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = str(folder)

    def run(self, data: Items, rank: int = 0, world_size: int = 1) -> Items:
        folder, counts = Path(self.folder), Counter[int]()
        with ExitStack() as opened:
            current, file = -1, None
            for number, result in data:
                if number != current or file is None:
                    opened.close()
                    current, file = number, opened.enter_context(_share(folder, number, rank).open("wb"))
                pickle.dump(result, file, pickle.HIGHEST_PROTOCOL)
                counts[number] += 1
        _index(folder, rank).write_bytes(pickle.dumps(dict(counts)))
        yield from ()


class Results:
    """What the tasks of a job have put down: a file of pickles for each task and file of rows, and their counts.

    Files are opened by name: the listing of a folder on a shared disk may be seconds old, and rows would be missing.
    """

    def __init__(self, folder: Path, num_tasks: int) -> None:
        self.folder = folder
        self._counts: list[dict[int, int]] = [
            pickle.loads(_index(folder, rank).read_bytes()) for rank in range(num_tasks)
        ]

    def of(self, number: int) -> Iterator[Any]:
        """Yield the results of one file of rows in the order of its chunks, from the shares of all tasks in turn.

        Raises:
            TrainerError: that of the task that failed first.
            StageError: results are missing.
        """
        left = {rank: counts[number] for rank, counts in enumerate(self._counts) if number in counts}
        shares = {rank: read_pickles(_share(self.folder, number, rank)) for rank in left}
        while left:
            for rank in list(left):
                result = next(shares[rank], None)
                if isinstance(result, Failed):
                    raise _error(result)
                if result is None:
                    raise StageError(
                        f"{_share(self.folder, number, rank)}: {left[rank]} results are missing",
                        hint="run the command again; see whether the shared disk is full",
                    )
                yield result
                left[rank] -= 1
                if not left[rank]:
                    del left[rank]


def _share(folder: Path, number: int, rank: int) -> Path:
    return folder / f"{number:06d}-{rank:06d}.pickles"


def _index(folder: Path, rank: int) -> Path:
    return folder / f"counts-{rank:06d}.pickle"


def write_chunks(folder: Path, items: Iterator[Any], num_tasks: int) -> None:
    """Deal chunks out to tasks, one after the other."""
    with ExitStack() as opened:
        files: list[BinaryIO] = [opened.enter_context(_share(folder, 0, rank).open("wb")) for rank in range(num_tasks)]
        for index, item in enumerate(items):
            pickle.dump(item, files[index % num_tasks], pickle.HIGHEST_PROTOCOL)


def read_pickles(path: Path) -> Iterator[Any]:
    """Yield what was pickled into a file, one object after the other."""
    with path.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)


def _error(failed: Failed) -> Exception:
    if failed.exit_code == 0:
        return RuntimeError(f"a task of the cluster failed:\n{failed.message}")
    return BY_EXIT_CODE.get(failed.exit_code, TrainerError)(failed.message, hint=failed.hint)


# Running


def run_job(settings: ClusterSettings, steps: list[PipelineStep], folder: Path) -> None:
    """Run steps on all tasks and wait for the last one.

    Args:
        settings: which executor, how many tasks.
        steps: of each task.
        folder: for datatrove's logs, on a disk that all machines share.

    Raises:
        StageError: the executor refuses the settings, or a task ended without a result.
    """
    logs = {"logging_dir": str(folder.resolve())}
    try:
        executor = _executor(settings, steps, {**logs, **settings.options})
        executor.run()
    except (TypeError, ValueError, OSError, ImportError, subprocess.CalledProcessError) as error:
        raise StageError(
            f"datatrove's {settings.executor} executor: {error}", hint=f"see `options` in the file of {VARIABLE}"
        ) from error
    if settings.executor == "slurm":
        _wait(executor)
    if missing := executor.get_incomplete_ranks():
        raise StageError(
            f"{len(missing)} of {settings.tasks} tasks ended without a result, task {missing[0]} the first",
            hint=f"see the logs in {folder}; a task that the system ended wants more memory or time",
        )


def _executor(settings: ClusterSettings, steps: list[PipelineStep], options: dict[str, Any]) -> PipelineExecutor:
    match settings.executor:
        case "local":
            defaults = {"workers": min(settings.tasks, num_workers()), **options}
            return LocalPipelineExecutor(steps, tasks=settings.tasks, **defaults)
        case "slurm":
            # A node finds the same interpreter: the environment is on a disk that all machines share.
            activate = Path(sys.prefix) / "bin" / "activate"
            defaults = {"venv_path": str(activate)} if activate.is_file() else {}
            name = {"job_name": f"trainer-data-{uuid4().hex[:8]}"}
            return _SlurmExecutor(steps, tasks=settings.tasks, **{**name, **defaults, **options})
        case "ray":
            ray_executor = importlib.import_module("datatrove.executor.ray").RayPipelineExecutor
            executor: PipelineExecutor = ray_executor(steps, tasks=settings.tasks, **options)
            return executor


class _SlurmExecutor(SlurmPipelineExecutor):
    """Without the job that sums up statistics: where a task fails, it would wait in the queue for ever."""

    def launch_merge_stats(self) -> None:
        pass


def _wait(executor: PipelineExecutor) -> None:
    """Wait for the tasks of a Slurm job, until all are done or the job has left the queue."""
    unseen = 0
    while executor.get_incomplete_ranks() and unseen < MAX_UNSEEN:
        time.sleep(POLL_SECONDS)
        command = ["squeue", "--noheader", "--name", executor.job_name]
        queue = subprocess.run(command, capture_output=True, text=True, check=False)
        unseen = 0 if queue.returncode or queue.stdout.strip() else unseen + 1
