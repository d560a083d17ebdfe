"""The order of training items: a pure function of seed, items and step.

Epochs are seeded permutations laid end to end, and step s takes the next `global_batch_size` of them. Every step is
full, whatever the number of processes, so one process and eight see the same items in the same step. The last step
borrows from the next permutation where the epochs do not divide evenly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from trainer.recipe.train import TrainSection


@dataclass(frozen=True)
class StepPlan:
    """How a run is cut into steps."""

    num_items: int
    global_batch_size: int
    num_steps: int
    micro_batch_size: int
    accumulation: int


def share_of(train: TrainSection, world_size: int) -> int:
    """Return the items that one process takes in a step.

    Raises:
        ValueError: The global batch cannot be divided over the processes.
    """
    share, rest = divmod(train.global_batch_size, world_size)
    if rest:
        raise ValueError(f"global_batch_size {train.global_batch_size} is no multiple of {world_size} processes")
    return share


def solve_plan(train: TrainSection, *, num_items: int, world_size: int, micro_batch_size: int) -> StepPlan:
    """Find steps and accumulation for a fixed global batch and a micro-batch that divides a process's share.

    Raises:
        ValueError: The global batch cannot be divided over the processes.
    """
    share = share_of(train, world_size)
    assert share % micro_batch_size == 0, "a divisor was chosen"
    steps = train.max_steps
    if steps is None:
        assert train.num_train_epochs is not None, "solve() settles the epochs"
        steps = max(1, math.ceil(round(num_items * train.num_train_epochs, 6) / train.global_batch_size))
    return StepPlan(num_items, train.global_batch_size, steps, micro_batch_size, share // micro_batch_size)


def order(plan: StepPlan, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the item of every place, shape (num_steps * global_batch_size,)."""
    needed = plan.num_steps * plan.global_batch_size
    epochs = math.ceil(needed / plan.num_items)
    return np.concatenate(
        [np.random.default_rng([seed, epoch]).permutation(plan.num_items) for epoch in range(epochs)]
    )[:needed]


class StreamSampler(Sampler[int]):
    """Yields the items of a whole run, in order."""

    def __init__(self, items: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[int]:
        """Iterate from the first step."""
        return iter(self.items.tolist())

    def __len__(self) -> int:
        """Return items times steps."""
        return len(self.items)
