"""Items of training, and the batches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from trainer.engine.batch import Batch, Layout, Pair, Row, filled, of_pairs, of_rows
from trainer.tokens.pack import PackPlan
from trainer.tokens.store import TokenStore


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


class PairItem(NamedTuple):
    """A preference pair and what the reference says about it."""

    pair: Pair
    reference: torch.Tensor
    """(2,): summed log-probabilities of the chosen and the rejected answer."""


class PairDataset(Dataset[PairItem]):
    """Preference items, one pair each."""

    def __init__(self, store: TokenStore, rows: Sequence[int], reference: torch.Tensor | None = None) -> None:
        """Take the pairs `rows` of the store; `reference` is (rows of the store, 2), None stands for zeros."""
        self.store = store
        self.rows = rows
        self.reference = torch.zeros(len(store), 2) if reference is None else reference

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    def __getitem__(self, index: int) -> PairItem:
        """Return one pair."""
        row = self.rows[index]
        return PairItem(self.store.pair(row), self.reference[row])


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


class RowCollator(Collator):
    """Takes supervised items; `counts` is (1,): their trained tokens."""

    def collate(self, items: Sequence[Sequence[Row]]) -> Batch:
        """Return inputs, targets and counts."""
        batch = of_rows(items, self.layout, self.pad_id)
        return batch | {"counts": batch["targets"].lengths.sum()[None]}


class PairCollator(Collator):
    """Takes pairs; `counts` is (3,): pairs, tokens of chosen answers, those and their prompts' tokens."""

    def __init__(self, *, layout: Layout, pad_id: int, with_prompts: bool = False) -> None:
        super().__init__(layout=layout, pad_id=pad_id)
        self.with_prompts = with_prompts

    def collate(self, items: Sequence[PairItem]) -> Batch:
        """Return inputs, targets, reference (pairs, 2) and counts."""
        batch = of_pairs([item.pair for item in items], self.layout, self.pad_id, with_prompts=self.with_prompts)
        lengths = batch["targets"].lengths
        chosen, prompts = lengths[: 2 * len(items) : 2].sum(), lengths[2 * len(items) :].sum()
        counts = torch.stack([torch.tensor(len(items)), chosen, chosen + prompts])
        return batch | {"reference": torch.stack([item.reference for item in items]), "counts": counts}


def moved(batch: Batch, device: Any) -> Batch:
    """Return the batch on a device."""
    return {
        name: {key: tensor.to(device) for key, tensor in value.items()} if isinstance(value, dict) else value.to(device)
        for name, value in batch.items()
    }
