"""How far results and gradients are apart."""

from __future__ import annotations

import torch


def gap(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the largest difference, as a share of each tensor's norm."""
    return max(errors(found, expected))


def errors(found: list[torch.Tensor], expected: list[torch.Tensor]) -> list[float]:
    """Return each tensor's difference, as a share of its norm."""
    assert len(found) == len(expected) > 1
    return [float((f.double() - e.double()).norm() / e.double().norm()) for f, e in zip(found, expected, strict=True)]
