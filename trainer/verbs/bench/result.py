"""Build the result of a comparison: machine, versions, workload, one object for each engine, ratios."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from statistics import median
from typing import Any

from trainer.verbs.bench.compare import Comparison
from trainer.verbs.bench.engines import OURS
from trainer.verbs.bench.machine import machine, versions
from trainer.verbs.bench.process import THREADS
from trainer.verbs.bench.shapes import LEARNING_RATE, LORA_ALPHA, LORA_RANK, MAX_LENGTH, SHAPES, BenchKind
from trainer.verbs.bench.verdict import LOSS_TOLERANCE, NORM_TOLERANCE, EngineMeasurements, problems, rates, ratios

Result = dict[str, Any]


def result_of(comparison: Comparison) -> Result:
    """Return the result as it is written to JSON."""
    flops = median(gemm["flops"] for gemm in comparison.gemms)
    weights = SHAPES[comparison.shape].linear_weights()
    reference = comparison.measured[comparison.reference]
    engines = {name: _engine(measured, reference, weights, flops) for name, measured in comparison.measured.items()}
    return {
        **header(f"{comparison.kind}", "quick" if comparison.quick else "full"),
        "machine": machine() | {"device": comparison.device, "card": comparison.device_name},
        "versions": versions(),
        "workload": _workload(comparison),
        "protocol": _protocol(comparison),
        "gemm": comparison.gemms[0] | {"flops": flops},
        "engines": engines,
        "not_compared": comparison.left_out,
        "ratios": {accounting: _ratios(engines, accounting, comparison.kind) for accounting in comparison.accountings},
    }


def header(kind: str, length: str) -> Result:
    """Return what was measured and when."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"benchmark": kind, "length": length, "measured_at": now}


def _workload(comparison: Comparison) -> Result:
    shape = SHAPES[comparison.shape]
    return {
        **comparison.rows,
        "model": asdict(shape) | {"name": comparison.shape, "linear_weights": shape.linear_weights()},
        "size": asdict(comparison.size),
        "max_length": MAX_LENGTH,
        "lora": {"r": LORA_RANK, "alpha": LORA_ALPHA, "target_modules": "all-linear"},
        "optimizer": {"name": "AdamW", "learning_rate": LEARNING_RATE, "weight_decay": 0.0, "schedule": "constant"},
    }


def _protocol(comparison: Comparison) -> Result:
    return {
        "seconds": "cpu-seconds of the process" if comparison.device == "cpu" else "wall, the card synchronised",
        "threads": THREADS,
        "rounds": len(comparison.gemms),
        "statistic": "median over rounds; engines take turns, another one begins each round",
        "tokens": "of the rows, each once: no padding, and the prompt of a pair once",
        "losses_agree_with": comparison.reference,
        "tolerance": {"losses": LOSS_TOLERANCE, "grad_norms": NORM_TOLERANCE},
    }


def _engine(measured: EngineMeasurements, reference: EngineMeasurements, weights: int, flops: float) -> Result:
    faults = problems(measured, reference)
    if measured.error is not None and measured.error not in faults:
        faults.append(measured.error)
    entry: Result = {"text": measured.text, "valid": not faults, "problems": faults}
    if measured.check is None or not measured.rounds:
        return entry
    last = measured.answers[-1]
    for accounting, answers in measured.rounds.items():
        entry[accounting] = rates(answers, accounting, linear_weights=weights, flops=flops)
    entry |= {
        "precision": measured.precision,
        "settings": {accounting: answers[0]["settings"] for accounting, answers in measured.rounds.items()},
        "peak_bytes": max(answer["peak_bytes"] for answer in [measured.check, *measured.answers]),
        "startup_s": last["startup_seconds"],
        "final_loss": measured.check["losses"][-1],
        "grad_norm": measured.check["grad_norms"][-1],
        "check": {name: measured.check[name] for name in ("losses", "grad_norms", "tokens", "supervised_tokens")},
        "rounds": {
            accounting: [_round(answer) for answer in answers] for accounting, answers in measured.rounds.items()
        },
    }
    return entry


def _round(answer: Result) -> Result:
    names = ("seconds", "reference_seconds", "rows", "tokens", "supervised_tokens", "losses", "grad_norms")
    return {name: answer[name] for name in names}


def _ratios(engines: dict[str, Result], accounting: str, kind: BenchKind) -> dict[str, float]:
    """Return our speed over that of each engine whose row is valid: in pairs, or in tokens."""
    valid = {name: engine[accounting] for name, engine in engines.items() if engine["valid"]}
    return ratios(valid, OURS, rate="rows_per_s" if kind == "dpo" else "tokens_per_s")
