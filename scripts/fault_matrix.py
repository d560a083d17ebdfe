"""Inject faults into real trainings and real files, and print what was expected and what was seen.

    python scripts/fault_matrix.py                  every row
    python scripts/fault_matrix.py --quick          rows that need no training of their own
    python scripts/fault_matrix.py --kills 100      beside the rows: kill -9 at random moments of trainings

A row is a fault and the tests that inject it. The summary is written to benchmarks/results/faults.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
OUT = ROOT / "benchmarks" / "results" / "faults.json"
FAULTS, FOREIGN, LOCK = (
    "tests/faults/test_faults.py",
    "tests/unit/model/foreign/test_foreign.py",
    "tests/unit/test_lock.py",
)
DAMAGED, PROCESSES = "tests/faults/test_damaged_weights.py", "tests/unit/methods/test_processes.py"
SECRETS, PROBLEMS = "tests/unit/data/pii/test_recipe_secrets.py", "tests/unit/recipe/test_problems.py"
MATRIX_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Row:
    """A fault, what must follow, and the tests that show it: a file, or file::test."""

    fault: str
    expected: str
    tests: tuple[str, ...]
    is_quick: bool = False


@dataclass
class Seen:
    """What followed."""

    fault: str
    expected: str
    seen: str
    passed: bool
    seconds: float


def faults(*names: str) -> tuple[str, ...]:
    return tuple(f"{FAULTS}::test_{name}" for name in names)


ROWS = (
    Row("kill -9 of all processes", "same weights as uninterrupted", faults("killing_everything_loses_nothing")),
    Row("SIGTERM, SIGINT", "143, 130; state saved", faults("sigterm_saves_and_leaves_no_process", "ctrl_c_saves_too")),
    Row("SIGTERM as process 1", "143; saved", faults("sigterm_to_process_1_of_a_container_saves_and_ends_in_time")),
    Row("SIGTERM while loading", "143 at once", faults("a_signal_while_loading_ends_the_training_at_once")),
    Row("stuck, stopped and orphaned processes; second signal", "within 10 s, named", (PROCESSES,), is_quick=True),
    Row("the launcher is killed", "its training ends", faults("a_launcher_that_dies_takes_its_training_along")),
    Row("one training process is killed", "exit 5", faults("a_killed_training_process_is_exit_5")),
    Row("a damaged checkpoint", "passed over by name", faults("a_damaged_checkpoint_is_passed_over_by_name")),
    Row("divergence", "exit 7, nothing saved", faults("divergence_is_exit_7_and_never_saved")),
    Row("NaN in the base weights", "exit 7, rows and weights named", (
        *faults("nan_in_the_base_weights_is_told_by_name_not_as_a_rate"),
        "tests/unit/methods/test_divergence.py")),
    Row("the disk fills up", "exit 5, nothing half made", faults(
        "a_disk_that_fills_up_while_training_is_exit_5", "a_full_disk_is_exit_5_and_nothing_half_made_stays",
        "training_does_not_begin_without_space")),
    Row("a bit or the end of trained weights is lost", "exit 4 by all that loads them", (DAMAGED,)),
    Row("foreign config.json, adapter, GGUF, safetensors", "refused by file and field", (FOREIGN,), is_quick=True),
    Row("a config.json names code of the hub", "refused; nothing is imported", (
        f"{FOREIGN}::test_a_wrong_field_of_a_configuration_is_named",
        f"{FOREIGN}::test_the_package_that_fetches_kernels_cannot_be_imported"), is_quick=True),
    Row("no flock", "the file is the lock", (LOCK,), is_quick=True),
    Row("60,000 keys, deep brackets, /dev/zero, FIFO as recipe", "exit 2 at once", (PROBLEMS,), is_quick=True),
    Row("a key in the recipe", "masked in every file", (SECRETS,), is_quick=True),
)  # fmt: skip


def run_row(row: Row) -> Seen:
    """Run the tests of a row."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *row.tests]
        try:
            subprocess.run(command, cwd=ROOT, capture_output=True, timeout=MATRIX_TIMEOUT_S, check=False)
            suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
        except (subprocess.TimeoutExpired, OSError):
            suites = []
    counts = {
        key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    }
    bad = counts["failures"] + counts["errors"]
    ran = counts["tests"] - counts["skipped"]
    seen = f"{ran - bad} of {ran} cases" + (f", {counts['skipped']} skipped" if counts["skipped"] else "")
    return Seen(row.fault, row.expected, seen, ran > 0 and bad == 0, round(time.monotonic() - begin, 1))


def run_kills(count: int, seed: int) -> Seen:
    """Kill trainings at random moments until `count` kills are done; every finished adapter must equal the first."""
    from tests import tiny
    from tests.command import Project, finish, kill_tree

    begin, drawn = time.monotonic(), random.Random(seed)
    kills = in_a_write = trainings = equal = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny.make_model(folder / "model", tiny.make_tokenizer())

        def project(title: str) -> Project:
            tiny.write_recipe(folder / title, model=model, train={"max_steps": 24, "save_steps": 1})
            made = Project(folder / title)
            assert all(made.spawn(verb, str(made.recipe)).code == 0 for verb in ("data", "pack"))
            return made

        first = project("first")
        begun = time.monotonic()
        assert first.spawn("train", str(first.recipe)).code == 0
        seconds, expected = time.monotonic() - begun, _adapter(first.run)
        while kills < count:
            trainings += 1
            killed = project(f"killed-{trainings}")
            while True:
                process = killed.start("train", str(killed.recipe))
                wait_s = drawn.uniform(0.3, 1.1) * seconds
                try:
                    process.wait(wait_s)
                except subprocess.TimeoutExpired:
                    in_a_write += (killed.run / "train/checkpoints/.staged").exists()
                    kill_tree(process.pid)
                    finish(process)
                    kills += 1
                    continue
                assert finish(process).code == 0
                break
            equal += _adapter(killed.run) == expected
    seen = f"{kills} kills ({in_a_write} in a write), {equal} of {trainings} adapters equal"
    expected_text = "every adapter equals the uninterrupted one"
    return Seen(
        "kill -9 at random moments", expected_text, seen, equal == trainings, round(time.monotonic() - begin, 1)
    )


def _adapter(run: Path) -> bytes:
    return (run / "train/adapter/adapter_model.safetensors").read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only rows without a training of their own")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kills at random moments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    results = []
    for row in ROWS:
        if row.is_quick or not options.quick:
            results.append(run_row(row))
            _print(results[-1])
    if options.kills:
        results.append(run_kills(options.kills, options.seed))
        _print(results[-1])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"rows": [asdict(seen) for seen in results]}, indent=2) + "\n")
    return 0 if all(seen.passed for seen in results) else 1


def _print(seen: Seen) -> None:
    state = "ok" if seen.passed else "FAILED"
    print(f"{state:7}{seen.seconds:8.1f} s  {seen.fault} | {seen.expected} | {seen.seen}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
