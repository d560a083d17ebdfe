"""Train on single rows, packed or not: cross-entropy over the trained tokens, each with the same weight.

    loss of a step = - sum of log p(token) over all its trained tokens / their number

Micro-batches and processes each add their share of that sum, so their number changes no result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from trainer.engine.batch import Batch, Row, of_rows
from trainer.methods.collate import Collator
from trainer.methods.context import TrainingContext
from trainer.methods.loop import VALIDATION_LOSS, RecipeLoop
from trainer.methods.shapes.shape import LoopSettings, RowShape
from trainer.tokens.arrays import Ints
from trainer.tokens.pack import PackPlan, one_by_one
from trainer.tokens.store import TokenStore


class SingleRows(RowShape):
    """Items are packs of rows."""

    def probe_ids(self, store: TokenStore, row: int) -> Ints:
        """Return the tokens of a row."""
        return store.row(row)[0]

    def train_data(self, context: TrainingContext) -> tuple[RowDataset, RowCollator]:
        """Return the packs to train on, and the collator that batches them."""
        inputs, engine = context.inputs, context.engine
        layout = engine.packed_layout if inputs.is_packed else engine.layout
        assert layout is not None, "rows that would see each other are not packed"
        return RowDataset(inputs.train, inputs.plan), RowCollator(layout=layout, pad_id=context.pad_id)

    def build_loop(self, context: TrainingContext, common: LoopSettings) -> SftLoop:
        """Build the loop; validation rows are not packed."""
        dataset, collate = self.train_data(context)
        validation = context.inputs.validation
        return SftLoop(
            train_dataset=dataset,
            eval_dataset=RowDataset(validation, one_by_one(range(len(validation)))) if validation is not None else None,
            data_collator=collate,
            **common,
        )


class RowDataset(Dataset[list[Row]]):
    """Supervised items: the (ids, mask) of the rows of one pack."""

    def __init__(self, store: TokenStore, plan: PackPlan) -> None:
        self.store = store
        self.plan = plan

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.plan)

    def __getitem__(self, index: int) -> list[Row]:
        """Return the rows of one item."""
        return [self.store.row(row) for row in self.plan[index]]


class RowCollator(Collator[Sequence[Row]]):
    """Batch supervised items; `counts` is (1,): their trained tokens."""

    def collate(self, items: Sequence[Sequence[Row]]) -> Batch:
        """Return inputs, targets and counts."""
        batch = of_rows(items, self.layout, self.pad_id)
        batch["counts"] = batch["targets"].lengths.sum()[None]
        return batch


class SftLoop(RecipeLoop):
    """Token-weighted loss in training and in validation."""

    def loss(self, batch: Batch, log_probs: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood, as a share of the mean over the step's trained tokens."""
        return token_loss(log_probs, totals[0])

    def measure(self, batch: Batch, log_probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return summed loss and trained tokens, (2,)."""
        targets = batch["targets"]
        # (rows,): a row that only fills up a process has weight 0, so it must be a number of its own
        losses = -targets.sums(log_probs.double())
        return torch.stack([(losses * weights).sum(), (targets.lengths * weights).sum()])

    def validation(self, sums: torch.Tensor) -> dict[str, float]:
        """Return the mean loss a token."""
        return {VALIDATION_LOSS: float(sums[0] / sums[1].clamp(min=1))}


def token_loss(log_probs: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return minus the sum of the log-probabilities over `count` tokens; 0 for no tokens.

    Args:
        log_probs: (N,).
        count: Trained tokens of the whole step.

    Example:
        >>> float(token_loss(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor(14)))
        0.5
    """
    return -log_probs.sum() / count.clamp(min=1)
