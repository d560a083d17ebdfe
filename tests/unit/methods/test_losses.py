"""Preference losses stay finite, value and gradient, where log-probabilities are extreme; TRL compares the rest."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from trainer.methods.losses import PairScores, Totals, loss_of
from trainer.recipe.method import CpoMethod, DpoLoss, DpoMethod, OrpoMethod, PairedMethod, SimpoMethod

METHODS: list[PairedMethod] = [
    *(DpoMethod(kind="dpo", loss_type=[name], label_smoothing=0.1) for name in get_args(DpoLoss)),
    *(CpoMethod(kind="cpo", loss_type=name) for name in ("sigmoid", "hinge", "ipo")),
    SimpoMethod(kind="simpo"),
    OrpoMethod(kind="orpo"),
]
EXTREMES = {
    "chosen far worse": (-1e4, -1.0),
    "rejected far worse": (-1.0, -1e4),
    "chosen certain": (0.0, -5.0),
    "rejected certain": (-5.0, 0.0),
    "both certain": (0.0, 0.0),
    "both the same": (-7.0, -7.0),
}


def loss_and_gradients(method: PairedMethod, chosen: float, rejected: float) -> tuple[torch.Tensor, ...]:
    """Score one pair of answers of three tokens, whose reference log-probabilities are -10."""
    sums = [torch.tensor([value], requires_grad=True) for value in (chosen, rejected)]
    reference, three, none = torch.tensor([-10.0]), torch.tensor([3]), torch.tensor([0])
    scores = PairScores(*sums, reference, reference, three, three, torch.zeros(1), none)
    loss = loss_of(method, scores, Totals(torch.tensor(1), three[0], three[0]))
    return loss, *torch.autograd.grad(loss, sums, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("where", EXTREMES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: getattr(method, "loss_type", method.kind))
def test_a_loss_and_its_gradients_stay_finite(method: PairedMethod, where: str) -> None:
    result = loss_and_gradients(method, *EXTREMES[where])
    assert all(torch.isfinite(value).all() for value in result), result


def test_discopop_is_its_formula_where_that_is_finite() -> None:
    method = DpoMethod(kind="dpo", loss_type=["discopop"], beta=0.1)
    for chosen, rejected in ((-10.0, -12.0), (-13.0, -9.0), (-10.0, -10.0)):
        margin = torch.tensor(0.1 * (chosen - rejected), dtype=torch.float64)
        gate = torch.sigmoid(margin / 0.05)
        expected = -torch.nn.functional.logsigmoid(margin) * (1 - gate) + torch.exp(-margin) * gate
        assert float(loss_and_gradients(method, chosen, rejected)[0]) == pytest.approx(float(expected), rel=1e-5)
