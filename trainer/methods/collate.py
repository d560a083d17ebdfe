"""Batches made of the items of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.engine.batch import Batch, Layout, filled


class Collator:
    """Builds batches of training; `collate` those of validation, which are as long as their items."""

    def __init__(self, *, layout: Layout, pad_id: int) -> None:
        self.layout = layout
        self.pad_id = pad_id
        self.width: int | None = None
        """Tokens that flat batches are filled up to, so that one compiled graph serves all."""

    def __call__(self, items: Sequence[Any]) -> Batch:
        """Return `collate`'s batch, filled up."""
        batch = self.collate(items)
        return batch if self.width is None else filled(batch, self.width, self.pad_id)

    def collate(self, items: Sequence[Any]) -> Batch:
        """Return inputs, targets and counts."""
        raise NotImplementedError


def moved(batch: Batch, device: Any) -> Batch:
    """Return the batch on a device."""
    return {
        name: {key: tensor.to(device) for key, tensor in value.items()} if isinstance(value, dict) else value.to(device)
        for name, value in batch.items()
    }
