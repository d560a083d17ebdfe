"""Draws the cost of a day over volume: every arm a line on logarithmic axes, the break-even marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from trainer.render.charts import Point, Role, Series, line_chart, value_table
from trainer.render.format import finite, write_number


@dataclass(frozen=True)
class CostPlot:
    """The chart and some of its values, the head first; both empty where no arm has a cost."""

    chart: Markup
    table: list[list[str]]


def cost_plot(
    curve: Mapping[str, Any],
    *,
    tuned: str | None,
    prompted: str | None,
    break_even: float | None,
    volume: float | None,
    currency: str,
) -> CostPlot:
    """Draw the cost of a day by volume.

    Args:
        curve: {"volumes": [requests a day], "arms": {ARM: [cost a day]}}, ascending.
        tuned: arm drawn in the first colour.
        prompted: arm drawn in the second; all others are quiet.
        break_even: volume marked with a line, None for none.
        volume: stated volume, marked too.
        currency: unit of the y axis.
    """
    costs = {name: _points(curve["volumes"], values) for name, values in (curve.get("arms") or {}).items()}
    order = sorted(costs, key=lambda name: {prompted: 1, tuned: 2}.get(name, 0))  # what matters is drawn last
    lines = [Series(name, costs[name], _role(name, tuned, prompted)) for name in order if costs[name]]
    if not lines:
        return CostPlot(Markup(""), [])
    xs = [x for line in lines for x, _ in line.points]
    marks = {
        f"{label} {write_number(float(f'{at:.3g}'))}": at
        for label, at in (("stated volume", volume), ("break-even", break_even))
        if at is not None and min(xs) <= at <= max(xs)
    }
    chart = line_chart(lines, x_label="requests a day", y_label=f"{currency} a day", log=True, marks=marks)
    return CostPlot(chart, value_table(lines, x_label="requests a day"))


def _points(volumes: Sequence[Any], costs: Sequence[Any]) -> list[Point]:
    """Return what logarithmic axes can show."""
    pairs = ((finite(x), finite(y)) for x, y in zip(volumes, costs, strict=True))
    return [(x, y) for x, y in pairs if x is not None and y is not None and x > 0 and y > 0]


def _role(name: str, tuned: str | None, prompted: str | None) -> Role:
    return "first" if name == tuned else "second" if name == prompted else "rest"
