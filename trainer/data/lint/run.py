"""The linter: facts of rows in, one at a time, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from trainer.data.lint.facts.row import RowFacts
from trainer.data.lint.finding import Finding, LintContext
from trainer.data.lint.findings.balance import balance_findings, classes
from trainer.data.lint.findings.quality import quality_findings
from trainer.data.lint.findings.upstream import given_findings
from trainer.data.lint.rules import RULES
from trainer.data.lint.tally import Ints, RowTally
from trainer.data.pii.hide import masked_names
from trainer.data.records.reasons import told
from trainer.errors import DataError
from trainer.recipe.lint import Lint, Severity

RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
MAX_STATS = 20
EXCERPT_CHARS = 120


class Linter:
    """Findings about a stream of rows; the order of the rows decides only which of them are named.

    Args:
        section: `data.lint`.
        mask: hides personal data in the few texts that are shown (labels, openings, system prompts).

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
        found = [*given_findings(context, self.section), *balance_findings(self.tally, context, self.section)]
        if len(self.tally):
            found += quality_findings(self.tally, self.section)
        return settled(found, self.section, mask=self.mask)

    def stats(self) -> dict[str, Any]:
        """Return the distributions that the report draws."""
        tally = self.tally
        return {
            "prompt_chars": histogram(tally.lengths("prompt")),
            "answer_chars": histogram(tally.lengths("answer")),
            "turns": {str(turns): rows for turns, rows in sorted(tally.turns.items()) if turns},
            "languages": dict(sorted(tally.languages.items(), key=lambda item: (-item[1], item[0]))[:MAX_STATS]),
            "classes": dict(masked_names(dict([*classes(tally).items()][:MAX_STATS]), self._shown)),
            "system_prompts": [
                {"text": self._shown(tally.system_texts[key])[:EXCERPT_CHARS], "rows": rows}
                for key, rows in sorted(tally.systems.items(), key=lambda item: (-item[1], item[0]))[:MAX_STATS]
                if key
            ],
            "worst_rows": [
                {"row": ref, "rules": list(rules)} for _, _, ref, rules in sorted(tally.worst, reverse=True)
            ],
            "traits": {
                name: tally.counts[name] for name in ("refusal", "clarification", "tools") if tally.counts[name]
            },
        }

    def _shown(self, text: str) -> str:
        return self.mask(self.tally.shown.get(text, text))


def settled(found: Iterable[Finding], section: Lint, *, mask: Callable[[str], str] = str) -> list[Finding]:
    """Leave out the rules that the recipe ignores and weigh the others as it says; errors first, then by rule."""

    def weighed(finding: Finding) -> Finding:
        listed = finding.rows[: section.max_rows_listed]
        severity = section.severity.get(finding.rule, finding.severity) if finding.is_fault else finding.severity
        return replace(finding, detail=told(finding.detail, mask), rows=listed, severity=severity)

    kept = [weighed(finding) for finding in found if finding.rule not in section.ignore]
    return sorted(kept, key=lambda finding: (RANK[severity_of(finding)], finding.rule))


def severity_of(finding: Finding) -> Severity:
    """Return how bad a finding is."""
    return finding.severity or RULES[finding.rule].severity


def raise_errors(findings: list[dict[str, Any]]) -> None:
    """End the stage where a finding, as the report holds it, is an error.

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


def histogram(lengths: Ints) -> dict[str, list[int]]:
    """Count lengths in bins whose edges double, 0 to 8 first, with quartiles and extremes."""
    if not len(lengths):
        return {}
    longest = int(lengths.max())
    edges = [0, 8]
    while edges[-1] <= longest:
        edges.append(2 * edges[-1])
    counts, _ = np.histogram(lengths, bins=edges)
    marks = np.quantile(lengths, [0, 0.05, 0.5, 0.95, 1], method="nearest")
    return {"edges": edges, "counts": counts.tolist(), "quantiles": [int(mark) for mark in marks]}
