"""Tell what changed between two versions of the data: from two data/report.json, no rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from trainer.render.numbers import MINUS, title_of
from trainer.shapes.report import DataReport

Standing = Literal["new", "gone", "more", "fewer"]


@dataclass(frozen=True)
class NumberChange:
    """One number that differs; of a finding the rows it concerns."""

    name: str
    before: int
    after: int
    standing: Standing

    @property
    def written(self) -> str:
        """Return the difference with its sign."""
        return f"{self.after - self.before:+,}".replace("-", MINUS)


def changes_of_rows(before: DataReport, after: DataReport) -> list[NumberChange]:
    """Return the changed counts of rows: read, of each side, and left out by reason."""
    return list(_changes(_rows(before), _rows(after)))


def changes_of_findings(before: DataReport, after: DataReport) -> list[NumberChange]:
    """Return the findings that are new, gone, or concern another number of rows, by rule."""
    return list(_changes(_findings(before), _findings(after)))


def row_counts(report: DataReport) -> dict[str, int]:
    """Return the rows read and of each side."""
    return {
        "rows read": report["rows_read"],
        "train rows": report["rows_train"],
        "validation rows": report["rows_validation"],
        "heldout rows": report["rows_heldout"],
    }


def _rows(report: DataReport) -> dict[str, int]:
    return row_counts(report) | {f"left out: {title_of(reason)}": rows for reason, rows in report["rejected"].items()}


def _findings(report: DataReport) -> Counter[str]:
    counts: Counter[str] = Counter()
    for finding in report["lint"]:
        # a finding about something missing concerns no row, and is one all the same
        counts[f"{finding['rule']} {finding['title']}"] += finding["count"] or 1
    return counts


def _changes(old: Mapping[str, int], new: Mapping[str, int]) -> Iterator[NumberChange]:
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name, 0), new.get(name, 0)
        if before != after:
            grown: Standing = "more" if after > before else "fewer"
            yield NumberChange(name, before, after, "new" if name not in old else "gone" if name not in new else grown)
