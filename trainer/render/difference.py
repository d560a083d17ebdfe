"""What changed between two versions of the data: from two data/report.json, no rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainer.render.format import MINUS, finite, title_of

Standing = Literal["new", "gone", "more", "fewer"]
SIDES = ("read", "train", "validation", "heldout")


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


def changes_of_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[NumberChange]:
    """Return the changed counts of rows: read, of each side, and left out by reason."""
    old, new = ({**num_rows(report), **_rejected(report)} for report in (before, after))
    return list(_changes(old, new))


def changes_of_findings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[NumberChange]:
    """Return the findings that are new, gone, or concern another number of rows, by rule."""
    return list(_changes(_findings(before), _findings(after)))


def num_rows(report: Mapping[str, Any]) -> dict[str, int]:
    """Return the rows read and of each side."""
    found = {f"{side} rows" if side != "read" else "rows read": finite(report.get(f"rows_{side}")) for side in SIDES}
    return {name: int(rows) for name, rows in found.items() if rows is not None}


def _rejected(report: Mapping[str, Any]) -> dict[str, int]:
    counts = report.get("rejected")
    known = counts.items() if isinstance(counts, Mapping) else ()
    return {f"left out: {title_of(str(reason))}": int(rows) for reason, value in known if (rows := finite(value))}


def _findings(report: Mapping[str, Any]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for finding in report.get("lint") or []:
        # a finding about what is missing concerns no row, and is one all the same
        counts[f"{finding.get('rule')} {finding.get('title')}"] += int(finite(finding.get("count")) or 0) or 1
    return dict(counts)


def _changes(old: Mapping[str, int], new: Mapping[str, int]) -> Iterator[NumberChange]:
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name, 0), new.get(name, 0)
        if before != after:
            grown: Standing = "more" if after > before else "fewer"
            yield NumberChange(name, before, after, "new" if name not in old else "gone" if name not in new else grown)
