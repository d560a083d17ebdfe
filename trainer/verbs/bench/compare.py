"""Check every engine on the same rows, then time the engines in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainer.errors import BY_EXIT_CODE, StageError
from trainer.verbs.bench.engines import ENGINES, OURS, PLAIN, TRL, UNWIRED, BenchEngine
from trainer.verbs.bench.process import Answer, WorkerProcess
from trainer.verbs.bench.shapes import CUDA_SIZES, QUICK_SIZES, SIZES, BenchKind, Size
from trainer.verbs.bench.verdict import EngineMeasurements

QUICK_LAST_ROUND_S = 44.0  # seconds after the start at which no further round of --quick may still be running
ACCOUNTINGS: dict[BenchKind, tuple[str, ...]] = {"sft": ("counted",), "dpo": ("counted", "left_out")}


@dataclass
class Comparison:
    """One run of `trainer bench sft|dpo`."""

    kind: BenchKind
    folder: Path
    shape: str
    quick: bool
    rows_path: str | None
    say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    device: str = "cpu"
    device_name: str = ""
    size: Size = field(init=False)
    rows: dict[str, Any] = field(default_factory=dict)
    gemms: list[Answer] = field(default_factory=list)
    measured: dict[str, EngineMeasurements] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    workers: dict[tuple[str, str], WorkerProcess] = field(default_factory=dict)

    @property
    def accountings(self) -> tuple[str, ...]:
        """Return the ways to count the reference; `--quick` counts it."""
        return ACCOUNTINGS[self.kind][:1] if self.quick else ACCOUNTINGS[self.kind]

    @property
    def reference(self) -> str:
        """Return the engine whose losses the others must have."""
        return TRL if self.quick else PLAIN

    def run(self) -> None:
        """Measure everything; the workers are gone at the end, however it ends.

        Raises:
            TrainerError: The rows cannot be used, or there is no room for the model.
        """
        try:
            assets = self._worker("assets")
            if self.quick:
                for name in (OURS, TRL):
                    self._worker(name)  # their imports take as long as the preparation
            self._prepare(assets)
            engines = [engine for engine in ENGINES.values() if self._takes_part(engine)]
            for engine in engines:
                self._check(engine)
            self._rounds(assets, engines)
        finally:
            for worker in self.workers.values():
                worker.child.kill()
                worker.close()

    def _worker(self, name: str, precision: str = "native") -> WorkerProcess:
        key = (name, precision)
        if key not in self.workers:
            self.workers[key] = WorkerProcess(self.folder / f"{name}-{precision}.log")
        return self.workers[key]

    def _prepare(self, assets: WorkerProcess) -> None:
        self.say(f"bench: {self.kind}: preparing model and rows")
        device = _checked(assets.ask({"do": "device"}))
        self.device, self.device_name = device["device"], device["name"]
        sizes = QUICK_SIZES if self.quick else CUDA_SIZES if self.device == "cuda" else SIZES
        self.size = sizes[self.kind]
        request = {"kind": self.kind, "shape": self.shape, "size": asdict(self.size), "rows_path": self.rows_path}
        self.rows = _checked(assets.ask({"do": "prepare", "folder": str(self.folder), "request": request}))

    def _takes_part(self, engine: BenchEngine) -> bool:
        if self.quick:
            return engine.name in (OURS, TRL)
        for name, why in UNWIRED.items():
            self.left_out[name] = why if find_spec(name) else "not installed"
        if not engine.is_installed():
            self.left_out[engine.name] = "not installed"
        elif engine.needs_cuda and self.device != "cuda":
            self.left_out[engine.name] = "needs a CUDA card"
        else:
            return True
        return False

    def _request(self, engine: BenchEngine, precision: str, *, check: bool, accounting: str = "counted") -> Answer:
        request = {
            "do": "train",
            "folder": str(self.folder),
            "engine": engine.name,
            "kind": self.kind,
            "size": asdict(self.size),
            "check": check,
            "accounting": accounting,
            "precision": precision,
        }
        answer = self._worker(engine.name, precision).ask(request)
        return answer | {"distinct_rows": self.size.check_rows if check else self.size.rows}

    def _check(self, engine: BenchEngine) -> None:
        """Take a few steps over the same rows; where several types can be had, keep the fastest."""
        self.say(f"bench: {self.kind}: checking {engine.name}")
        measured = EngineMeasurements(engine.name, engine.text)
        self.measured[engine.name] = measured
        precisions = engine.precisions if self.device == "cpu" else ("native",)
        checks = {precision: self._request(engine, precision, check=True) for precision in precisions}
        working = {precision: check for precision, check in checks.items() if "error" not in check}
        if not working:
            measured.error = next(iter(checks.values()))["error"]
            self._log(measured)
            return
        if len(working) > 1:
            probes = {precision: self._request(engine, precision, check=False) for precision in working}
            fastest = min(working, key=lambda precision: probes[precision].get("seconds", float("inf")))
        else:
            fastest = next(iter(working))
        for precision in precisions:
            if precision != fastest:
                self.workers.pop((engine.name, precision)).close()
        measured.kind, measured.check, measured.precision = fastest, working[fastest], working[fastest]["precision"]

    def _log(self, measured: EngineMeasurements) -> None:
        self.say(f"bench: {measured.name} failed: {measured.error}")

    def _rounds(self, assets: WorkerProcess, engines: list[BenchEngine]) -> None:
        """Time one epoch of each engine in each round; another engine begins each time."""
        for number in range(self.size.rounds):
            begun = time.monotonic()
            self.say(f"bench: {self.kind}: round {number + 1} of {self.size.rounds}")
            self.gemms.append(_checked(assets.ask({"do": "gemm"})))
            turn = number % len(engines)
            for engine in engines[turn:] + engines[:turn]:
                self._time(engine)
            now = time.monotonic()
            if self.quick and now + (now - begun) - self.started > QUICK_LAST_ROUND_S:
                return

    def _time(self, engine: BenchEngine) -> None:
        measured = self.measured[engine.name]
        for accounting in self.accountings:
            if measured.error is not None:
                return
            answer = self._request(engine, measured.kind, check=False, accounting=accounting)
            if "error" in answer:
                measured.error = answer["error"]
                self._log(measured)
            else:
                measured.rounds.setdefault(accounting, []).append(answer)


def _checked(answer: Answer) -> Answer:
    """Return an answer of the worker that prepares.

    Raises:
        TrainerError: It is an error.
    """
    if "error" not in answer:
        return answer
    kind = BY_EXIT_CODE.get(answer.get("exit_code", 0), StageError)
    raise kind(answer["error"], hint=answer.get("hint", "see the lines above, and: trainer bench sft --quick --debug"))
