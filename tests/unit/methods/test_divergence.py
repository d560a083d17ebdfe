"""Which rows and weights a diverged training names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from trainer.methods.divergence import not_finite, rows_of
from trainer.tokens.pack import PackPlan


def test_rows_of_packs_are_lines_of_the_file() -> None:
    # token rows 0, 1, 2, 3 come from lines 0, 4, 4, 9; pack 1 holds rows 2 and 3
    plan = PackPlan(np.array([0, 1, 2, 3], dtype=np.int32), np.array([0, 2, 4], dtype=np.int64))
    inputs: Any = SimpleNamespace(train=SimpleNamespace(row_index=np.array([0, 4, 4, 9])), plan=plan)
    assert rows_of(inputs, np.array([1], dtype=np.int64)) == [4, 9]
    assert rows_of(inputs, np.array([0, 1, 1], dtype=np.int64)) == [0, 4, 9]


def test_only_weights_of_the_base_model_are_blamed() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    assert not_finite(model) == []
    with torch.no_grad():
        model[0].bias[1] = torch.inf
    assert not_finite(model) == ["0.bias"]
