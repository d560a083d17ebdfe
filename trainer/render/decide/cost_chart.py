"""Draw the cost of a day over volume: every arm a line on logarithmic axes, the break-even marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from trainer.render.charts import Point, Role, Series, line_chart, value_table
from trainer.render.numbers import finite, write_number
from trainer.shapes.decision import CostCurve


@dataclass(frozen=True)
class CostChart:
    """The chart and some of its values, the head first; both empty where no arm has a cost."""

    chart: Markup
    table: list[list[str]]


def cost_chart(
    curve: CostCurve,
    *,
    tuned: str | None,
    prompted: str | None,
    break_even: float | None,
    volume: float | None,
    currency: str,
) -> CostChart:
    """Draw the cost of a day by volume.

    Args:
        curve: Costs of all arms.
        tuned: Arm drawn in the first colour.
        prompted: Arm drawn in the second; all others are quiet.
        break_even: Volume marked with a line, None for none.
        volume: Stated volume, marked too.
        currency: Unit of the y axis.
    """
    # what matters is drawn last
    order = sorted(curve["arms"], key=lambda name: {prompted: 1, tuned: 2}.get(name, 0))
    series = [
        Series(name, _points(curve["volumes"], curve["arms"][name]), _role(name, tuned, prompted)) for name in order
    ]
    lines = [line for line in series if line.points]
    if not lines:
        return CostChart(Markup(""), [])
    xs = [x for line in lines for x, _ in line.points]
    marks = {
        f"{label} {write_number(float(f'{mark:.3g}'))}": mark
        for label, mark in (("stated volume", volume), ("break-even", break_even))
        if mark is not None and min(xs) <= mark <= max(xs)
    }
    chart = line_chart(lines, x_label="requests a day", y_label=f"{currency} a day", log=True, marks=marks)
    return CostChart(chart, value_table(lines, x_label="requests a day"))


def _points(volumes: Sequence[float], costs: Sequence[float]) -> list[Point]:
    """Return what logarithmic axes can show."""
    pairs = ((finite(x), finite(y)) for x, y in zip(volumes, costs, strict=True))
    return [(x, y) for x, y in pairs if x is not None and y is not None and x > 0 and y > 0]


def _role(name: str, tuned: str | None, prompted: str | None) -> Role:
    return "first" if name == tuned else "second" if name == prompted else "rest"
