"""The table that closes `trainer data`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from trainer.render.data import FindingRow, finding_rows, headline, verdict_of
from trainer.render.difference import changes_of_findings, changes_of_rows

STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
MAX_PLACES = 3
MAX_CHANGES = 8


def summary_text(report: Mapping[str, Any], previous: Mapping[str, Any] | None = None) -> str:
    """Return `data_summary` as lines of plain text."""
    return _as_text(data_summary(report, previous))


def findings_text(report: Mapping[str, Any]) -> str:
    """Return the findings of a report as lines of plain text."""
    return _as_text(findings_table(finding_rows(report)))


def _as_text(shown: Group | Table) -> str:
    console = Console(width=100, file=io.StringIO(), highlight=False)
    console.print(shown)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).rstrip()  # type: ignore[attr-defined]


def data_summary(report: Mapping[str, Any], previous: Mapping[str, Any] | None = None) -> Group:
    """Return what became of the rows, the findings with their fixes, and what changed since the previous version."""
    findings = finding_rows(report)
    parts: list[Text | Table] = [Text(headline(report))]
    if findings:
        parts += [Text(""), findings_table(findings)]
    if "lint" in report:
        parts += [Text(""), Text(verdict_of(findings))]
    if previous is not None:
        parts.append(Text(_change_line(report, previous), style="dim"))
    return Group(*parts)


def findings_table(findings: list[FindingRow]) -> Table:
    """Return the findings as a table: how bad, rule, what and how to mend it, rows, the first places."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    table.add_column("finding", ratio=1, overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("first", overflow="fold", max_width=34)
    for finding in findings:
        style = STYLES.get(finding.severity, "")
        places = ", ".join(finding.first[:MAX_PLACES])
        table.add_row(
            Text(finding.severity, style=style),
            Text(finding.rule, style=style),
            _what(finding),
            Text(finding.rows + (f"\n{finding.share}" if finding.share else "")),
            Text(places, style="dim"),
        )
    return table


def _what(finding: FindingRow) -> Text:
    text = Text(finding.title)
    if finding.detail:
        text.append(f": {finding.detail}")
    if finding.fix:
        text.append(f"\nfix: {finding.fix}", style="dim")
    return text


def _change_line(report: Mapping[str, Any], previous: Mapping[str, Any]) -> str:
    changes = [*changes_of_rows(previous, report), *changes_of_findings(previous, report)]
    if not changes:
        return "same numbers as the previous version of the data"
    said = [f"{change.name} {change.written}" for change in changes[:MAX_CHANGES]]
    more = [f"and {len(changes) - MAX_CHANGES} more"] if len(changes) > MAX_CHANGES else []
    return "since the previous version: " + "; ".join(said + more)
