"""Supervised fine-tuning: cross-entropy over the trained tokens, each weighing the same."""

from __future__ import annotations

import torch

from trainer.engine.batch import Batch
from trainer.methods.loop import VALIDATION_LOSS, RecipeLoop


class SftLoop(RecipeLoop):
    """Token-weighted loss in training and in validation."""

    def loss(self, batch: Batch, log_probs: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood, as a share of the mean over the step's trained tokens."""
        return token_loss(log_probs, totals[0])

    def measure(self, batch: Batch, log_probs: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """Return summed loss and trained tokens."""
        targets = batch["targets"]
        losses = -targets.sums(log_probs.double())
        return torch.stack([(losses * counted).sum(), (targets.lengths * counted).sum()])

    def validation(self, sums: torch.Tensor) -> dict[str, float]:
        """Return the mean loss a token."""
        return {VALIDATION_LOSS: float(sums[0] / sums[1].clamp(min=1))}


def token_loss(log_probs: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return minus the sum of the log-probabilities over `count` tokens; 0 for no tokens.

    Args:
        log_probs: (N,).
        count: Trained tokens of the whole step.
    """
    return -log_probs.sum() / count.clamp(min=1)
