"""Find rows of a run: by position, by rule, by kind of answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from trainer import exact_json
from trainer.data.lint.facts.row import RowFacts, row_facts
from trainer.data.lint.rules import RULES
from trainer.data.records.kinds import Record
from trainer.errors import DataError
from trainer.shapes.report import LintFinding

SIDES = ("train", "validation", "heldout")
TRAITS = ("refusal", "clarification", "prose", "unfinished", "tools")


class Suspicion(TypedDict):
    """Why the answer of a training row may be wrong."""

    row: int
    """Line in train.jsonl, from 0."""
    score: float
    """Deviations from the median loss or margin."""
    margin: NotRequired[float]
    """Of pairs: log-probability of chosen over rejected, in nats."""
    loss: NotRequired[float]
    """Nats a token."""
    given: NotRequired[list[int]]
    """Token ids of the answer."""
    says: NotRequired[list[int] | None]
    """Token ids of the class that the model is confident of."""
    probability: NotRequired[float | None]
    """Of that class."""


@dataclass(frozen=True)
class InspectedRow:
    """One row of `data/SIDE.jsonl`."""

    side: str
    index: int
    """Line in that file, from 0."""
    record: Record
    suspicion: Suspicion | None = None
    """Why its answer may be wrong."""

    @property
    def position(self) -> str:
        """Return `source:line`."""
        return f"{self.record.get('source')}:{self.record.get('line')}"


def read_rows(folder: Path, *, sides: tuple[str, ...] = SIDES) -> Iterator[InspectedRow]:
    """Yield the rows of a data folder, training rows first."""
    for side in sides:
        path = folder / f"{side}.jsonl"
        if path.is_file():
            with path.open("rb") as file:
                for index, line in enumerate(file):
                    yield InspectedRow(side, index, exact_json.loads(line))


def rows_at(folder: Path, positions: list[str]) -> list[InspectedRow]:
    """Return the rows at these places, in the order asked for; a bare line number means that line of any source."""
    order = {position: number for number, position in enumerate(positions)}
    matches = [
        (order[name], row)
        for row in read_rows(folder)
        for name in dict.fromkeys((row.position, str(row.record.get("line"))))
        if name in order
    ]
    return [row for _, row in sorted(matches, key=lambda item: item[0])]


def rows_with_rule(folder: Path, findings: list[LintFinding], rule: str, limit: int) -> list[InspectedRow]:
    """Return rows that break a rule by themselves, else those that the findings name.

    Raises:
        DataError: There is no such rule, or no row of the run breaks it.
    """
    if rule not in RULES:
        raise DataError(f"no rule {rule}", hint=f"the rules are {', '.join(RULES)}")
    also = "unfinished" if rule == "Q008" else None
    rows = _matching(folder, lambda facts: rule in facts.flags or (also in facts.traits), limit)
    findings = [finding for finding in findings if finding.get("rule") == rule]
    if not rows:
        positions = [
            part for finding in findings for position in finding.get("rows") or [] for part in position.split(" = ")
        ]
        rows = rows_at(folder, positions)[:limit]
    if rows:
        return rows
    details = "; ".join(str(finding.get("detail")) for finding in findings)
    raise DataError(
        f"{rule} ({RULES[rule].title}): no single row of this run" + (f": {details}" if details else ""),
        hint="trainer inspect RECIPE --rejected lists the rows left out; data/report.json holds every finding",
    )


def rows_with_trait(folder: Path, trait: str, limit: int) -> list[InspectedRow]:
    """Return rows whose answers are of a kind: refusal, clarification, prose, unfinished, tools."""
    return _matching(folder, lambda facts: trait in facts.traits, limit)


def _matching(folder: Path, matches: Callable[[RowFacts], bool], limit: int) -> list[InspectedRow]:
    rows: list[InspectedRow] = []
    for row in read_rows(folder):
        if matches(row_facts(row.record)):
            rows.append(row)
            if len(rows) >= limit:
                break
    return rows


def is_position(text: str) -> bool:
    """Tell `source:line` or a line number from other words.

    Example:
        >>> is_position("a.jsonl:12"), is_position("12"), is_position("refusal")
        (True, True, False)
    """
    return bool(re.fullmatch(r"(?:.+:)?\d+", text))
