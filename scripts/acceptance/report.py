"""What was found: one JSON file a part, and a table."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("transformers", "peft", "trl", "accelerate", "bitsandbytes")


@dataclass(frozen=True)
class Limit:
    """A figure with the bound that it must keep."""

    value: float
    at_most: float | None = None
    at_least: float | None = None
    above: float | None = None

    def holds(self) -> bool:
        """Tell whether the bound is kept; NaN keeps none."""
        return (
            (self.at_most is None or self.value <= self.at_most)
            and (self.at_least is None or self.value >= self.at_least)
            and (self.above is None or self.value > self.above)
            and self.value == self.value
        )

    def bound(self) -> str:
        """Return the bound as text."""
        signs = {"<=": self.at_most, ">=": self.at_least, ">": self.above}
        return " ".join(f"{sign} {value:g}" for sign, value in signs.items() if value is not None)


class Report:
    """Collects cases; a case that raises is recorded and the next one goes on."""

    def __init__(self, part: str, size: str, folder: Path) -> None:
        self.started = time.monotonic()
        self.facts = {"part": part, "size": size} | machine()
        self.lock = Lock()
        self.found: list[dict[str, Any]] = []
        card = "".join(letter if letter.isalnum() else "-" for letter in self.facts["card"].lower())
        self.path = folder / (f"gpu-{part}-{card}.json" if self.facts["device"] == "cuda" else f"cpu-{part}.json")

    def case(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Run one case; `work` returns figures, those of type Limit decide."""
        started = time.monotonic()
        print(f"-- {name}", flush=True)
        case: dict[str, Any] = {"name": name, "passed": False, "figures": {}, "limits": {}}
        try:
            figures = work()
        except Exception as error:  # whatever it is, it belongs into the report
            case["error"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        else:
            limits = {key: value for key, value in figures.items() if isinstance(value, Limit)}
            case["figures"] = {key: getattr(value, "value", value) for key, value in figures.items()}
            case["limits"] = {key: limit.bound() for key, limit in limits.items()}
            case["failed"] = [key for key, limit in limits.items() if not limit.holds()]
            case["passed"] = not case["failed"]
        case["seconds"] = round(time.monotonic() - started, 2)
        with self.lock:
            self.found.append(case)
            self.write()

    def cases(self, cases: list[tuple[str, Callable[[], dict[str, Any]]]], together: int) -> None:
        """Run cases, several at the same time."""
        with ThreadPoolExecutor(together) as pool:
            list(pool.map(lambda case: self.case(*case), cases))

    def passed(self) -> bool:
        return bool(self.found) and all(case["passed"] for case in self.found)

    def write(self) -> None:
        """Write what is known so far, so that a run that is cut off leaves its figures."""
        seconds = round(time.monotonic() - self.started, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        facts = self.facts | {"seconds": seconds, "cases": self.found, "passed": self.passed()}
        self.path.write_text(json.dumps(facts, indent=2) + "\n")

    def close(self) -> int:
        """Print the table and return the exit code."""
        console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
        table = Table(title=f"{self.facts['part']} on {self.facts['card']} ({self.facts['size']})", show_lines=True)
        for column in ("case", "result", "s", "figures"):
            table.add_column(column, overflow="fold")
        for case in self.found:
            result = "passed" if case["passed"] else "FAILED"
            text = case.get("error") or "\n".join(_lines(case))
            table.add_row(case["name"], result, f"{case['seconds']:.0f}", text)
        console.print(table)
        console.print(f"{'passed' if self.passed() else 'FAILED'}: {self.path}", soft_wrap=True, markup=False)
        return 0 if self.passed() else 1


def _lines(case: dict[str, Any]) -> list[str]:
    shown = {key: value for key, value in case["figures"].items() if not isinstance(value, list)}
    texts = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in shown.items()}
    return [f"{key} {text}  {case['limits'].get(key, '')}".rstrip() for key, text in texts.items()]


def machine() -> dict[str, Any]:
    """Return the card, the driver and the versions that the figures belong to."""
    facts: dict[str, Any] = {"device": "cpu", "card": "cpu", "driver": None, "compute_capability": None}
    if torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        facts = {"device": "cuda", "card": torch.cuda.get_device_name(), "compute_capability": capability}
        facts["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        facts["driver"] = (_output(*query) or "").partition("\n")[0] or None
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda}
    commit = _output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40")
    return facts | {"versions": versions | {name: _version(name) for name in PACKAGES}, "commit": commit}


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
