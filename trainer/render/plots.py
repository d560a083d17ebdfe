"""Small SVG charts as text, for a page that inlines them.

Colours and type come from the page through CSS classes, so that a chart follows light and dark. Every label is escaped.
Points that are not finite are left out; a constant series or a single point gets an axis of its own width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from markupsafe import Markup, escape

from trainer.render.format import MINUS

Point = tuple[float, float]
WIDTH, HEIGHT = 820, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 96, 26, 44
_LARGEST = 1e15


@dataclass(frozen=True)
class Series:
    """A line: its label stands at its last point, "" for none; `role` is its CSS class."""

    label: str
    points: Sequence[Point]
    role: Literal["raw", "first", "second"]
    dots: bool = False


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: label to its left, `text` (the written value) to its right."""

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


def nice_ticks(low: float, high: float, *, count: int = 5, whole: bool = False) -> list[float]:
    """Return round tick values that lie in [low, high], about `count` of them, at steps of 1, 2 or 5 times 10^k.

    Example: nice_ticks(0.13, 1.9) is [0.5, 1.0, 1.5].
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def smooth(points: Sequence[Point], *, radius: int) -> list[Point]:
    """Return the centred moving average over up to 2 * radius + 1 points; near an end the window shrinks evenly."""
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
    kept: list[Point] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        extremes = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        kept.extend(sorted(extremes))
    return kept


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str, whole_x: bool = True) -> Markup:
    """Draw lines with axes, round ticks and a label at the end of each line; empty when no point is finite."""
    drawn = [(line, thin(_plottable(line.points))) for line in series]
    points = [point for _, kept in drawn for point in kept]
    if not points:
        return Markup("")
    x_low, x_high = _range([x for x, _ in points], pad=0.0)
    y_low, y_high = _range([y for _, y in points], pad=0.06)
    x_at = _scale(x_low, x_high, _LEFT, WIDTH - _RIGHT)
    y_at = _scale(y_low, y_high, HEIGHT - _BOTTOM, _TOP)
    parts = [
        *_y_axis(nice_ticks(y_low, y_high, count=6), y_at),
        *_x_axis(nice_ticks(x_low, x_high, whole=whole_x), x_at),
    ]
    parts += [_text(_LEFT, _TOP - 12, y_label, "axis"), _text(WIDTH - _RIGHT, HEIGHT - 6, x_label, "axis", "end")]
    for line, kept in drawn:
        parts.append(_line(line, [(x_at(x), y_at(y)) for x, y in kept]))
    ends = [(line, x_at(kept[-1][0]), y_at(kept[-1][1])) for line, kept in drawn if line.label and kept]
    parts += _end_labels(ends)
    return _svg(parts, HEIGHT, f"{y_label} over {x_label}")


def histogram(edges: Sequence[float], counts: Sequence[int], *, x_label: str, y_label: str) -> Markup:
    """Draw counts between edges, len(edges) = len(counts) + 1.

    Bars are equally wide whatever the edges, which stand as labels below them: bins that double stay readable.
    """
    kept = [max(count, 0) for count in counts if math.isfinite(count)]
    if not any(kept):
        return Markup("")
    x_at = _scale(0, len(kept), _LEFT, WIDTH - 28)
    y_at = _scale(0, max(kept) * 1.04, HEIGHT - _BOTTOM, _TOP)
    parts = [*_y_axis(nice_ticks(0, max(kept) * 1.04, count=4, whole=True), y_at, right=WIDTH - 28)]
    floor = HEIGHT - _BOTTOM
    for index, count in enumerate(kept):
        left, top = x_at(index), y_at(count)
        size = f'width="{x_at(index + 1) - left - 1:.1f}" height="{floor - top:.1f}"'
        parts.append(Markup(f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" {size}/>'))
    every = math.ceil(len(edges) / 12)
    for index, edge in enumerate(edges):
        if index % every == 0 and index <= len(kept) and math.isfinite(edge):
            parts.append(_text(x_at(index), floor + 18, _tick_text(edge, 1.0), "tick", "middle"))
    parts += [_text(_LEFT, _TOP - 12, y_label, "axis"), _text(WIDTH - 28, HEIGHT - 6, x_label, "axis", "end")]
    return _svg(parts, HEIGHT, f"{y_label} by {x_label}")


def bar_chart(bars: Sequence[Bar]) -> Markup:
    """Draw horizontal bars from zero, one line each, written value at the end of the bar; empty without bars."""
    if not bars:
        return Markup("")
    left = min(190.0, 28 + 7.0 * max(len(bar.label) for bar in bars))
    values = [bar.value if 0 <= bar.value <= _LARGEST else 0.0 for bar in bars]
    x_at = _scale(0, max(values) or 1.0, left, WIDTH - 150)
    parts = []
    for index, (bar, value) in enumerate(zip(bars, values, strict=True)):
        middle, muted = 16 + index * 28, " muted" if bar.muted else ""
        width = max(x_at(value) - left, 1.0)
        parts.append(_text(0, middle + 4, _shorten(bar.label, 26), f"label{muted}"))
        if value > 0:
            parts.append(
                Markup(f'<rect class="bar{muted}" x="{left:.1f}" y="{middle - 8}" width="{width:.1f}" height="16"/>')
            )
        parts.append(_text((left + width + 8) if value > 0 else left, middle + 4, bar.text, f"value{muted}"))
    return _svg(parts, len(bars) * 28 + 4, "bars")


def interval_strip(marks: Sequence[Mark], *, low: float = 0.0, high: float = 1.0) -> Markup:
    """Draw dots with whiskers on one scale from `low` to `high`, small enough for a table cell."""
    x_at = _scale(low, high, 6, 174)
    parts = [Markup('<line class="grid" x1="6" x2="174" y1="14" y2="14"/>')]
    for index, mark in enumerate(marks):
        y = 9 + 10 * index if len(marks) > 1 else 14
        if mark.low is not None and mark.high is not None:
            ends = f'x1="{x_at(_clip(mark.low, low, high)):.1f}" x2="{x_at(_clip(mark.high, low, high)):.1f}"'
            parts.append(Markup(f'<line class="whisker {mark.role}" {ends} y1="{y}" y2="{y}"/>'))
        parts.append(
            Markup(f'<circle class="dot {mark.role}" cx="{x_at(_clip(mark.value, low, high)):.1f}" cy="{y}" r="2.5"/>')
        )
    return Markup(f'<svg class="strip" viewBox="0 0 180 28" role="img" aria-label="intervals">{"".join(parts)}</svg>')


def _plottable(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if abs(x) <= _LARGEST and abs(y) <= _LARGEST]


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _range(values: Sequence[float], *, pad: float) -> tuple[float, float]:
    """Return the range with `pad` of its width on both sides; one value gets a range around it."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        spread = abs(low) * 0.05 or 0.5
        return low - spread, high + spread
    return low - pad * (high - low), high + pad * (high - low)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _y_axis(ticks: Sequence[float], y_at: Callable[[float], float], *, right: float = WIDTH - _RIGHT) -> list[Markup]:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(ticks[0]) / 100 if ticks else 1.0
    parts = []
    for tick in ticks:
        y = y_at(tick)
        parts.append(Markup(f'<line class="grid" x1="{_LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'))
        parts.append(_text(_LEFT - 8, y + 4, _tick_text(tick, step), "tick", "end"))
    return parts


