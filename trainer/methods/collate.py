"""Collate items of a training into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from trainer.engine.batch import Batch, Layout, filled

Item = TypeVar("Item")


class Collator(Generic[Item]):
    """Collate batches of training; `collate` those of validation, which are as long as their items."""

    def __init__(self, *, layout: Layout, pad_id: int) -> None:
        self.layout = layout
        self.pad_id = pad_id
        self.width: int | None = None
        """Tokens that flat batches are filled up to, so that one compiled graph serves all."""

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Return the batch of `collate`, filled up to `width`."""
        batch = self.collate(items)
        return batch if self.width is None else filled(batch, self.width, self.pad_id)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return inputs, targets and counts."""
        raise NotImplementedError
