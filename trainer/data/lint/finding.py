"""What the linter returns, and what it is told by the rest of the stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.data.lint.rules import RULES
from trainer.recipe.lint import Severity


@dataclass(frozen=True)
class Finding:
    """One rule that the rows break."""

    rule: str
    detail: str
    """What was found, where title and count do not say it; of texts only labels and openings that many rows share."""
    count: int = 0
    """Rows concerned."""
    share: float | None = None
    """`count` over the rows that could have been concerned."""
    rows: tuple[str, ...] = ()
    """`source:line` of the first of them."""
    severity: Severity | None = None
    """Where it differs from the rule's."""
    fix: str | None = None
    """Where it differs from the rule's; empty where all is done."""
    is_fault: bool = True
    """False for a figure that is only told: `data.lint.severity` weighs faults."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `report.json`, with title and fix of the rule."""
        rule = RULES[self.rule]
        known = {name: value for name, value in asdict(self).items() if name != "is_fault"}
        known |= {"rows": list(self.rows), "severity": self.severity or rule.severity}
        return known | {"title": rule.title, "fix": rule.fix if self.fix is None else self.fix}


@dataclass(frozen=True)
class Seen:
    """How many rows, and `source:line` of the first ones; of pairs, both places as `a = b`."""

    count: int = 0
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class PersonalData:
    """Rows that hold one type of personal data, and what was done about it."""

    rows: Seen
    action: str
    """report, redact, pseudonymise, mask, drop or error."""


@dataclass(frozen=True)
class LintContext:
    """What other steps of `trainer data` know about all rows together; whatever is left out is not reported.

    Args:
        rows_read: rows of all sources.
        rows_train: training rows, after everything that removes rows.
        rows_heldout: held-out rows.
        formats: source -> layout -> rows.
        telling: columns that are not used though their names say what they mean: `source: column (meaning)` -> rows.
        rejected: reason in rejected.jsonl -> rows; reasons of duplicates and leaks may be among them and are skipped.
        exact_duplicates: removed copies.
        near_duplicates: near copies, each as `removed = kept`.
        near_removed: whether they were removed, or are only reported.
        patterns: rows that differ in the slots of one pattern, the first two of each as `one = other`.
        pattern_sizes: rows of each pattern, the largest first.
        conflicts: rows whose prompt has another answer too, each as `one = other`.
        near_conflicts: rows whose prompt is nearly that of a row with another answer, each as `one = other`.
        cleaned: change by cleaning -> rows.
        unpinned: data sets of the hub without a revision -> commit that was read, "" where it is not known.
        same_prompt: rows that share their prompt with an earlier row.
        same_answer: rows that all have the most frequent answer.
        leaks: exact, near, prompt or ngram -> training rows that remain beside held-out or benchmark rows.
        missing_classes: classes that stand on one side of the split only.
        pii: type -> rows and action, types as in `data.pii`.
    """

    rows_read: int = 0
    rows_train: int = 0
    rows_heldout: int = 0
    formats: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    telling: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, Seen] = field(default_factory=dict)
    exact_duplicates: Seen = Seen()
    near_duplicates: Seen = Seen()
    near_removed: bool = True
    patterns: Seen = Seen()
    pattern_sizes: tuple[int, ...] = ()
    conflicts: Seen = Seen()
    near_conflicts: Seen = Seen()
    cleaned: Mapping[str, int] = field(default_factory=dict)
    unpinned: Mapping[str, str] = field(default_factory=dict)
    same_prompt: Seen = Seen()
    same_answer: Seen = Seen()
    leaks: Mapping[str, Seen] = field(default_factory=dict)
    missing_classes: tuple[str, ...] = ()
    pii: Mapping[str, PersonalData] = field(default_factory=dict)