def _x_axis(ticks: Sequence[float], x_at: Callable[[float], float]) -> list[Markup]:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    floor = HEIGHT - _BOTTOM
    parts = [Markup(f'<line class="base" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')]
    for tick in ticks:
        x = x_at(tick)
        parts.append(Markup(f'<line class="base" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>'))
        parts.append(_text(x, floor + 18, _tick_text(tick, step), "tick", "middle"))
    return parts


def _line(line: Series, at: Sequence[Point]) -> Markup:
    """Draw one line; a single point, which makes no line, is a dot."""
    if not at:
        return Markup("")
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    dots = at if line.dots or len(at) == 1 else []
    circles = "".join(f'<circle class="dot {line.role}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in dots)
    return Markup(f'<polyline class="line {line.role}" points="{path}"/>{circles}')


def _end_labels(ends: Sequence[tuple[Series, float, float]]) -> list[Markup]:
    """Write each line's label at its end, pushed down where two would overlap."""
    parts, lowest = [], -math.inf
    for line, x, y in sorted(ends, key=lambda end: end[2]):
        lowest = max(y, lowest + 15)
        parts.append(_text(x + 8, lowest + 4, line.label, f"name {line.role}"))
    return parts


def _tick_text(value: float, step: float) -> str:
    """Write a tick with the decimals its step needs; thousands as 12k, millions as 3M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):.3g}{suffix}".replace("-", MINUS)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return (f"{value:.{decimals}f}" if decimals <= 6 else f"{value:.2g}").replace("-", MINUS)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(x: float, y: float, text: str, role: str, anchor: str = "start") -> Markup:
    return Markup(f'<text class="{role}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')


def _svg(parts: Sequence[Markup], height: float, title: str) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{body}</svg>')
