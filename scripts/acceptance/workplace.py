"""Run the real command line in a temporary folder with a cache of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

PART_TIMEOUT_S = 525  # a part stays under nine minutes
CASE_TIMEOUT_S = 400
INHERITED = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "TRAINER_RUNS", "TRAINER_LAUNCHED")


class CommandError(Exception):
    """A command ended otherwise than expected."""


class Workplace:
    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        self.size = size
        self.on_cuda = torch.cuda.is_available()
        self.deadline = time.monotonic() + PART_TIMEOUT_S
        self.environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
        self.environment |= {"TRAINER_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
        self.environment["OMP_NUM_THREADS"] = "1" if size == "tiny" else "8"

    def write_recipe(self, stem: str, **sections: Any) -> Path:
        path = self.folder / f"{stem}.yaml"
        with path.open("w", encoding="utf-8") as file:
            values = {"recipe_version": 1, "name": stem, "launch": {"num_processes": 1}} | sections
            YAML(typ="safe", pure=True).dump(values, file)
        return path

    def trainer(self, verb: str, recipe: Path, run: Path, **how: Any) -> None:
        self.execute("-m", "trainer", verb, str(recipe), "--run-dir", str(run), **how)

    def execute(self, *arguments: str, expected: int = 0, stop_when: Callable[[], bool] = bool) -> None:
        """Run Python to its end; send SIGTERM once `stop_when` holds.

        Raises:
            CommandError: It ended with another code, or took too long.
        """
        log_path, is_stopped = self.folder / "command.log", False
        deadline = min(self.deadline, time.monotonic() + CASE_TIMEOUT_S)
        with log_path.open("w") as log:
            child = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        while child.poll() is None and time.monotonic() < deadline:
            if not is_stopped and stop_when():
                child.send_signal(signal.SIGTERM)
                is_stopped = True
            time.sleep(0.01)
        is_late = child.poll() is None
        if is_late:
            _end(child)
        if is_late or child.returncode != expected:
            how = "took too long" if is_late else f"ended with code {child.returncode}, expected {expected}"
            raise CommandError(f"{' '.join(arguments)} {how}: {log_path.read_text(errors='replace')[-1500:]}")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask first: a launcher takes its training processes along, which the kernel ends with it otherwise."""
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
