"""Tables and lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from trainer.render.arms import arm_table, suite_tables
from trainer.render.damage import constant_row, damage_summary, damages
from trainer.render.metrics import (
    OPERATIONAL,
    MetricDisplay,
    Score,
    ScoreRow,
    score_rows,
    write_difference,
    write_interval,
    write_value,
)

_STYLE = {"better": "green", "worse": "red", "unclear": ""}


def scores_table(scores: Mapping[str, Any]) -> Table:
    """Return a table of eval/scores.json: metrics as rows; base, tuned and difference as columns, intervals dim.

    Below the metrics stands what one constant answer would reach, and what tuning broke.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("metric", overflow="fold")
    for name in ("base", "tuned", "difference"):
        table.add_column(name, justify="right")
    for row in score_rows(scores):
        table.add_row(*_cells(row.metric.title, row))
    _add_constant(table, scores)
    broken = damages(scores)
    if broken:
        table.add_row(Text("\nbroken by tuning", style="bold red"))
    for damage in broken:
        if damage.note:
            table.add_row(Text(f"{damage.title}: {damage.note}"))
        else:
            table.add_row(*_cells(damage.title, damage.row))
    return table


def damage_line(scores: Mapping[str, Any]) -> Text:
    """Return how much tuning broke, what was looked at, or that nothing was."""
    return Text(f"{damage_summary(scores)}.", style="bold red" if damages(scores) else "dim")


def _add_constant(table: Table, scores: Mapping[str, Any]) -> None:
    row = constant_row(scores)
    if row is not None:
        gain = f"tuned {write_difference(row.metric, row.difference)}" if row.difference is not None else ""
        value = write_value(row.metric, row.constant.value)
        table.add_row(Text(f"always answering “{row.text}”: {value}"), "", "", gain)


def _cells(title: str, row: ScoreRow) -> tuple[Text, Text, Text, Text]:
    return Text(title), _score(row.metric, row.base), _score(row.metric, row.tuned), _difference(row)


def arms_table(scores: Mapping[str, Any]) -> Table:
    """Return a table with one line an arm: the first quality metrics with dim intervals, tokens and latency."""
    found = arm_table(scores, max_quality=2)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("arm", overflow="fold")
    for metric in found.metrics:
        table.add_column(metric.title, justify="right")
    for arm, entries in found.lines:
        cells = (
            Text(write_value(metric, entry.value if entry else None))
            if metric.key in OPERATIONAL
            else _score(metric, entry)
            for metric, entry in zip(found.metrics, entries, strict=True)
        )
        table.add_row(arm, *cells)
    return table


def suites_table(scores: Mapping[str, Any]) -> Table:
    """Return a table of the suites in eval/scores.json: metrics as rows, arms as columns."""
    tables = suite_tables(scores)
    arms = list(dict.fromkeys(arm for found in tables for arm in found.arms))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("suite", "metric"):
        table.add_column(name, overflow="fold")
    for name in arms:
        table.add_column(name, justify="right")
    for found in tables:
        for place, (metric, entries) in enumerate(found.lines):
            cells = (_score(metric, entry) for entry in entries)
            table.add_row(found.name if place == 0 else "", metric.title, *cells)
    return table


def _score(metric: MetricDisplay, score: Score | None) -> Text:
    interval = write_interval(metric, score.low, score.high) if score else ""
    return _with_interval(Text(write_value(metric, score.value if score else None)), interval)


def _difference(row: ScoreRow) -> Text:
    text = Text(write_difference(row.metric, row.difference), style=_STYLE[row.standing])
    return _with_interval(text, write_interval(row.metric, row.low, row.high, signed=True))


def _with_interval(text: Text, interval: str) -> Text:
    return Text.assemble(text, (f"  {interval}", "dim")) if interval else text
