"""Recall, precision and speed of the rules for personal data, beside Presidio's pattern engine where it is installed.

    python scripts/bench/pii.py DATA_DIR            # DATA_DIR holds pii-presidio/ and gsm8k/

`measure(DATA_DIR)` returns the same figures as a dictionary. A found value is right when it touches a gold span of its
type; a gold span is found when 80 % of its characters are covered.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trainer.data.pii.detectors.presidio import PresidioDetector
from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.scan import Scanner
from trainer.recipe.pii import Pii, Presidio

TYPES = {
    "CREDIT_CARD": ("card", "presidio:CREDIT_CARD"),
    "IBAN_CODE": ("iban", "presidio:IBAN_CODE"),
    "EMAIL_ADDRESS": ("email", "presidio:EMAIL_ADDRESS"),
    "PHONE_NUMBER": ("phone", "presidio:PHONE_NUMBER"),
    "IP_ADDRESS": ("ip", "presidio:IP_ADDRESS"),
    "US_SSN": ("us_ssn", "presidio:US_SSN"),
    "US_DRIVER_LICENSE": ("driver_license", "presidio:US_DRIVER_LICENSE"),
    "STREET_ADDRESS": ("address", None),
}
"""Gold type -> our name, Presidio's name; Presidio's patterns know no addresses."""

COVERED = 0.8
REPEATS = 3
Find = Callable[[str], list[Match]]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def message_row(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return {"messages": turns, "source": "bench", "line": 1}


def our_find() -> Find:
    """Build a function that finds with the rules alone, reserved values left out as the scanner does."""
    scanner = Scanner(Pii())
    return lambda text: [match for leaf in scanner.find(message_row(text)) for match in leaf.matches]


def presidio_find(threshold: float) -> Find | None:
    """Build the same with Presidio's patterns on the engine without a model; None where it is not installed."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        return None
    return PresidioDetector(Presidio(threshold=threshold)).find


def scores(rows: list[dict[str, Any]], find: Find, column: int) -> dict[str, dict[str, float | int]]:
    """Compare what `find` finds with the gold spans; `column` picks its names in TYPES."""
    found = [find(row["text"]) for row in rows]
    result: dict[str, dict[str, float | int]] = {}
    for gold_type, names in TYPES.items():
        name = names[column]
        if name is None:
            continue
        spans = [[span for span in row["spans"] if span["type"] == gold_type] for row in rows]
        covered = [is_covered(span, matches) for gold, matches in zip(spans, found, strict=True) for span in gold]
        right = [
            any(touches(match, span) for span in gold)
            for gold, matches in zip(spans, found, strict=True)
            for match in matches
            if match.type == name
        ]
        precision = sum(right) / len(right) if right else 0.0
        result[gold_type] = {"spans": len(covered), "recall": sum(covered) / len(covered), "precision": precision}
    return result


def is_covered(span: dict[str, Any], matches: Iterable[Match]) -> bool:
    """Tell whether 80 % of a span lie in matches of any type: a value found under another name is gone as well."""
    seen = {place for match in matches for place in range(max(match.start, span["start"]), min(match.end, span["end"]))}
    return len(seen) >= COVERED * (span["end"] - span["start"])


def touches(match: Match, span: dict[str, Any]) -> bool:
    return bool(match.start < span["end"] and span["start"] < match.end)


