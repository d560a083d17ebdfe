"""Draw line charts by uPlot, and bars, histograms and strips as plain HTML that needs no script.

A line chart is a figure whose data attribute `static/page.js` reads; beside it stands a table of its values, which is
all that a page without scripts shows. Everything is escaped. Colours come from the page through CSS.

uPlot draws text at its own size at any width and takes 51 kB; measured against others for four charts of 600 points:
uPlot 79 kB a page, hand-written SVG 34 kB (its text shrinks to 5 px on a phone), matplotlib's SVG 110 kB (the same, and
one colour scheme), Chart.js 236 kB, Plotly 1,218 kB; Vega-Lite, 858 kB, is refused by a policy without `unsafe-eval`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import orjson
from markupsafe import Markup, escape

from trainer.render.numbers import write_number

Point = tuple[float, float]
Role = Literal["raw", "first", "second", "rest"]
TABLE_ROWS = 16
_LARGEST = 1e15


@dataclass(frozen=True)
class Series:
    """A line; `raw` is drawn faintly and has no entry in the legend."""

    label: str
    points: Sequence[Point]
    role: Role
    dots: bool = False


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: its label, and `text`, the written value."""

    label: str
    value: float
    text: str
    muted: bool = False


@dataclass(frozen=True)
class Mark:
    """A dot with whiskers on a strip; the whiskers are left out where a bound is None."""

    value: float
    low: float | None
    high: float | None
    role: Literal["first", "second"]


def smooth(points: Sequence[Point], *, radius: int) -> list[Point]:
    """Return the centred moving average over up to 2 * radius + 1 points; near an end the window shrinks evenly.

    Example:
        >>> smooth([(1, 9.0), (2, 3.0), (3, 6.0), (4, 0.0)], radius=1)
        [(1, 9.0), (2, 6.0), (3, 3.0), (4, 0.0)]
    """
    sums = list(accumulate((y for _, y in points), initial=0.0))
    result = []
    for index, (x, _) in enumerate(points):
        reach = min(radius, index, len(points) - 1 - index)
        result.append((x, (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)))
    return result


def thin(points: Sequence[Point], *, max_points: int = 600) -> list[Point]:
    """Keep the lowest and the highest point of each bucket, so that a long run stays small and spikes stay visible."""
    if len(points) <= max_points:
        return list(points)
    size = math.ceil(2 * len(points) / max_points)
    thinned: list[Point] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        extremes = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        thinned.extend(sorted(extremes))
    return thinned


def line_chart(
    series: Sequence[Series], *, x_label: str, y_label: str, log: bool = False, marks: Mapping[str, float] | None = None
) -> Markup:
    """Return a figure that the page's script draws; empty when no point is finite.

    Args:
        series: Lines; they need not share their x values.
        x_label: Name of the x axis.
        y_label: Name of the y axis.
        log: Both axes are logarithmic.
        marks: Vertical lines by their label.
    """
    drawn = _drawn(series)
    if not drawn:
        return Markup("")
    xs = sorted({x for _, points in drawn for x in points})
    chart = {
        "x": xs,
        "xLabel": x_label,
        "yLabel": y_label,
        "log": log,
        "marks": [{"label": label, "x": x} for label, x in (marks or {}).items()],
        "series": [
            {"label": line.label, "role": line.role, "dots": line.dots, "y": [_short(points.get(x)) for x in xs]}
            for line, points in drawn
        ],
    }
    data = escape(orjson.dumps(chart).decode())
    return Markup(
        f'<div class="chart" role="img" aria-label="{escape(y_label)} over {escape(x_label)}" '
        f'data-chart="{data}" hidden></div>'
    )


def value_table(series: Sequence[Series], *, x_label: str) -> list[list[str]]:
    """Return the head and some rows of the values, evenly spread, the first and the last x among them."""
    columns = _drawn([line for line in series if line.role != "raw"])
    xs = sorted({x for _, points in columns for x in points})
    step = max(1, math.ceil((len(xs) - 1) / (TABLE_ROWS - 1)))
    head = [x_label, *(line.label for line, _ in columns)]
    rows = sorted({*xs[::step], *xs[-1:]})
    return [head, *([write_number(x), *(write_number(_near(points, x)) for _, points in columns)] for x in rows)]


