"""Run one part of the acceptance on a CUDA card; gpu_acceptance.sh starts it."""

import importlib
import os
import sys
import tempfile
from pathlib import Path

import torch
from acceptance.report import Report
from acceptance.workplace import Workplace


def results_folder(size: str) -> Path:
    """Return the repository's folder for figures of the real size on a card, else ACCEPTANCE_OUT."""
    out = os.environ.get("ACCEPTANCE_OUT")
    if size == "real" and torch.cuda.is_available():
        return Path(out or Path(__file__).parent.parent / "benchmarks" / "results")
    if size == "tiny" and out:
        return Path(out)
    print(
        f"error: ACCEPTANCE_SIZE={size} needs a CUDA card, tiny needs ACCEPTANCE_OUT, and there is no third size\n"
        "fix: run it on a card, or ACCEPTANCE_SIZE=tiny ACCEPTANCE_OUT=FOLDER for the same code on the CPU",
        file=sys.stderr,
    )
    sys.exit(5)


def main(part: str) -> int:
    size = os.environ.get("ACCEPTANCE_SIZE", "real")
    report = Report(part, size, results_folder(size))
    with tempfile.TemporaryDirectory(prefix="acceptance-", ignore_cleanup_errors=True) as folder:
        importlib.import_module(f"acceptance.{part}").run(report, Workplace(Path(folder), size))
    return report.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