def speed(texts: list[str], call: Callable[[str], object]) -> float:
    """Return texts per cpu second, the median of several passes."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        for text in texts:
            call(text)
        seconds.append(time.process_time() - start)
    return len(texts) / statistics.median(seconds)


def gone(rows: list[dict[str, Any]], action: str) -> dict[str, float]:
    """Return the share of gold values that no longer occur in their row after the action."""
    scanner = Scanner(Pii.model_validate({"action": action}))
    result: dict[str, list[bool]] = {}
    for row in rows:
        scanned = scanner(message_row(row["text"]))
        left = json.dumps(scanned.record, ensure_ascii=False)
        for span in row["spans"]:
            if span["type"] in TYPES:
                result.setdefault(span["type"], []).append(
                    json.dumps(span["value"], ensure_ascii=False)[1:-1] not in left
                )
    return {name: sum(values) / len(values) for name, values in result.items()}


def flagged(rows: list[dict[str, Any]]) -> float:
    """Return the share of question-and-answer rows in which anything is found."""
    scanner = Scanner(Pii())
    return sum(bool(scanner(message_row(row["question"], row["answer"])).counts) for row in rows) / len(rows)


def passages(path: Path) -> dict[str, float]:
    """Return the share of passages with a finding, among those labelled as sensitive and the others."""
    scanner = Scanner(Pii())
    rows = rows_of(path)
    hits: dict[str, list[bool]] = {"yes": [], "no": []}
    for row in rows:
        hits[row["choices"][row["gold"]]].append(bool(scanner(message_row(row["query"])).counts))
    return {label: sum(values) / len(values) for label, values in hits.items()}


def measure(data_dir: Path) -> dict[str, Any]:
    """Measure everything; seconds of the processor, one thread."""
    rows = rows_of(data_dir / "pii-presidio" / "pii.jsonl")
    texts = [row["text"] for row in rows]
    maths = rows_of(data_dir / "gsm8k" / "train.jsonl")
    short = [(row["question"] + "\n" + row["answer"])[:250] for row in maths]
    find, scanner = our_find(), Scanner(Pii())
    facts: dict[str, Any] = {
        "scores": {"ours": scores(rows, find, 0)},
        "rows_per_cpu_s": {"ours": speed(texts, find)},
        "rows_per_cpu_s_250_chars": speed(short, lambda text: scanner(message_row(text))),
        "gone": {action: gone(rows, action) for action in ("redact", "mask", "pseudonymise")},
        "gsm8k_flagged": flagged(maths),
    }
    business = data_dir / "pii-enterprise-classification" / "enterprise_pii_classification.jsonl"
    if business.is_file():
        facts["passages_with_a_finding"] = passages(business)
    for threshold in (0.0, 0.35, 0.5):
        presidio = presidio_find(threshold)
        if presidio is not None:
            facts["scores"][f"presidio {threshold}"] = scores(rows, presidio, 1)
            facts["rows_per_cpu_s"][f"presidio {threshold}"] = speed(texts, presidio)
    return facts


def table(facts: dict[str, Any]) -> str:
    """Lay the figures out as text."""
    names = list(facts["scores"])
    lines = [
        "type (recall / precision)".ljust(26) + "".join(name.rjust(18) for name in names) + "gone (redact)".rjust(16)
    ]
    for gold_type in TYPES:
        cells = [facts["scores"][name].get(gold_type) for name in names]
        told = [f"{cell['recall']:.3f} / {cell['precision']:.3f}" if cell else "-" for cell in cells]
        share = f"{facts['gone']['redact'][gold_type]:.3f}"
        lines.append(gold_type.ljust(26) + "".join(cell.rjust(18) for cell in told) + share.rjust(16))
    speeds = [f"{facts['rows_per_cpu_s'][name]:,.0f}" for name in names]
    lines.append("rows per cpu second".ljust(26) + "".join(cell.rjust(18) for cell in speeds))
    lines.append(f"rows of 250 characters per cpu second: {facts['rows_per_cpu_s_250_chars']:,.0f}")
    lines.append(f"gsm8k rows flagged: {facts['gsm8k_flagged']:.4%}")
    if "passages_with_a_finding" in facts:
        lines.append(f"business passages with a finding, by label sensitive: {facts['passages_with_a_finding']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    arguments = parser.parse_args()
    facts = measure(arguments.data_dir)
    print(json.dumps(facts, indent=2) if arguments.json else table(facts))


if __name__ == "__main__":
    main()
