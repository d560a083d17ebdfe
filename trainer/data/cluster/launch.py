"""Spread the chunks of the data stage over the tasks of a cluster."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from trainer.data.prepare import prepare
from trainer.data.workers import Workers
from trainer.errors import HardwareError, StageError
from trainer.recipe.base import Section
from trainer.recipe.data import DataSection
from trainer.recipe.pii import Pii

In = TypeVar("In")
Out = TypeVar("Out")

VARIABLE = "TRAINER_CLUSTER"
FEW_CHUNKS = 32
"""So many chunks are done here: a job on a cluster waits in a queue and starts processes."""


class ClusterSettings(Section):
    """What the file of `TRAINER_CLUSTER` says: how the work is done, never what comes out."""

    executor: Literal["local", "slurm", "ray"] = "local"
    """Which of datatrove's executors."""
    tasks: int = Field(ge=1)
    """Parts that the work is cut into."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the executor: `workers`, of Slurm `partition` and `time`."""


def open_workers(data: DataSection, folder: Path) -> Workers:
    """Return the processes of this machine, or the cluster that `TRAINER_CLUSTER` names.

    Args:
        data: the recipe's data section.
        folder: of the stage, on a disk that all machines share.

    Raises:
        StageError: the file of `TRAINER_CLUSTER` is wrong, or pseudonyms have no key that all machines know.
        HardwareError: the extra `cluster` is not installed.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return Workers()
    settings = read_settings(Path(path))
    if not data.pii.key_env and "pseudonymise" in _actions(data.pii):
        raise StageError(
            "data.pii.action is pseudonymise, and each machine would make a key of its own",
            hint="name an environment variable with one key for all: data.pii.key_env",
        )
    return ClusterWorkers(settings, data, folder / "cluster.partial")


def read_settings(path: Path) -> ClusterSettings:
    """Read the file of `TRAINER_CLUSTER`.

    Raises:
        StageError: it cannot be read, or says what no executor knows.
    """
    try:
        return ClusterSettings.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        problem = str(error)
    raise StageError(f"{VARIABLE}: {path}: {problem}", hint="a file such as {executor: local, tasks: 2}")


def _actions(section: Pii) -> set[str]:
    return {section.action, section.secrets, *section.types.values()}


class ClusterWorkers(Workers):
    """Tasks of a cluster, and the processes of this machine where there is little to do.

    Tasks read the rows of the recipe themselves, and put down what they made of them; this machine puts all results
    together, in the order in which one machine alone would have made them.

    Args:
        settings: which executor, how many tasks.
        data: the recipe's data section.
        folder: for what passes between the machines; removed in the end.

    Raises:
        HardwareError: the extra `cluster` is not installed.
    """

    def __init__(self, settings: ClusterSettings, data: DataSection, folder: Path) -> None:
        super().__init__()
        self.settings, self.data, self.folder = settings, data, folder
        try:
            # By name: datatrove comes with an extra.
            self._steps = importlib.import_module("trainer.data.cluster.steps")
        except ImportError as error:
            raise HardwareError(
                f"{VARIABLE} is set, and a package is not installed: {error.name}",
                hint=f"pip install 'recipe-trainer[cluster]', or unset {VARIABLE}",
            ) from error
        self._jobs, self._files = count(), count()
        self._prepared: Any = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        for rows in self.folder.glob("job-*/[cr]*"):  # chunks, results
            shutil.rmtree(rows, ignore_errors=True)
        if kind is None or not issubclass(kind, StageError):  # whose message names the logs
            shutil.rmtree(self.folder, ignore_errors=True)

    def map(self, function: Callable[[In], Out], chunks: Iterable[In]) -> Iterator[Out]:
        """Yield `function(chunk)` for each chunk, in order; rows of the recipe's files are not read here.

        Raises:
            StageError: a task ended without a result.
            TrainerError: that of a task.
        """
        if cast(object, function) is prepare:
            # The files come one after the other, here as in the tasks.
            return cast(Iterator[Out], self._prepare_all().of(next(self._files)))
        return self._spread(function, iter(chunks))

    def _prepare_all(self) -> Any:
        if self._prepared is None:
            steps = self._steps
            self._prepared = self._run(lambda job: [steps.ReadSources(self.data.model_dump_json())], prepare)
        return self._prepared

    def _spread(self, function: Callable[[In], Out], chunks: Iterator[In]) -> Iterator[Out]:
        first = list(islice(chunks, FEW_CHUNKS))
        if len(first) < FEW_CHUNKS:
            yield from super().map(function, first)
            return

        def deal(job: Path) -> list[Any]:
            chunks_dir = job / "chunks"
            chunks_dir.mkdir()
            self._steps.write_chunks(chunks_dir, chain(first, chunks), self.settings.tasks)
            return [self._steps.ReadChunks(chunks_dir)]

        results = self._run(deal, function)
        yield from results.of(0)
        shutil.rmtree(results.folder.parent)

    def _run(self, begin: Callable[[Path], list[Any]], function: Callable[[Any], Any]) -> Any:
        """Run a job and return its `Results`; `begin` gives the steps that read its chunks."""
        job = self.folder / f"job-{next(self._jobs)}"
        results = job / "results"
        results.mkdir(parents=True)
        steps = [*begin(job), self._steps.Apply(function), self._steps.Keep(results)]
        os.sync()  # other machines see only what has left this one
        self._steps.run_job(self.settings, steps, job / "logs")
        return self._steps.Results(results, self.settings.tasks)
