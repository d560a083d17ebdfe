"""Order the items of a training: a pure function of seed, items and step.

Epochs are seeded permutations, one after another; step s takes the next `global_batch_size` items. Every step is full,
whatever the number of processes, so one process and eight see the same items in the same step. The last step borrows
from the next permutation where the epochs do not divide evenly.

    3 items, global batch of 2, 2 epochs     epoch 0: 2 0 1    epoch 1: 0 1 2     steps (2 0) (1 0) (1 2)
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
    """Steps of a run, and micro-batches of a step."""

    num_items: int
    global_batch_size: int
    num_steps: int
    micro_batch_size: int
    accumulation: int
    """Micro-batches of a step and process."""

    @property
    def num_processes(self) -> int:
        """Return the processes that share a global batch."""
        return self.global_batch_size // (self.micro_batch_size * self.accumulation)


def plan_steps(train: TrainSection, *, num_items: int, share: int, micro_batch_size: int) -> StepPlan:
    """Plan steps and accumulation for a process that takes `share` items a step.

    Example:
        >>> train = TrainSection(global_batch_size=8, num_train_epochs=2.5)
        >>> plan = plan_steps(train, num_items=21, share=4, micro_batch_size=2)
        >>> plan.num_steps, plan.accumulation, plan.num_processes  # ceil(21 * 2.5 / 8)
        (7, 2, 2)
    """
    assert share % micro_batch_size == 0, "sizes of micro-batches divide the share"
    num_steps = train.max_steps
    if num_steps is None:
        assert train.num_train_epochs is not None, "solve() settles the epochs"
        # rounded first: 25 rows * 2.2 epochs is 55.00000000000001 in binary, which would add a step
        num_steps = max(1, math.ceil(round(num_items * train.num_train_epochs, 6) / train.global_batch_size))
    return StepPlan(num_items, train.global_batch_size, num_steps, micro_batch_size, share // micro_batch_size)


def order(plan: StepPlan, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the items in order, shape (num_steps * global_batch_size,).

    Example:
        >>> order(StepPlan(num_items=4, global_batch_size=2, num_steps=3, micro_batch_size=1, accumulation=2), seed=0)
        array([2, 0, 1, 3, 3, 0])
    """
    count = plan.num_steps * plan.global_batch_size
    epochs = math.ceil(count / plan.num_items)
    return np.concatenate(
        # a generator for each epoch: epoch 3 is the same whether or not a run begins there
        [np.random.default_rng([seed, epoch]).permutation(plan.num_items) for epoch in range(epochs)]
    )[:count]


class StreamSampler(Sampler[int]):
    """Yield the items of a whole run, in order."""

    def __init__(self, items: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[int]:
        """Iterate from the first step."""
        return iter(self.items.tolist())

    def __len__(self) -> int:
        """Return items times steps."""
        return len(self.items)
