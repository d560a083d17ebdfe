"""Gradients are compared weight by weight, from samples, and leave the model as it was."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.engine import outcome


def test_a_difference_is_seen_in_small_gradients_and_noise_is_not() -> None:
    large, small = torch.ones(100), torch.full((100,), 0.02)
    assert outcome.gap([large, small * 1.5], [large, small]) == pytest.approx(0.5)
    assert outcome.gap([large, small * 1e-9], [large, torch.zeros(100)]) < 1e-6
    assert math.isnan(outcome.gap([large, small * torch.nan], [large, small]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1.5])
def test_numbers_that_are_not_finite_never_agree(value: float) -> None:
    expected = [torch.ones(4)]
    assert outcome.problem(expected, expected, torch.bfloat16) is None
    assert outcome.problem([torch.full((4,), value)], expected, torch.bfloat16)


def test_gradients_of_several_passes_add_up_beside_those_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "SAMPLE", 7)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2), torch.nn.Linear(2, 2))
    model[1].weight.requires_grad_(False)
    inputs = torch.randn(3, 6)

    def scores(part: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = model[1](model[0](part))
        return hidden  # the last layer takes no part

    model[0].bias.grad = torch.full((5,), 9.0)
    samples = outcome.gradients(model, (scores(row) for row in inputs))
    assert model[0].bias.grad.tolist() == [9.0] * 5 and model[0].weight.grad is None
    model.zero_grad()
    scores(inputs).sum().backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert [len(sample) for sample in samples] == [6, 5, 2, 4, 2]
    for sample, weight in zip(samples, trained, strict=True):
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(sample, gradient.flatten()[:: -(-weight.numel() // 7)])


def test_zero_weights_are_filled_for_a_while() -> None:
    model = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(model.bias)
    with outcome.without_zeros(model):
        assert model.bias.abs().min() > 0
    assert not model.bias.any() and model.weight.all()
