"""Supervised fine-tuning: cross-entropy over the trained tokens, each weighing the same."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from trainer.methods.collate import IGNORED
from trainer.methods.loop import VALIDATION_LOSS, RecipeLoop


class SftLoop(RecipeLoop):
    """Token-weighted loss in training and in validation."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, compute_loss_func=token_loss)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the mean loss over all trained validation tokens of all processes."""
        loader: DataLoader[Any] = self.get_eval_dataloader(eval_dataset)
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # loss, tokens
        for batch in loader:
            labels = batch.pop("labels").to(self.args.device)
            inputs = {name: value.to(self.args.device) for name, value in batch.items()}
            with torch.no_grad(), self.compute_loss_context_manager():
                logits = self.model(**inputs).logits
            # leaves out the rows that fill up the last batch where the processes do not divide them evenly
            total += self.accelerator.gather_for_metrics(row_losses(logits, labels)).sum(0)
        metrics = {VALIDATION_LOSS: float(total[0] / total[1].clamp(min=1))}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum cross-entropy over the trained tokens, in float32.

    Args:
        logits: (B, S, V).
        labels: (B, S) int64, -100 where not trained; position t is predicted from t - 1.
    """
    shifted = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    trained = shifted != IGNORED
    return F.cross_entropy(logits[trained].float(), shifted[trained], reduction="sum")


def row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return summed cross-entropy and number of trained tokens of each row, (B, 2) float64.

    Args:
        logits: (B, S, V).
        labels: (B, S) int64, -100 where not trained.
    """
    shifted = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    trained = shifted != IGNORED
    losses = F.cross_entropy(logits[trained].float(), shifted[trained], reduction="none").double()  # (trained tokens,)
    sums = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
    return torch.stack([sums.index_add(0, trained.nonzero()[:, 0], losses), trained.sum(1).double()], dim=1)


def token_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
    """Return the loss of a micro-batch as its share of the mean over the whole global batch."""
    count = num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum()
    return summed_loss(outputs.logits, labels) / torch.as_tensor(count).to(labels.device).clamp(min=1)
