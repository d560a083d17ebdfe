"""Run one part of the acceptance on a CUDA card; started by gpu_acceptance.sh."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import torch
from acceptance import correctness, methods
from acceptance.report import Report
from acceptance.workplace import Workplace

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def results_folder(size: str) -> Path:
    """Figures of a real size on a card go to the repository; all others only where ACCEPTANCE_OUT says."""
    out = os.environ.get("ACCEPTANCE_OUT")
    if size not in ("real", "tiny"):
        fail(f"ACCEPTANCE_SIZE is {size!r}", "real or tiny")
    if size == "real" and not torch.cuda.is_available():
        fail("no CUDA card", "ACCEPTANCE_SIZE=tiny ACCEPTANCE_OUT=FOLDER runs the same code on the CPU")
    if size == "tiny" and not out:
        fail("ACCEPTANCE_OUT is not set", "tiny figures are no results; name a folder for them")
    return Path(out) if out else RESULTS


def fail(message: str, fix: str) -> NoReturn:
    print(f"error: {message}\nfix: {fix}", file=sys.stderr)
    sys.exit(5)


def main(part: str) -> int:
    size = os.environ.get("ACCEPTANCE_SIZE", "real")
    report = Report(part, size, results_folder(size))
    with tempfile.TemporaryDirectory(prefix="acceptance-", ignore_cleanup_errors=True) as folder:
        place = Workplace(Path(folder), size)
        (correctness if part == "correctness" else methods).run(report, place)
    return report.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
