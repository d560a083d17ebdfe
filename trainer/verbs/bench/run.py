"""Run `trainer bench sft|dpo|pack`: measure, print a table, write the result, refuse invalid figures."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from trainer.disk import write_json
from trainer.errors import GateError, Problem, RecipeError
from trainer.verbs.bench.compare import Comparison
from trainer.verbs.bench.machine import machine, versions
from trainer.verbs.bench.process import THREADS, WorkerProcess
from trainer.verbs.bench.result import Result, header, result_of
from trainer.verbs.bench.table import engines_table, notes, packers_table

PACK_ROUNDS = 5
PACK_ROWS = {"ours": 1_000_000, "ours-200k": 200_000, "trl": 200_000, "trl-whole-table": 200_000}
QUICK_PACKERS = ("ours", "trl")
PACKER_OF = {"ours-200k": "ours"}


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    kind: Literal["sft", "dpo", "pack"]
    quick: bool = False
    json_path: str | None = None
    rows_path: str | None = None
    shape: str = "tiny"


def run(options: Options) -> int:
    """Run one comparison and return the exit code.

    Raises:
        GateError: A row of the table does not count.
        TrainerError: The rows cannot be used, or the result cannot be written.
    """
    if options.kind == "pack" and (options.rows_path or options.shape != "tiny"):
        problem = Problem("bench pack", None, "--rows, --shape", "packers are compared on lengths alone")
        raise RecipeError([problem], hint="trainer bench pack [--quick] [--json FILE]")
    if options.json_path and Path(options.json_path).is_dir():
        problem = Problem("bench", None, "--json", f"{options.json_path} is a folder")
        raise RecipeError([problem], hint="name a file in it")
    with tempfile.TemporaryDirectory(prefix="trainer-bench-") as folder:
        result, table = (_packers if options.kind == "pack" else _engines)(options, Path(folder))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table)
    for line in notes(result):
        console.print(line, markup=False, soft_wrap=True)
    if options.json_path:
        write_json(Path(options.json_path), result)
    else:
        console.print_json(json.dumps(result), highlight=False)
    invalid = [name for name, engine in result["engines"].items() if not engine["valid"]]
    if invalid:
        raise GateError(
            f"the figures of {', '.join(invalid)} do not count, see `invalid` above",
            hint="an engine that trains something else is a bug of the comparison or of the engine: report it",
        )
    return 0


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201  progress, beside the result


def _engines(options: Options, folder: Path) -> tuple[Result, Table]:
    assert options.kind != "pack"
    comparison = Comparison(options.kind, folder, options.shape, options.quick, options.rows_path, _say)
    comparison.run()
    result = result_of(comparison)
    return result, engines_table(result)


def _packers(options: Options, folder: Path) -> tuple[Result, Table]:
    names = QUICK_PACKERS if options.quick else tuple(PACK_ROWS)
    rounds = 1 if options.quick else PACK_ROUNDS
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    workers = {name: WorkerProcess(folder / f"{name}.log") for name in names}
    try:
        for number in range(rounds):
            _say(f"bench: pack: round {number + 1} of {rounds}")
            for name, worker in workers.items():
                request = {"do": "pack", "packer": PACKER_OF.get(name, name), "count": PACK_ROWS[name]}
                answers[name].append(worker.ask(request))
    finally:
        for worker in workers.values():
            worker.child.kill()
            worker.close()
    result = _pack_result(options, answers)
    return result, packers_table(result)


def _pack_result(options: Options, answers: dict[str, list[dict[str, Any]]]) -> Result:
    engines = {name: _packer(packer_answers) for name, packer_answers in answers.items()}
    ours = engines["ours"].get("rows_per_s")
    valid_engines = {
        name: engine for name, engine in engines.items() if engine["valid"] and name not in ("ours", "ours-200k")
    }
    return {
        **header("pack", "quick" if options.quick else "full"),
        "machine": machine(),
        "versions": versions(),
        "workload": {"rows": PACK_ROWS, "lengths": "log-normal, median 180, 8 to 2048 tokens", "capacity": 2048},
        "protocol": {"seconds": "cpu-seconds of the process", "threads": THREADS, "rounds": len(answers["ours"])},
        "engines": engines,
        "ratios": {name: ours / engine["rows_per_s"] for name, engine in valid_engines.items()} if ours else {},
    }


def _packer(answers: list[dict[str, Any]]) -> Result:
    reports = [answer.get("error") or answer["problem"] for answer in answers]
    problems = [problem for problem in reports if problem]
    if any("error" in answer for answer in answers):
        return {"valid": False, "problems": problems}
    seconds = median(answer["seconds"] for answer in answers)
    first = answers[0]
    return {
        "valid": not problems,
        "problems": problems,
        "rows": first["rows"],
        "seconds": seconds,
        "rows_per_s": first["rows"] / seconds,
        "packs": first["packs"],
        "fill": first["fill"],
        "peak_bytes": max(answer["peak_bytes"] for answer in answers),
        "rounds": [answer["seconds"] for answer in answers],
    }
