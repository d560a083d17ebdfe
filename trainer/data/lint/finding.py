"""Define a finding of the linter, and the counts that other steps hand to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer.data.lint.rules import RULES
from trainer.shapes.report import LintFinding, Severity


@dataclass(frozen=True)
class Finding:
    """A rule that the rows break."""

    rule: str
    detail: str
    """Addition to title and count. Of texts, it quotes only labels and openings that many rows share."""
    count: int = 0
    """Rows concerned."""
    share: float | None = None
    """`count` over the rows that could be concerned, 0 to 1."""
    rows: tuple[str, ...] = ()
    """`source:line` of the first of them."""
    severity: Severity | None = None
    """None for the rule's."""
    fix: str | None = None
    """None for the rule's; empty where nothing is left to do."""
    is_fault: bool = True
    """False for a mere figure, which `data.lint.severity` does not weigh."""

    def to_json(self) -> LintFinding:
        """Return the entry of `report.json`, with title and fix of the rule."""
        rule = RULES[self.rule]
        return {
            "rule": self.rule,
            "severity": self.severity or rule.severity,
            "title": rule.title,
            "detail": self.detail,
            "count": self.count,
            "share": self.share,
            "rows": list(self.rows),
            "fix": rule.fix if self.fix is None else self.fix,
        }


@dataclass(frozen=True)
class CountedRows:
    """Number of rows, and `source:line` of the first ones; of pairs, both as `a = b`."""

    count: int = 0
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class PersonalData:
    """Rows with one type of personal data."""

    rows: CountedRows
    action: str
    """report, redact, pseudonymise, mask, drop or error."""


@dataclass(frozen=True)
class LintContext:
    """Counts of the other steps of `trainer data` over all rows. Empty ones are not reported.

    Args:
        rows_read: rows of all sources.
        rows_train: training rows left.
        rows_heldout: held-out rows.
        formats: source -> layout -> rows.
        unused_columns: `source: column (meaning)` -> rows, for unused columns with a telling name.
        rejected: reason in rejected.jsonl -> rows. Duplicates and leaks among them are skipped.
        exact_duplicates: removed copies.
        near_duplicates: near copies, each as `removed = kept`.
        near_removed: near copies are removed, else only reported.
        patterns: rows that differ in the slots of one pattern, the first two of each as `a = b`.
        pattern_sizes: rows of each pattern, the largest first.
        conflicts: rows with another answer to the same prompt elsewhere, each as `a = b`.
        near_conflicts: the same of nearly the same prompt.
        cleaned: change by cleaning -> rows.
        unpinned: data set of the hub without a revision -> commit that was read, "" for unknown.
        same_prompt: rows with the prompt of an earlier row.
        same_answer: rows with the most frequent answer.
        leaks: exact, near, prompt or ngram -> training rows that remain beside held-out or benchmark rows.
        missing_classes: classes on one side of the split only.
        pii: type of personal data -> rows and action.
    """

    rows_read: int = 0
    rows_train: int = 0
    rows_heldout: int = 0
    formats: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unused_columns: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, CountedRows] = field(default_factory=dict)
    exact_duplicates: CountedRows = CountedRows()
    near_duplicates: CountedRows = CountedRows()
    near_removed: bool = True
    patterns: CountedRows = CountedRows()
    pattern_sizes: tuple[int, ...] = ()
    conflicts: CountedRows = CountedRows()
    near_conflicts: CountedRows = CountedRows()
    cleaned: Mapping[str, int] = field(default_factory=dict)
    unpinned: Mapping[str, str] = field(default_factory=dict)
    same_prompt: CountedRows = CountedRows()
    same_answer: CountedRows = CountedRows()
    leaks: Mapping[str, CountedRows] = field(default_factory=dict)
    missing_classes: tuple[str, ...] = ()
    pii: Mapping[str, PersonalData] = field(default_factory=dict)
