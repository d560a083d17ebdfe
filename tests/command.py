"""Run the command line in tests: in this process, or in one of its own with a time limit."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from trainer.cli import main
from trainer.export.prover import prove

TIMEOUT_S = 300


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Project:
    """A recipe and the folder of its runs."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def run(self) -> Path:
        return self.runs / "tiny"

    def copied_to(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Project(folder)

    def call(self, verb: str, *options: str, recipe: Path | None = None, worker: bool = False) -> Result:
        """Run a verb in this process; `worker`: as accelerate starts it, without the start of three processes."""
        with self.environment(worker=worker):
            return call(verb, str(recipe or self.recipe), *options)

    @contextlib.contextmanager
    def environment(self, *, worker: bool = False) -> Iterator[None]:
        variables = {"TRAINER_RUNS": str(self.runs)} | ({"ACCELERATE_MIXED_PRECISION": "no"} if worker else {})
        with (
            mock.patch.dict(os.environ, variables),
            mock.patch("trainer.stages.train.die_with_parent"),
            mock.patch("trainer.export.run.prove_apart", prove),  # as in a fresh process, without its start
        ):
            yield

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `trainer ARGUMENTS`, or with a module name first (`-m` is put before it) another program."""
        command = [sys.executable, "-m", *(("trainer", *arguments) if arguments[0] != "-m" else arguments[1:])]
        environment = os.environ | {"TRAINER_RUNS": str(self.runs), "CUDA_VISIBLE_DEVICES": ""} | variables
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def spawn(self, *arguments: str, **variables: str) -> Result:
        """Run `trainer ARGUMENTS` in a process of its own, to its end."""
        return finish(self.start(*arguments, **variables))


def call(*arguments: str) -> Result:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with mock.patch.dict(os.environ), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(arguments))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Result(code, out.getvalue(), err.getvalue())


def finish(process: subprocess.Popen[str]) -> Result:
    """Wait for the end; kill a process that does not end, with all its descendants."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        out, err = process.communicate(timeout=10)
        raise AssertionError(f"{process.args} did not end in {TIMEOUT_S} s\n{out}\n{err}") from None
    return Result(process.returncode, out, err)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds while a process runs.

    Raises:
        AssertionError: The process ended first, or the time ran out.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            kill_tree(process.pid)
            raise AssertionError(f"waited in vain\n{finish(process).text}")
        time.sleep(0.01)


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    pids = [pid]
    for member in pids:  # grows while it is read
        pids += children.get(member, [])
    return pids


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants; freeze them first, so that none is missed."""
    for step in (signal.SIGSTOP, signal.SIGKILL):
        for member in tree(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, step)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended or only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, without the locks."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
