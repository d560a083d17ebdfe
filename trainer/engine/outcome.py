"""Run a model on a few rows and compare log-probabilities and gradients with those of another way to compute them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest relative difference of a gradient. Norms and rotary embeddings compute in float32 in a float64 model, too."""
HALF_TOLERANCE = 0.25
"""Largest relative difference of a gradient. Ways to compute differ in where they round to half precision: by 0.03 in a
random Llama of 32 layers, by 0.12 in a random Mixtral, where a router's choice of expert flips."""
SMALL = 1e-2
"""Gradients are compared relative to their norm, but at least to this share of the largest norm."""
SAMPLE = 1 << 16
"""Numbers of a gradient that are compared at most: the gradients of a whole model may not fit beside it."""
FILLING = 0.02
"""Standard deviation of the numbers that replace zero weights in a comparison: B = 0 would hide errors in A."""


def gradients(model: torch.nn.Module, pieces: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradient of a sum with respect to every trained weight, as a sample of at most `SAMPLE` numbers.

    A gradient is freed once its sample is taken, so only the largest one needs memory. A weight that is not reached
    gets zeros. Gradients from before are set aside and come back.

    Args:
        model: Its weights with `requires_grad` are the trained ones.
        pieces: Summands of any shape, each from a forward pass of its own with gradients; its backward pass follows
            before the next one is taken.

    Example:
        >>> layer = torch.nn.Linear(1, 1)
        >>> rows = (layer(torch.tensor([x])) for x in (2.0, 3.0))
        >>> [gradient.tolist() for gradient in gradients(layer, rows)]
        [[5.0], [2.0]]
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    before = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    samples = {weight: torch.zeros_like(_sample(weight)) for weight in weights}

    def take(weight: torch.Tensor) -> None:
        assert weight.grad is not None
        samples[weight] += _sample(weight.grad)
        weight.grad = None

    hooks = [weight.register_post_accumulate_grad_hook(take) for weight in weights]
    try:
        for piece in pieces:
            if piece.requires_grad:
                piece.sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
        for weight, gradient in zip(weights, before, strict=True):
            weight.grad = gradient
    return list(samples.values())


def gap(results: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the largest |result - expected| / max(|expected|, SMALL max |expected|) of pairs of tensors.

    NaN where a tensor is not finite; 0 without tensors.

    Example:
        >>> round(gap([torch.tensor([3.0, 4.5])], [torch.tensor([3.0, 4.0])]), 6)
        0.1
    """
    if not expected:
        return 0.0
    # without the floor, a gradient that is all but zero would show rounding errors as large shares
    norms = torch.stack([tensor.double().norm() for tensor in expected])
    gaps = torch.stack([(a.double() - b.double()).norm() for a, b in zip(results, expected, strict=True)])
    return float((gaps / norms.clamp(min=SMALL * float(norms.max()))).max())


def problem(results: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> str | None:
    """Return how far gradients differ; None where they agree as far as the type of the products allows."""
    largest = gap(results, expected)
    if largest <= TOLERANCE.get(dtype, HALF_TOLERANCE):  # also False for NaN
        return None
    return f"gradients differ by {largest:.1e} of their norm"


@contextlib.contextmanager
def without_zeros(model: torch.nn.Module) -> Iterator[None]:
    """Replace trained weights that are all zero by small numbers for a while."""
    zeros = [weight for weight in model.parameters() if weight.requires_grad and not weight.any()]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for weight in zeros:
                weight.copy_(torch.randn(weight.shape, generator=generator) * FILLING)
        yield
    finally:
        with torch.no_grad():
            for weight in zeros:
                weight.zero_()


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Return evenly spread numbers of a tensor, in memory of their own."""
    flat = tensor.detach().reshape(-1)  # (numbers,)
    step = -(-flat.numel() // SAMPLE) or 1  # ceil(numbers / SAMPLE)
    return flat[::step].to(torch.promote_types(flat.dtype, torch.float32), copy=True)
