"""Define the part of a training that depends on the shape of its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypedDict

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments

from trainer.engine.prepare import Engine
from trainer.methods.collate import Collator
from trainer.methods.context import TrainingContext
from trainer.methods.loop import RecipeLoop
from trainer.tokens.arrays import Ints
from trainer.tokens.store import TokenStore


class LoopSettings(TypedDict):
    """Arguments that the loops of all shapes take."""

    model: torch.nn.Module
    engine: Engine
    callbacks: list[TrainerCallback]
    args: TrainingArguments


class RowShape(ABC):
    """Rows of one shape: their items, their batches and the loop over them."""

    @abstractmethod
    def probe_ids(self, store: TokenStore, row: int) -> Ints:
        """Return the tokens of a row, shape (tokens,), to test the engine on."""

    @abstractmethod
    def train_data(self, context: TrainingContext) -> tuple[Dataset[object], Collator[Any]]:
        """Return the items to train on, and the collator that batches them."""

    @abstractmethod
    def build_loop(self, context: TrainingContext, common: LoopSettings) -> RecipeLoop:
        """Build the loop over training and validation rows.

        Args:
            context: Model, engine and rows.
            common: Arguments that all loops take.
        """
