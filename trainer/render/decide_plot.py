"""Cost of a day over volume on log axes, as an SVG of text: every arm a line, the break-even marked.

Colours come from the page through CSS classes, so that the chart follows light and dark. Every label is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from trainer.render.format import finite
from trainer.render.plots import WIDTH, Point

HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 40, 46
_LABEL_STEP = 16
_MAX_LABEL = 22

At = Callable[[float], float]


def cost_plot(
    curve: Mapping[str, Any],
    *,
    tuned: str | None,
    prompted: str | None,
    break_even: float | None,
    volume: float | None,
    currency: str,
) -> Markup:
    """Draw the cost of a day by volume; empty where no arm has a cost.

    Args:
        curve: {"volumes": [requests a day], "arms": {ARM: [cost a day]}}, ascending.
        tuned: arm drawn in the first colour.
        prompted: arm drawn in the second; all others are quiet.
        break_even: volume marked with a line, None for none.
        volume: stated volume, marked too.
        currency: unit of the y axis.
    """
    lines = {name: _points(curve["volumes"], costs) for name, costs in (curve.get("arms") or {}).items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return Markup("")
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_at = _log_scale(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    y_low, y_high = min(ys) / 1.3, max(ys) * 1.3
    y_at = _log_scale(y_low, y_high, HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(min(xs), max(xs), y_low, y_high, x_at, y_at, currency)]
    parts += _marks(x_at, min(xs), max(xs), break_even, volume)
    order = sorted(lines, key=lambda name: {prompted: 1, tuned: 2}.get(name, 0))  # what matters is drawn last
    roles = {name: _role(name, tuned, prompted) for name in order}
    parts += [_line(lines[name], roles[name], x_at, y_at) for name in order]
    parts += _end_labels([(name, roles[name], y_at(lines[name][-1][1])) for name in order])
    return _svg(parts, f"cost per day in {currency} over requests per day")


def _points(volumes: Sequence[Any], costs: Sequence[Any]) -> list[Point]:
    pairs = ((finite(x), finite(y)) for x, y in zip(volumes, costs, strict=True))
    return [(x, y) for x, y in pairs if x is not None and y is not None and x > 0 and y > 0]


def _role(name: str, tuned: str | None, prompted: str | None) -> str:
    return "first" if name == tuned else "second" if name == prompted else "rest"


def _log_scale(low: float, high: float, start: float, end: float) -> At:
    bottom, top = math.log10(low), math.log10(high)
    width = top - bottom or 1.0
    return lambda value: start + (math.log10(value) - bottom) / width * (end - start)


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten within [low, high]."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def _grid(x_low: float, x_high: float, y_low: float, y_high: float, x_at: At, y_at: At, currency: str) -> list[Markup]:
    floor, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in decades(y_low, y_high):
        y = f"{y_at(tick):.1f}"
        parts.append(Markup(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'))
        parts.append(_text(_LEFT - 8, y_at(tick) + 4, short(tick), "tick", "end"))
    for tick in decades(x_low, x_high):
        x = f"{x_at(tick):.1f}"
        parts.append(Markup(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{floor}"/>'))
        parts.append(_text(x_at(tick), floor + 18, short(tick), "tick", "middle"))
    parts.append(Markup(f'<line class="base" x1="{_LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>'))
    parts.append(_text(0, 14, f"{currency} a day", "axis"))
    parts.append(_text(right, HEIGHT - 6, "requests a day", "axis", "end"))
    return parts


def _marks(x_at: At, low: float, high: float, break_even: float | None, volume: float | None) -> list[Markup]:
    """Draw the vertical marks, each label on a line of its own above the plot."""
    marks = [("stated volume", volume, "stated", 30.0), ("break-even", break_even, "even", 14.0)]
    lines, labels = [], []
    for name, value, role, label_y in marks:
        if value is not None and low <= value <= high:
            x = x_at(value)
            ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{label_y + 5}" y2="{HEIGHT - _BOTTOM}"'
            anchor = "end" if x > (_LEFT + WIDTH - _RIGHT) / 2 else "start"
            shift = -6 if anchor == "end" else 6
            lines.append(Markup(f'<line class="mark {role}" {ends}/>'))
            labels.append(_text(x + shift, label_y + 4, f"{name} {short(value)}", f"note {role}", anchor))
    return [*lines, *labels]  # labels cover the lines


def _line(points: Sequence[Point], role: str, x_at: At, y_at: At) -> Markup:
    path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in points)
    return Markup(f'<polyline class="line {role}" points="{path}"/>')


def _end_labels(ends: Sequence[tuple[str, str, float]]) -> list[Markup]:
    """Write each arm's name at the end of its line, moved apart where two would overlap."""
    ordered = sorted(ends, key=lambda end: end[2])
    places = [y for _, _, y in ordered]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + _LABEL_STEP)
    over = max(0.0, places[-1] - (HEIGHT - _BOTTOM))
    places = [y - over for y in places]
    x = WIDTH - _RIGHT + 8
    return [_text(x, y + 4, _shorten(name), f"name {role}") for (name, role, _), y in zip(ordered, places, strict=True)]


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_LABEL else name[: _MAX_LABEL - 1] + "…"


def short(value: float) -> str:
    """Write a number for an axis: 0.01, 300, 4k, 10.2k, 3M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, role: str, anchor: str = "start") -> Markup:
    return Markup(f'<text class="{role}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')


def _svg(parts: Sequence[Markup], title: str) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>')
