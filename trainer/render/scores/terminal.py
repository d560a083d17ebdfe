"""Show eval/scores.json on the terminal: base beside tuned, all arms, and suites."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from trainer.render.metrics import OPERATIONAL, MetricDisplay, write_difference, write_interval, write_value
from trainer.render.scores.arms import arm_table, suite_tables
from trainer.render.scores.damage import constant_row, damage_summary, damages
from trainer.render.scores.rows import ScoreRow, score_rows
from trainer.shapes.scores import Score, Scores, SuiteScores

_STYLE = {"better": "green", "worse": "red", "unclear": ""}


def scores_table(scores: Scores) -> Table:
    """Return a table with metrics as rows; base, tuned and difference as columns, intervals dim.

    Below the metrics stands what one constant answer would reach, and what tuning broke.
    """
    table = _table(["metric"], ["base", "tuned", "difference"])
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


def damage_line(scores: Scores) -> Text:
    """Return how much tuning broke, what was looked at, or that nothing was."""
    return Text(f"{damage_summary(scores)}.", style="bold red" if damages(scores) else "dim")


def arms_table(scores: Scores) -> Table:
    """Return a table with one line an arm: the first quality metrics with dim intervals, tokens and latency."""
    arms = arm_table(scores, max_quality=2)
    table = _table(["arm"], [metric.title for metric in arms.metrics])
    for arm, line in arms.lines:
        cells = (_arm_cell(metric, score) for metric, score in zip(arms.metrics, line, strict=True))
        table.add_row(arm, *cells)
    return table


def suites_table(suites: Mapping[str, SuiteScores]) -> Table:
    """Return a table of suites: metrics as rows, arms as columns."""
    tables = suite_tables(suites)
    table = _table(["suite", "metric"], list(dict.fromkeys(arm for suite in tables for arm in suite.arms)))
    for suite in tables:
        for index, (metric, scores) in enumerate(suite.lines):
            cells = (_score_cell(metric, score) for score in scores)
            table.add_row("" if index else suite.name, metric.title, *cells)
    return table


def _table(names: list[str], numbers: list[str]) -> Table:
    """Return a table without lines: columns of text, then columns of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _add_constant(table: Table, scores: Scores) -> None:
    row = constant_row(scores)
    if row is not None:
        gain = f"tuned {write_difference(row.metric, row.difference)}" if row.difference is not None else ""
        table.add_row(Text(f"always answering “{row.text}”: {write_value(row.metric, row.value)}"), "", "", gain)


def _cells(title: str, row: ScoreRow) -> tuple[Text, Text, Text, Text]:
    difference = Text(write_difference(row.metric, row.difference), style=_STYLE[row.standing])
    interval = write_interval(row.metric, row.low, row.high, signed=True)
    scores = _score_cell(row.metric, row.base), _score_cell(row.metric, row.tuned)
    return Text(title), *scores, _with_dim(difference, interval)


def _arm_cell(metric: MetricDisplay, score: Score | None) -> Text:
    if metric.key in OPERATIONAL:
        return Text(write_value(metric, score["value"] if score else None))
    return _score_cell(metric, score)


def _score_cell(metric: MetricDisplay, score: Score | None) -> Text:
    interval = write_interval(metric, score["low"], score["high"]) if score else ""
    return _with_dim(Text(write_value(metric, score["value"] if score else None)), interval)


def _with_dim(text: Text, interval: str) -> Text:
    return Text.assemble(text, (f"  {interval}", "dim")) if interval else text
