"""Answer requests for one engine in a process of its own: JSON lines in, JSON lines out.

    {"do": "train", "kind": "dpo", "check": false, "accounting": "counted", ...}
    {"seconds": 4.2, "rows": 24, "losses": [0.69, ...], ...}

Whatever libraries print goes to the log, so that the pipe holds answers alone. Each training starts from a freshly
loaded model, and is dropped after it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

STARTED = time.time()

import torch  # noqa: E402  the clock starts before the heavy imports
from transformers.utils import logging as transformers_logging  # noqa: E402

from trainer.errors import TrainerError  # noqa: E402
from trainer.methods.processes import die_with_parent  # noqa: E402
from trainer.verbs.bench import assets, clock, packing  # noqa: E402
from trainer.verbs.bench.engines import ENGINES, load  # noqa: E402
from trainer.verbs.bench.shapes import Size  # noqa: E402
from trainer.verbs.bench.task import Task  # noqa: E402

Answer = dict[str, Any]


class EngineWorker:
    """Answers requests for one engine."""

    def __init__(self) -> None:
        self.startup_seconds: float | None = None

    def answer(self, request: dict[str, Any]) -> Answer:
        """Do what is asked."""
        match request["do"]:
            case "prepare":
                details = request["request"] | {"size": Size(**request["request"]["size"])}
                return assets.prepare(Path(request["folder"]), assets.ComparisonRequest(**details))
            case "device":
                return {"device": "cuda" if clock.on_cuda() else "cpu", "name": clock.device_name()}
            case "gemm":
                return clock.gemm()
            case "train":
                return self.train(request)
            case "pack":
                return packing.measure(request["packer"], request["count"])
            case _:
                raise ValueError(f"no such request: {request['do']}")

    def train(self, request: dict[str, Any]) -> Answer:
        """Build one training, time it, and describe it."""
        task = Task(
            folder=Path(request["folder"]),
            kind=request["kind"],
            size=Size(**request["size"]),
            is_check=request["check"],
            accounting=request["accounting"],
            precision=request["precision"],
        )
        engine = ENGINES[request["engine"]]
        clock.reset_peak()
        training = load(engine)(task, engine.variant)
        if self.startup_seconds is None:
            self.startup_seconds = clock.since_start(STARTED)
        gc.collect()
        gc.freeze()  # Trainer collects garbage as it starts, which costs more the more a process has imported
        start = clock.now()
        history = training.train()
        answer = {
            "seconds": clock.now() - start,
            "reference_seconds": training.reference_seconds,
            "startup_seconds": self.startup_seconds,
            "peak_bytes": clock.peak_bytes(),
            "precision": training.precision,
            "settings": training.settings,
            **training.amount.__dict__,
            **history.__dict__,
        }
        del training
        gc.unfreeze()
        gc.collect()
        if clock.on_cuda():
            torch.cuda.empty_cache()
        return answer


def main() -> None:
    """Serve until the pipe closes."""
    die_with_parent()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    transformers_logging.disable_progress_bar()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = EngineWorker()
    for line in sys.stdin:
        _reply(answers, _guarded(worker, json.loads(line)))


def _guarded(worker: EngineWorker, request: dict[str, Any]) -> Answer:
    """Turn an error into an answer; a peer that fails is a row of the table, no end of the comparison."""
    try:
        return worker.answer(request)
    except TrainerError as error:
        return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def _reply(answers: TextIO, answer: Answer) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