def histogram(edges: Sequence[int], counts: Sequence[int], *, unit: str) -> Markup:
    """Draw one bar a bin, each labelled with the values that it holds, as `8 to 15`; empty bins at the ends are cut.

    Args:
        edges: (bins + 1,), ascending; a bin holds its lower edge and not its upper one.
        counts: (bins,).
        unit: Of the edges.
    """
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return Markup("")
    bins = [(edges[index], edges[index + 1], counts[index]) for index in range(filled[0], filled[-1] + 1)]
    bars = [Bar(_range_text(low, high), count, f"{count:,}") for low, high, count in bins]
    return bar_chart(bars, head=(unit, "rows"))


def bar_chart(bars: Sequence[Bar], *, head: tuple[str, str] | None = None) -> Markup:
    """Draw horizontal bars from zero as a table: label, bar, written value; empty without bars."""
    if not bars:
        return Markup("")
    values = [bar.value if 0 <= bar.value <= _LARGEST else 0.0 for bar in bars]
    largest = max(values) or 1.0
    title = Markup("")
    if head:
        names = escape(head[0]), escape(head[1])
        title = Markup(f'<th scope="col">{names[0]}</th><td></td><th scope="col" class="count">{names[1]}</th>')
        title = Markup(f"<thead><tr>{title}</tr></thead>")
    lines = Markup("").join(_bar(bar, value / largest) for bar, value in zip(bars, values, strict=True))
    return Markup(f'<table class="bars">{title}<tbody>{lines}</tbody></table>')


def interval_strip(marks: Sequence[Mark]) -> Markup:
    """Draw dots with whiskers on one scale from 0 to 1, small enough for a table cell."""

    def percent(value: float) -> float:
        return 2 + 96 * min(max(value, 0.0), 1.0)  # a dot at an end stays inside

    parts = []
    for mark in marks:
        if mark.low is not None and mark.high is not None:
            left, right = percent(mark.low), percent(mark.high)
            parts.append(f'<i class="whisker {mark.role}" style="left:{left:.1f}%;width:{right - left:.1f}%"></i>')
        parts.append(f'<i class="dot {mark.role}" style="left:{percent(mark.value):.1f}%"></i>')
    return Markup(f'<span class="strip" role="img" aria-label="intervals">{"".join(parts)}</span>')


def _drawn(series: Sequence[Series]) -> list[tuple[Series, dict[float, float]]]:
    """Return the lines that have points which can be drawn, each with these points: x to y."""
    lines = [(line, dict(thin(_plottable(line.points)))) for line in series]
    return [(line, points) for line, points in lines if points]


def _plottable(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if abs(x) <= _LARGEST and abs(y) <= _LARGEST]


def _short(value: float | None) -> float | None:
    """Keep six digits: more are not seen and double the page."""
    return None if value is None else float(f"{value:.6g}")


def _near(points: Mapping[float, float], x: float) -> float | None:
    """Return the value at x, or the last one before it: series are logged at steps of their own."""
    xs = sorted(points)
    num_before = bisect_right(xs, x)
    return points[xs[num_before - 1]] if num_before else None


def _range_text(low: int, high: int) -> str:
    return f"{low:,}" if high - 1 <= low else f"{low:,} to {high - 1:,}"


def _bar(bar: Bar, share: float) -> Markup:
    muted = ' class="muted"' if bar.muted else ""
    drawn = f'<i style="width:{max(100 * share, 0.4):.1f}%"></i>' if bar.value > 0 else ""
    return Markup(
        f'<tr{muted}><th scope="row">{escape(bar.label)}</th><td class="bar">{drawn}</td>'
        f'<td class="count">{escape(bar.text)}</td></tr>'
    )
