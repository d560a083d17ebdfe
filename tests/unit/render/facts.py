"""A made-up finished run, shared by the tests of the report, the card and the terminal tables."""

from __future__ import annotations

from typing import Any

from trainer.render.report.answers import select_answers
from trainer.render.report.page import ReportFacts, StageFacts
from trainer.render.scores.rows import NO_SCORES
from trainer.shapes.gates import GateResult, GateVerdict
from trainer.shapes.pack import PackReport
from trainer.shapes.predictions import Prediction
from trainer.shapes.proof import ExportProof
from trainer.shapes.report import DataReport, LintFinding
from trainer.shapes.scores import ArmComparison, Score, Scores
from trainer.shapes.training import TrainingMetrics


def score(value: float, low: float | None = None, high: float | None = None, n: int = 1000) -> Score:
    """Return a score."""
    return {"value": value, "low": low, "high": high, "n": n}


def comparison(metric: str, difference: float, low: float | None, high: float | None, **changes: Any) -> ArmComparison:
    """Return a comparison of tuned with base."""
    entry = {"metric": metric, "difference": difference, "low": low, "high": high, "arm": "tuned", "vs": "base"}
    return {**entry, "n": 1000, "differing": 300, "sentence": f"{metric} differs", **changes}


def scores(**changes: Any) -> Scores:
    """Return eval/scores.json with nothing measured but the changes."""
    return {**NO_SCORES, "primary": "exact_match", **changes}


SCORES = scores(
    arms={
        "base": {
            "exact_match": score(0.61, 0.58, 0.64),
            "loss": score(1.214, 1.18, 1.25),
            "latency_p50_s": score(0.38, n=10),
        },
        "tuned": {
            "exact_match": score(0.845, 0.822, 0.867),
            "loss": score(0.498, 0.48, 0.517),
            "latency_p50_s": score(0.41, n=10),
        },
    },
    comparisons=[comparison("exact_match", 0.235, 0.206, 0.263)],
)


def gate(verdict: GateVerdict, sentence: str, **condition: Any) -> GateResult:
    """Return a gate as judged."""
    stated = {"metric": "exact_match", "arm": "tuned", "confidence": 0.95, "layer": "auto", **condition}
    passed = verdict == "pass"
    return {"gate": stated, "layer": "task", "verdict": verdict, "passed": passed, "sentence": sentence}


GATES = [
    gate("pass", "exact match 84.5% is at least 80.0%"),
    gate("fail", "latency 0.41 s is above 0.40 s", metric="latency_p50_s"),
]


def proof(**changes: Any) -> ExportProof:
    """Return an export that is exactly the trained model but for the changes."""
    equal = {"mean_kl": 0, "max_kl": 0.0, "top1_agreement": 1.0, "num_positions": 2048, "max_logit_diff": 0.0}
    passed = {"passed": True, "because": "", "dtype": "float32", "findings": [], "score": None}
    return {**passed, **equal, **changes}


VERIFY = {
    "adapter": proof(),
    "merged": proof(passed=False, mean_kl=3.4e-4, max_kl=0.012, top1_agreement=0.9985, max_logit_diff=0.021),
}


def finding(**changes: Any) -> LintFinding:
    """Return a finding."""
    fields = {"rule": "F001", "severity": "warning", "title": "a fault", "detail": "", "count": 1, "share": None}
    return {**fields, "rows": [], "fix": "mend it", **changes}


def data_report(**changes: Any) -> DataReport:
    """Return data/report.json of rows without a finding but for the changes; `stats` changes single distributions."""
    stats = {
        "prompt_chars": {},
        "answer_chars": {},
        "turns": {},
        "languages": {},
        "classes": {},
        "system_prompts": [],
        "worst_rows": [],
        "traits": {},
    }
    report: DataReport = {
        "rows_read": 12480,
        "rows_train": 8312,
        "rows_validation": 480,
        "rows_heldout": 2080,
        "rejected": {"exact_duplicate": 904, "pii_email": 112},
        "rejected_rows": {},
        "formats": {"rows.jsonl": {"messages": 12480}},
        "sources": {},
        "turns": {},
        "most_frequent_answer": None,
        "clean": {},
        "pii": {},
        "duplicates": {"exact": 0, "near": 0, "near_action": "drop", "samples": []},
        "conflicts": {"groups": 0, "rows": 0, "places": [], "samples": []},
        "patterns": {"patterns": 0, "rows": 0, "sizes": [], "samples": []},
        "split": {"groups": 9, "largest_group": 1, "near_pairs_cut": 0},
        "contamination": {"action": "error", "hits": {}, "samples": []},
        "lint": [],
        "stats": {**stats, **changes.pop("stats", {})},
    }
    return {**report, **changes}


DATA_REPORT = data_report()


def pack_report(**changes: Any) -> PackReport:
    """Return pack/report.json."""
    report: PackReport = {
        "rows": 8312,
        "rows_validation": 480,
        "rows_heldout": 2080,
        "dropped": {},
        "tokens": 412033,
        "trained_tokens": 40000,
        "longest": 127,
        "items": 8312,
        "is_packed": False,
        "fill": None,
        "stop_token_id": 2,
        "histogram": {"edges": [0, 64, 128], "counts": [10, 4]},
        "quantiles": [1, 2, 50, 100, 127],
        "steps": 60,
        "lint": [],
    }
    return {**report, **changes}


def logged(step: int, **values: float) -> TrainingMetrics:
    """Return a line of train/metrics.jsonl."""
    return {"step": step, "epoch": 0.1 * step, "seconds": float(step), **values}


def prediction(prompt: str, reference: str, **texts: str) -> Prediction:
    """Return a line of eval/predictions.jsonl, marked by exact match."""
    return {
        "id": f"rows.jsonl:{prompt[:9]}",
        "source": "rows.jsonl",
        "line": 1,
        "group": "",
        "messages": [{"role": "user", "content": prompt}],
        "reference": reference,
        "reference_tokens": 1,
        "slices": {},
        "answers": {
            arm: {
                "text": text,
                "num_tokens": 1,
                "prompt_tokens": 1,
                "finished": True,
                "grades": {"exact_match": float(text.strip() == reference)},
                "reasons": {},
                "failure": None,
            }
            for arm, text in texts.items()
        },
    }


def report_facts() -> ReportFacts:
    """Return facts in which no section is missing."""
    return ReportFacts(
        name="icd10-coder",
        trainer_version="0.1.0",
        recipe={"name": "icd10-coder", "model": {"name_or_path": "org/model"}, "adapter": {"kind": "lora", "r": 16}},
        stages=[
            StageFacts("data", 14.2, {"rows": 8312}),
            StageFacts("train", 1244.0, {"peak_gib": 21.4}),
            StageFacts("decide"),
        ],
        data_report=DATA_REPORT,
        pack_report=pack_report(),
        metrics=[logged(step, loss=2 / step, tokens_per_s=100.0) for step in range(1, 60)]
        + [logged(30, validation_loss=0.2)],
        scores=SCORES,
        gates=GATES,
        verify=VERIFY,
        answers=select_answers([prediction("2+2?", "4", base="five", tuned=" 4\n")]),
        pages={"the data": "../data/index.html"},
        env={"python": "3.11.7", "gpu": {"name": "H200"}},
    )
