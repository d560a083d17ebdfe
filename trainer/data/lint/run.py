"""Run the linter: take in the facts of rows one at a time, return findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from trainer.data.lint.facts.row import RowFacts
from trainer.data.lint.finding import Finding, LintContext
from trainer.data.lint.findings.balance import balance_findings, classes
from trainer.data.lint.findings.quality import quality_findings
from trainer.data.lint.findings.upstream import upstream_findings
from trainer.data.lint.frequent import by_count
from trainer.data.lint.rules import RULES
from trainer.data.lint.tally import Ints, RowTally
from trainer.data.pii.hide import masked_names
from trainer.data.records.reasons import render_detail
from trainer.errors import DataError
from trainer.recipe.lint import Lint
from trainer.shapes.report import LengthHistogram, LintFinding, RowStatistics, Severity

RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
MAX_STATS = 20
EXCERPT_CHARS = 120


class Linter:
    """Lints a stream of rows. Their order decides only the rows that are listed.

    Args:
        section: `data.lint`.
        mask: hides personal data in quoted texts (labels, openings, system prompts).

    Raises:
        DataError: `data.lint` names a rule that does not exist.
    """

    def __init__(self, section: Lint, *, mask: Callable[[str], str] = str) -> None:
        if unknown := sorted({*section.ignore, *section.severity} - set(RULES)):
            raise DataError(f"data.lint: no rule {unknown[0]}", hint=f"the rules are {', '.join(RULES)}")
        self.section, self.mask = section, mask
        self.tally = RowTally(section.max_rows_listed)

    def add(self, ref: str, facts: RowFacts) -> None:
        """Take in one row; `ref` is its `source:line`."""
        self.tally.add(ref, facts)

    def finish(self, context: LintContext) -> list[Finding]:
        """Return the findings, errors first, then by rule."""
        findings = [*upstream_findings(context, self.section), *balance_findings(self.tally, context, self.section)]
        if len(self.tally):
            findings += quality_findings(self.tally, self.section)
        return settled(findings, self.section, mask=self.mask)

    def stats(self) -> RowStatistics:
        """Return the distributions for the report."""
        tally = self.tally
        systems = [(tally.system_texts[key], rows) for key, rows in by_count(tally.systems)[:MAX_STATS] if key]
        return {
            "prompt_chars": histogram(tally.lengths("prompt")),
            "answer_chars": histogram(tally.lengths("answer")),
            "turns": {str(turns): rows for turns, rows in sorted(tally.turns.items()) if turns},
            "languages": dict(by_count(tally.languages)[:MAX_STATS]),
            "classes": dict(masked_names(dict([*classes(tally).items()][:MAX_STATS]), self._masked)),
            "system_prompts": [{"text": self._masked(text)[:EXCERPT_CHARS], "rows": rows} for text, rows in systems],
            "worst_rows": [
                {"row": ref, "rules": list(rules)} for _, _, ref, rules in sorted(tally.worst, reverse=True)
            ],
            "traits": {
                name: tally.counts[name] for name in ("refusal", "clarification", "tools") if tally.counts[name]
            },
        }

    def _masked(self, text: str) -> str:
        return self.mask(self.tally.masked_texts.get(text, text))


def settled(findings: Iterable[Finding], section: Lint, *, mask: Callable[[str], str] = str) -> list[Finding]:
    """Apply `ignore`, `severity` and `max_rows_listed` of the recipe; errors first, then by rule."""

    def weighed(finding: Finding) -> Finding:
        listed = finding.rows[: section.max_rows_listed]
        severity = section.severity.get(finding.rule, finding.severity) if finding.is_fault else finding.severity
        return replace(finding, detail=render_detail(finding.detail, mask), rows=listed, severity=severity)

    reported = [weighed(finding) for finding in findings if finding.rule not in section.ignore]
    return sorted(reported, key=lambda finding: (RANK[severity_of(finding)], finding.rule))


def severity_of(finding: Finding) -> Severity:
    """Return the severity of a finding."""
    return finding.severity or RULES[finding.rule].severity


def raise_errors(findings: Sequence[LintFinding]) -> None:
    """End the stage if a finding of the report is an error.

    Raises:
        DataError: Naming each of them, with the fix of the first.
    """
    errors = [finding for finding in findings if finding["severity"] == "error"]
    if errors:
        raise DataError(
            "\n".join(f"{finding['rule']}: {finding['title']}: {finding['detail']}" for finding in errors),
            hint="; or ".join(
                [*filter(None, [errors[0]["fix"]]), f"set data.lint.severity: {{{errors[0]['rule']}: warning}}"]
            ),
        )


def histogram(lengths: Ints) -> LengthHistogram:
    """Count lengths in bins whose edges double, with quantiles at 0, 5, 50, 95 and 100 %.

    Args:
        lengths: (rows,) characters.

    Example:
        >>> histogram(np.array([3, 9, 10]))["edges"], histogram(np.array([3, 9, 10]))["counts"]
        ([0, 8, 16], [1, 2])
    """
    if not len(lengths):
        return {}
    longest = int(lengths.max())
    edges = [0, 8]
    while edges[-1] <= longest:
        edges.append(2 * edges[-1])
    counts, _ = np.histogram(lengths, bins=edges)
    marks = np.quantile(lengths, [0, 0.05, 0.5, 0.95, 1], method="nearest")
    return {"edges": edges, "counts": counts.tolist(), "quantiles": [int(mark) for mark in marks]}
