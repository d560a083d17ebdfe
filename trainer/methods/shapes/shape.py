"""What a training asks of the rows of one shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from trainer.methods.collate import Collator
from trainer.methods.context import TrainingContext
from trainer.methods.loop import RecipeLoop
from trainer.tokens.arrays import Ints
from trainer.tokens.store import TokenStore


class RowShape(ABC):
    """Rows of one shape: their items, their batches and the loop over them."""

    @abstractmethod
    def probe_ids(self, store: TokenStore, row: int) -> Ints:
        """Return the tokens of a row, shape (tokens,): what the engine is tried on."""

    @abstractmethod
    def train_data(self, parts: TrainingContext) -> tuple[Any, Collator]:
        """Return the items to train on, and what makes batches of them."""

    @abstractmethod
    def build_loop(self, parts: TrainingContext, common: dict[str, Any]) -> RecipeLoop:
        """Build the loop over training and validation rows.

        Args:
            parts: What it is built from.
            common: Arguments that all loops take.
        """
