"""Write the results: one JSON file a part, and a table."""

import json
import operator
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

SIGNS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}
PACKAGES = ("transformers", "peft", "trl", "accelerate", "bitsandbytes")


class Limit(NamedTuple):
    """A figure that decides; NaN keeps no limit."""

    value: float
    sign: str
    bound: float


class Report:
    """Collects cases; one that raises is recorded and the next one goes on."""

    def __init__(self, part: str, size: str, folder: Path) -> None:
        self.started = time.monotonic()
        self.facts: dict[str, Any] = {"part": part, "size": size} | machine()
        self.cases: list[dict[str, Any]] = []
        card = "".join(letter if letter.isalnum() else "-" for letter in self.facts["card"].lower())
        self.path = folder / (f"gpu-{part}-{card}.json" if self.facts["device"] == "cuda" else f"cpu-{part}.json")

    def case(self, name: str, work: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        """Run one case and write all that is known; its figures of type Limit decide."""
        print(f"-- {name}", flush=True)
        started = time.monotonic()
        case: dict[str, Any] = {"name": name, "passed": False, "figures": {}, "limits": {}}
        try:
            figures = work(*arguments)
            limits = {key: limit for key, limit in figures.items() if isinstance(limit, Limit)}
            case["figures"] = {key: getattr(value, "value", value) for key, value in figures.items()}
            case["limits"] = {key: f"{limit.sign} {limit.bound:g}" for key, limit in limits.items()}
            case["passed"] = all(SIGNS[limit.sign](limit.value, limit.bound) for limit in limits.values())
        except Exception as error:  # whatever it is, it belongs into the report
            case["error"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        self.cases.append(case | {"seconds": round(time.monotonic() - started, 2)})
        self.facts |= {"seconds": round(time.monotonic() - self.started, 1), "cases": self.cases}
        self.facts["passed"] = all(case["passed"] for case in self.cases)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.facts, indent=2) + "\n")

    def close(self) -> int:
        """Print the table and return the exit code."""
        console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
        table = Table("case", "result", "s", "figures", show_lines=True)
        for case in self.cases:
            result = "passed" if case["passed"] else "FAILED"
            table.add_row(case["name"], result, f"{case['seconds']:.0f}", case.get("error") or _figures(case))
        console.print(table)
        result = "passed" if self.facts["passed"] else "FAILED"
        console.print(f"{result}: {self.facts['part']} on {self.facts['card']}, {self.path}", soft_wrap=True)
        return 0 if self.facts["passed"] else 1


def _figures(case: dict[str, Any]) -> str:
    visible = {key: value for key, value in case["figures"].items() if not isinstance(value, list)}
    texts = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in visible.items()}
    return "\n".join(f"{key} {text}  {case['limits'].get(key, '')}".rstrip() for key, text in texts.items())


def machine() -> dict[str, Any]:
    """Return the card, the driver and the versions that the figures belong to."""
    facts: dict[str, Any] = {"device": "cpu", "card": "cpu", "driver": None, "compute_capability": None}
    if torch.cuda.is_available():
        driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        facts = {"device": "cuda", "card": torch.cuda.get_device_name(), "compute_capability": capability}
        facts["driver"] = driver.partition("\n")[0] if driver else None
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda}
    commit = _output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40")
    return facts | {"versions": versions | {name: version(name) for name in PACKAGES}, "commit": commit}


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
