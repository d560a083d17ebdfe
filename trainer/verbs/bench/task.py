"""Describe one training to be measured, and its results, the same for every engine. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trainer.tokens.store import TokenStore
from trainer.verbs.bench.shapes import CHECK_STEPS, MICRO_ROWS, BenchKind, Size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Accounting = Literal["counted", "left_out"]


@dataclass(frozen=True)
class Task:
    """Rows, steps and settings of one training."""

    folder: Path
    """What `assets.prepare` has written."""
    kind: BenchKind
    size: Size
    is_check: bool
    """Every step takes all check rows; else one epoch over the timed rows."""
    accounting: Accounting
    """Whether the reference's log-probabilities are part of the measurement, or there before it."""
    precision: str
    """float32 or bfloat16, for engines that try both."""

    @property
    def part(self) -> Path:
        """Return the folder of the rows."""
        return self.folder / ("check" if self.is_check else "timed")

    @property
    def model(self) -> Path:
        """Return the folder of model and tokenizer."""
        return self.folder / "model"

    @property
    def rows_per_step(self) -> int:
        """Return the rows of a step where they are not packed."""
        return self.size.check_rows if self.is_check else self.size.rows_per_step

    @property
    def epochs(self) -> int:
        """Return the passes over the rows."""
        return CHECK_STEPS if self.is_check else 1

    @property
    def micro_rows(self) -> int:
        """Return the rows of a padded micro-batch."""
        return min(MICRO_ROWS, self.rows_per_step)

    def store(self) -> TokenStore:
        """Open the tokens of the rows."""
        return TokenStore.load(self.part / "run" / "pack" / "train.safetensors")


@dataclass(frozen=True)
class Amount:
    """What one training has worked through. A prompt that two answers share counts once; padding never counts."""

    rows: int
    tokens: int
    supervised_tokens: int


def amount(store: TokenStore, rows: Iterable[int]) -> Amount:
    """Count the tokens of rows, each as often as it occurs."""
    listed = list(rows)
    lengths, trained = store.lengths(), store.num_trained()
    return Amount(len(listed), int(lengths[listed].sum()), int(trained[listed].sum()))


@dataclass(frozen=True)
class History:
    """Loss and norm of the gradient (before clipping) of every step."""

    losses: list[float]
    grad_norms: list[float]


class Training(Protocol):
    """A training that is ready to begin."""

    model: PreTrainedModel
    amount: Amount
    reference_seconds: float
    """Spent on the reference's log-probabilities before the training; 0 where it is computed in every step."""
    precision: str
    """Type of the matrix products."""
    settings: dict[str, object]
    """What an expert would ask: batch sizes, types, recomputation, packing."""

    def train(self) -> History:
        """Train to the end; called once."""


def history_of(log: list[dict[str, Any]]) -> History:
    """Read the log of transformers' Trainer."""
    lines = [line for line in log if "loss" in line and "grad_norm" in line]
    return History([float(line["loss"]) for line in lines], [float(line["grad_norm"]) for line in lines])
