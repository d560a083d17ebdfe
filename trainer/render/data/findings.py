"""Turn the findings of the linter into lines of text; of data/report.json and of pack/report.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.render.numbers import DASH, count_of, write_number
from trainer.shapes.report import LintFinding, Severity

SEVERITIES: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


@dataclass(frozen=True)
class FindingRow:
    """One line of the table of findings."""

    severity: Severity
    rule: str
    title: str
    detail: str
    rows: str
    share: str
    first: list[str]
    fix: str


def finding_rows(findings: Iterable[LintFinding]) -> list[FindingRow]:
    """Return findings as text, in their order; a note needs no fix."""
    return [
        FindingRow(
            severity=finding["severity"],
            rule=finding["rule"],
            title=finding["title"],
            detail=finding["detail"],
            rows=write_number(finding["count"]) if finding["count"] else DASH,
            share=_percent(finding["share"]) if finding["count"] else "",
            first=short_refs(finding["rows"]),
            fix="" if finding["severity"] == "info" else finding["fix"],
        )
        for finding in findings
    ]


def short_refs(refs: Sequence[str]) -> list[str]:
    """Leave out a file that was named just before.

    Example:
        >>> short_refs(["a.jsonl:3", "a.jsonl:9", "b.jsonl:1 = 4", "b.jsonl:7 = b.jsonl:2"])
        ['a.jsonl:3', '9', 'b.jsonl:1 = 4', 'b.jsonl:7 = 2']
    """
    shortened, last_file = [], ""
    for ref in refs:
        parts = []
        for part in ref.split(" = "):
            file, _, line = part.rpartition(":")
            parts.append(line if file and file == last_file else part)
            last_file = file
        shortened.append(" = ".join(parts))
    return shortened


def count_findings(findings: Sequence[FindingRow]) -> str:
    """Count findings in words, such as `1 error, 3 warnings, 4 notes`."""
    counts = {name: sum(finding.severity == key for finding in findings) for key, name in SEVERITIES.items()}
    return ", ".join(count_of(count, name) for name, count in counts.items() if count) or "nothing found"


def _percent(share: float | None) -> str:
    if share is None:
        return ""
    return "under 0.1%" if 0 < share < 0.001 else f"{share:.1%}"
