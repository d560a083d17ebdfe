"""A made-up finished run, shared by the tests of the report, the card and the terminal tables."""

from __future__ import annotations

from typing import Any

from trainer.render.answers import select_answers
from trainer.render.report import ReportFacts, StageFacts

SCORES: dict[str, Any] = {
    "arms": {
        "base": {
            "exact_match": {"value": 0.61, "low": 0.58, "high": 0.64, "n": 1000},
            "loss": {"value": 1.214, "low": 1.18, "high": 1.25, "n": 1000},
            "latency_p50_s": {"value": 0.38, "low": None, "high": None, "n": 10},
        },
        "tuned": {
            "exact_match": {"value": 0.845, "low": 0.822, "high": 0.867, "n": 1000},
            "loss": {"value": 0.498, "low": 0.48, "high": 0.517, "n": 1000},
            "latency_p50_s": {"value": 0.41, "low": None, "high": None, "n": 10},
        },
    },
    "comparisons": [{"metric": "exact_match", "difference": 0.235, "low": 0.206, "high": 0.263}],
}
GATES: list[dict[str, Any]] = [
    {"gate": "exact_match", "passed": True, "sentence": "exact match 84.5% is at least 80.0%"},
    {"gate": "latency_p50_s", "passed": False, "sentence": "latency 0.41 s is above 0.40 s"},
]
VERIFY: dict[str, dict[str, Any]] = {
    "adapter": {"passed": True, "mean_kl": 0, "max_kl": 0.0, "top1_agreement": 1.0, "num_positions": 2048},
    "merged": {"passed": False, "mean_kl": 3.4e-4, "max_kl": 0.012, "top1_agreement": 0.9985, "max_logit_diff": 0.021},
}
DATA_REPORT: dict[str, Any] = {
    "rows_read": 12480,
    "rows_train": 8312,
    "rows_validation": 480,
    "rows_heldout": 2080,
    "rejected": {"exact_duplicate": 904, "pii_email": 112},
    "formats": {"rows.jsonl": {"messages": 12480}},
}


def prediction(prompt: str, reference: str, **texts: str) -> dict[str, Any]:
    """Return a line of eval/predictions.jsonl, marked by exact match."""
    marks = {arm: float(text.strip() == reference) for arm, text in texts.items()}
    answers = {arm: {"text": text, "grades": {"exact_match": marks[arm]}} for arm, text in texts.items()}
    messages = [{"role": "user", "content": prompt}]
    return {"id": f"rows.jsonl:{prompt[:9]}", "messages": messages, "reference": reference, "answers": answers}


def report_facts() -> ReportFacts:
    """Return facts in which no section is missing."""
    return ReportFacts(
        name="icd10-coder",
        trainer_version="0.1.0",
        recipe={"name": "icd10-coder", "model": {"name_or_path": "org/model"}, "adapter": {"kind": "lora", "r": 16}},
        stages=[
            StageFacts("data", "done", 14.2, {"rows": 8312}),
            StageFacts("train", "stale", 1244.0, {"peak_gib": 21.4}),
            StageFacts("decide", "missing"),
        ],
        data_report=DATA_REPORT,
        pack_report={"rows": 8312, "tokens": 412033, "lengths": {"edges": [0, 64, 128], "counts": [10, 4]}},
        metrics=[{"step": step, "loss": 2 / step, "tokens_per_s": 100.0} for step in range(1, 60)]
        + [{"step": 30, "validation_loss": 0.2}],
        scores=SCORES,
        gates=GATES,
        verify=VERIFY,
        answers=select_answers([prediction("2+2?", "4", base="five", tuned=" 4\n")]),
        pages={"the data": "../data/index.html"},
        env={"python": "3.11.7", "gpu": {"name": "H200"}},
    )
