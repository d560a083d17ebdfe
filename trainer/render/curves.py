"""Turns train/metrics.jsonl into the charts of the training and what they show in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from trainer.render.charts import Point, Series, line_chart, smooth, value_table
from trainer.render.format import count_of, finite

_FEW_POINTS = 30
"""Up to this many logged steps the line itself is readable, and no smoothed one is drawn."""
CURVES = {
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "tokens_per_s": "tokens per second",
}
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Curves:
    """The charts of a training."""

    loss: Markup
    others: list[tuple[str, Markup]]
    """(title, chart) of what is logged beside the loss."""
    table: list[list[str]]
    """Some of the values, the head first."""
    sentence: str


def training_curves(metrics: Lines) -> Curves | None:
    """Draw what was logged over optimizer steps; None where there is no finite loss."""
    train, validation = _curve(metrics, "loss"), _curve(metrics, "validation_loss")
    lines = _loss_lines(train, validation)
    loss = line_chart(lines, x_label="optimizer step", y_label="loss")
    if not loss:
        return None
    logged = {title: _curve(metrics, key) for key, title in CURVES.items()}
    others = [
        (title, chart)
        for title, points in logged.items()
        if (chart := line_chart([_plain(title, points)], x_label="optimizer step", y_label=title))
    ]
    columns = [Series("loss", train, "first"), Series("validation loss", validation, "second")]
    columns += [_plain(title, points) for title, points in logged.items()]
    return Curves(loss, others, value_table(columns, x_label="step"), _sentence(train, validation, metrics))


def _loss_lines(train: list[Point], validation: list[Point]) -> list[Series]:
    lines = [Series("validation", validation, "second", dots=True)]
    if len(train) <= _FEW_POINTS:
        return [Series("train", train, "first", dots=True), *lines]
    radius = max(2, len(train) // 30)
    return [Series("", train, "raw"), Series("train, smoothed", smooth(train, radius=radius), "first"), *lines]


def _plain(title: str, points: list[Point]) -> Series:
    return Series(title, points, "first", dots=len(points) <= 2)


def _sentence(train: list[Point], validation: list[Point], metrics: Lines) -> str:
    """Say where the losses ended and which validation loss was the best."""
    parts = []
    if train:
        steps = count_of(int(train[-1][0]), "step")
        parts.append(f"Training loss went from {train[0][1]:.3f} to {train[-1][1]:.3f} in {steps}.")
    if validation:
        step, best = min(validation, key=lambda point: point[1])
        parts.append(f"Best validation loss {best:.3f} at step {step:,.0f}, last {validation[-1][1]:.3f}.")
    rates = sorted(rate for rate in (finite(line.get("tokens_per_s")) for line in metrics) if rate is not None)
    if rates:
        parts.append(f"Median speed {rates[len(rates) // 2]:,.0f} tokens/s.")
    return " ".join(parts)


def _curve(metrics: Lines, key: str) -> list[Point]:
    """Return (step, value) of the lines that hold both; a line that repeats a step after a resume replaces it."""
    points: dict[float, float] = {}
    for line in metrics:
        step, value = finite(line.get("step")), finite(line.get(key))
        if step is not None and value is not None:
            points[step] = value
    return sorted(points.items())
