"""Turn train/metrics.jsonl into the charts of the training and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from trainer.render.charts import Point, Series, line_chart, smooth, value_table
from trainer.render.numbers import count_of, finite
from trainer.shapes.training import TrainingMetrics

_FEW_POINTS = 30
"""Up to this many logged steps the line itself is readable, and no smoothed one is drawn."""
Logged = Literal["loss", "validation_loss", "grad_norm", "learning_rate", "tokens_per_s"]
CURVES: dict[Logged, str] = {
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "tokens_per_s": "tokens per second",
}


@dataclass(frozen=True)
class Curves:
    """The charts of a training."""

    loss: Markup
    charts: list[tuple[str, Markup]]
    """(title, chart) of what is logged beside the loss."""
    table: list[list[str]]
    """Some of the values, the head first."""
    sentence: str


def training_curves(metrics: Sequence[TrainingMetrics]) -> Curves | None:
    """Draw what was logged over optimizer steps; None where there is no finite loss."""
    train, validation = _curve(metrics, "loss"), _curve(metrics, "validation_loss")
    loss = line_chart(_loss_lines(train, validation), x_label="optimizer step", y_label="loss")
    if not loss:
        return None
    lines = [_line(title, _curve(metrics, key)) for key, title in CURVES.items()]
    charts = [(line.label, line_chart([line], x_label="optimizer step", y_label=line.label)) for line in lines]
    columns = [Series("loss", train, "first"), Series("validation loss", validation, "second"), *lines]
    return Curves(
        loss,
        [(title, chart) for title, chart in charts if chart],
        value_table(columns, x_label="step"),
        _sentence(train, validation, _curve(metrics, "tokens_per_s")),
    )


def _loss_lines(train: list[Point], validation: list[Point]) -> list[Series]:
    lines = [Series("validation", validation, "second", dots=True)]
    if len(train) <= _FEW_POINTS:
        return [Series("train", train, "first", dots=True), *lines]
    radius = max(2, len(train) // 30)
    return [Series("", train, "raw"), Series("train, smoothed", smooth(train, radius=radius), "first"), *lines]


def _line(title: str, points: list[Point]) -> Series:
    return Series(title, points, "first", dots=len(points) <= 2)


def _sentence(train: list[Point], validation: list[Point], speed: list[Point]) -> str:
    """Say where the losses ended, which validation loss was the best, and how fast it was."""
    parts = []
    if train:
        steps = count_of(int(train[-1][0]), "step")
        parts.append(f"Training loss went from {train[0][1]:.3f} to {train[-1][1]:.3f} in {steps}.")
    if validation:
        step, best = min(validation, key=lambda point: point[1])
        parts.append(f"Best validation loss {best:.3f} at step {step:,.0f}, last {validation[-1][1]:.3f}.")
    if speed:
        rates = sorted(rate for _, rate in speed)
        parts.append(f"Median speed {rates[len(rates) // 2]:,.0f} tokens/s.")
    return " ".join(parts)


def _curve(metrics: Sequence[TrainingMetrics], key: Logged) -> list[Point]:
    """Return (step, value) of the lines that hold both; a line that repeats a step after a resume replaces it."""
    points = {line["step"]: value for line in metrics if (value := finite(line.get(key))) is not None}
    return sorted(points.items())
