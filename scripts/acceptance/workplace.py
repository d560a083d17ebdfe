"""A temporary folder in which the real command line runs, and what the runs leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

PART_TIMEOUT_S = 525  # a part stays under nine minutes
LAUNCHERS_OWN = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "TRAINER_RUNS", "TRAINER_LAUNCHED")


class CommandError(Exception):
    """A command ended otherwise than expected."""


class Workplace:
    """Recipes, runs and a cache of their own."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        self.size = size
        self.together = 2 if size == "tiny" else 1  # figures are of a card that does nothing else
        self.on_cuda = torch.cuda.is_available()
        self.deadline = time.monotonic() + PART_TIMEOUT_S
        self.environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS_OWN}
        self.environment |= {"TRAINER_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
        self.environment.setdefault("OMP_NUM_THREADS", "1" if size == "tiny" else "8")
        os.environ["TRAINER_CACHE"] = str(folder / "cache")

    def write_recipe(self, stem: str, **sections: Any) -> Path:
        path = self.folder / f"{stem}.yaml"
        values = {"recipe_version": 1, "name": stem, "launch": {"num_processes": 1}} | sections
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(values, file)
        return path

    def trainer(self, verb: str, recipe: Path, run: Path, *, timeout_s: float) -> None:
        command = [sys.executable, "-m", "trainer", verb, str(recipe), "--run-dir", str(run)]
        self.execute(command, timeout_s=timeout_s)

    def execute(
        self,
        command: list[str],
        *,
        timeout_s: float,
        expected: int = 0,
        stop_when: Callable[[], bool] | None = None,
    ) -> None:
        """Run a command to its end; send SIGTERM once `stop_when` holds.

        Raises:
            CommandError: It ended with another code, or took too long.
        """
        log_path = self.folder / f"command-{time.monotonic_ns()}.log"
        deadline = min(self.deadline, time.monotonic() + timeout_s)
        with log_path.open("w") as log, self._started(command, log) as child:
            while child.poll() is None:
                if stop_when is not None and stop_when():
                    child.send_signal(signal.SIGTERM)
                    stop_when = None
                if time.monotonic() > deadline:
                    raise CommandError(f"no end after {timeout_s:.0f} s, or no time left: {_tail(log_path)}")
                time.sleep(0.01)
        if child.returncode != expected:
            raise CommandError(f"exit code {child.returncode}, expected {expected}: {_tail(log_path)}")

    @contextmanager
    def _started(self, command: list[str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command in its own process group; on leaving, nothing of it stays."""
        child = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield child
        finally:
            if child.poll() is None:
                child.terminate()  # the launcher takes its training process along
                try:
                    child.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-1500:]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def steps_of(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl that hold a training loss."""
    lines = [json.loads(line) for line in (run / "train" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]
