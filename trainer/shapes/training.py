"""Types of a line of train/metrics.jsonl: what was logged at one optimizer step."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict


class TrainingMetrics(TypedDict):
    """One line; a step that is logged and validated has a line of each, and TRL's `rewards/*` may follow."""

    step: int
    """Optimizer steps taken."""
    epoch: float
    seconds: float
    """Since the process began to train."""
    loss: NotRequired[float]
    """Nats a trained token, mean over the steps since the last line."""
    grad_norm: NotRequired[float]
    learning_rate: NotRequired[float]
    tokens_per_s: NotRequired[float]
    validation_loss: NotRequired[float]
    """Nats a trained token."""
