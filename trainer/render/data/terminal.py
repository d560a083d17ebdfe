"""Show data/report.json on the terminal: what became of the rows, and the findings."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from trainer.render.data.changes import changes_of_findings, changes_of_rows
from trainer.render.data.findings import FindingRow, count_findings, finding_rows
from trainer.render.data.view import headline
from trainer.shapes.report import DataReport, LintFinding

STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
MAX_REFS = 3
MAX_CHANGES = 8


def summary_text(report: DataReport, previous: DataReport | None = None) -> str:
    """Return `data_summary` as lines of plain text."""
    return _as_text(data_summary(report, previous))


def findings_text(findings: Iterable[LintFinding]) -> str:
    """Return findings as lines of plain text."""
    return _as_text(_findings_table(finding_rows(findings)))


def _as_text(content: Group | Table) -> str:
    output = io.StringIO()
    Console(width=100, file=output, highlight=False).print(content)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).rstrip()


def data_summary(report: DataReport, previous: DataReport | None = None) -> Group:
    """Return what became of the rows, the findings with their fixes, and what changed since the previous version."""
    findings = finding_rows(report["lint"])
    parts: list[Text | Table] = [Text(headline(report))]
    if findings:
        parts += [Text(""), _findings_table(findings)]
    parts += [Text(""), Text(count_findings(findings))]
    if previous is not None:
        parts.append(Text(_change_line(report, previous), style="dim"))
    return Group(*parts)


def _findings_table(findings: Sequence[FindingRow]) -> Table:
    """Return findings as a table: how bad, rule, what and how to mend it, rows, the first of them."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    table.add_column("finding", ratio=1, overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("first", overflow="fold", max_width=34)
    for finding in findings:
        style = STYLES[finding.severity]
        table.add_row(
            Text(finding.severity, style=style),
            Text(finding.rule, style=style),
            _description(finding),
            Text(finding.rows + (f"\n{finding.share}" if finding.share else "")),
            Text(", ".join(finding.first[:MAX_REFS]), style="dim"),
        )
    return table


def _description(finding: FindingRow) -> Text:
    text = Text(finding.title)
    if finding.detail:
        text.append(f": {finding.detail}")
    if finding.fix:
        text.append(f"\nfix: {finding.fix}", style="dim")
    return text


def _change_line(report: DataReport, previous: DataReport) -> str:
    changes = [*changes_of_rows(previous, report), *changes_of_findings(previous, report)]
    if not changes:
        return "same numbers as the previous version of the data"
    listed = [f"{change.name} {change.written}" for change in changes[:MAX_CHANGES]]
    more = [f"and {len(changes) - MAX_CHANGES} more"] if len(changes) > MAX_CHANGES else []
    return "since the previous version: " + "; ".join(listed + more)
