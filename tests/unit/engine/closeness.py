"""How far results and gradients are apart."""

from __future__ import annotations

import torch


def gap(result: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the largest difference, as a share of each tensor's norm."""
    return max(errors(result, expected))


def errors(result: list[torch.Tensor], expected: list[torch.Tensor]) -> list[float]:
    """Return each tensor's difference, as a share of its norm."""
    assert len(result) == len(expected) > 1
    return [float((f.double() - e.double()).norm() / e.double().norm()) for f, e in zip(result, expected, strict=True)]
