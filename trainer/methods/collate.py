"""Rows to tensors: padded, or packed without attention between rows.

Shapes: B items, S the longest of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.tokens.pack import PackPlan
from trainer.tokens.store import TokenStore

IGNORED = -100


class ItemDataset(Dataset[list[tuple[Any, Any]]]):
    """Training items: the (ids, mask) of the rows of one pack."""

    def __init__(self, store: TokenStore, plan: PackPlan) -> None:
        self.store = store
        self.plan = plan

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.plan)

    def __getitem__(self, index: int) -> list[tuple[Any, Any]]:
        """Return the rows of one item."""
        return [self.store.row(row) for row in self.plan[index]]


class Collator:
    """Builds a batch from items.

    Unpacked, rows are padded on the right under an attention mask. Packed, rows follow each other, `position_ids`
    begin anew at each, and there is no mask: transformers then keeps attention inside each row.

        rows [a a a], [b b]   packed   ids  a a a b b   position_ids  0 1 2 0 1
    """

    def __init__(self, *, pad_id: int, is_packed: bool) -> None:
        self.pad_id = pad_id
        self.is_packed = is_packed

    def __call__(self, items: list[list[tuple[Any, Any]]]) -> dict[str, torch.Tensor]:
        """Return input_ids, labels and attention_mask or position_ids, each (B, S) int64."""
        ids = [np.concatenate([ids for ids, _ in item]) for item in items]
        labels = [np.concatenate([np.where(mask, ids, IGNORED) for ids, mask in item]) for item in items]
        width = max(len(row) for row in ids)
        batch = {"input_ids": _stack(ids, width, self.pad_id), "labels": _stack(labels, width, IGNORED)}
        if self.is_packed:
            positions = [np.concatenate([np.arange(len(ids)) for ids, _ in item]) for item in items]
            batch["position_ids"] = torch.stack([_positions(row, width) for row in positions])
        else:
            batch["attention_mask"] = _stack([np.ones(len(row), dtype=np.int64) for row in ids], width, 0)
        return batch


def _stack(rows: list[Any], width: int, fill: int) -> torch.Tensor:
    padded = np.full((len(rows), width), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def _positions(row: Any, width: int) -> torch.Tensor:
    """Pad positions with a segment of its own, so that padding attends to no row."""
    return torch.from_numpy(np.concatenate([row, np.arange(width - len(row))]).astype(np.int64))
