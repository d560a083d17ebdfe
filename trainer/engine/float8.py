"""Products with a frozen weight in 8-bit floating point: half the memory of 16 bits, twice the rate on Hopper and Ada.

A weight is held as e4m3 codes with a float32 scale for each output; tokens are rounded to e4m3 with a scale for each
token at each product. With W = diag(s) C, the input's gradient is dY W = (dY diag(s)) C: the scales stand on the summed
side, where no product of scaled rows can take them, so they are multiplied into dY before it is rounded.

Gradients are rounded to e4m3 as well: with a scale for each token they need e5m2's precision, not its range.

Source: https://arxiv.org/abs/2209.05433 (e4m3, e5m2).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch.autograd.function import once_differentiable

from trainer.errors import HardwareError
from trainer.model.planning.gpus import LEAST_FLOAT8
from trainer.model.planning.quantised_sizes import ALIGNMENT_8BIT, CHUNK_8BIT

CODES = torch.float8_e4m3fn
LARGEST = float(torch.finfo(CODES).max)
SMALLEST_SCALE = float(torch.finfo(torch.float32).tiny)
"""Of rows of zeros, and of those so small that their scale would be a subnormal number."""
TOLERANCE = 2.0**-7
"""Of a product on a card, as a share of the norm: twice the rounding of its bfloat16 results."""


def rounded(rows: torch.Tensor, factor: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows to e4m3, each with a scale of its own by its largest number.

    Args:
        rows: (rows, columns), any floating type.
        factor: (columns,) float32; rows are multiplied by it first.

    Returns:
        Codes, (rows, columns) in e4m3, and scales, (rows, 1) float32, never 0. An infinite or undefined number makes
        its row's product undefined.
    """
    codes = torch.empty_like(rows, dtype=CODES, memory_format=torch.contiguous_format)
    scale = torch.empty(len(rows), 1, dtype=torch.float32, device=rows.device)
    at_once = max(1, CHUNK_8BIT // rows.shape[1])
    for part, its_codes, its_scale in zip(rows.split(at_once), codes.split(at_once), scale.split(at_once), strict=True):
        numbers = part.float() if factor is None else part * factor
        its_scale.copy_((numbers.abs().amax(1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE))
        its_codes.copy_(numbers / its_scale)
    return codes, scale


def product(
    left: torch.Tensor, left_scale: torch.Tensor, right: torch.Tensor, right_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return (left * left_scale) (right * right_scale)ᵀ; on a card by its tensor cores, elsewhere in float32.

    Args:
        left: (M, K) in e4m3.
        left_scale: (M, 1) float32.
        right: (N, K) in e4m3.
        right_scale: (N, 1) float32.
        dtype: Of the result, (M, N); on a card it is rounded to bfloat16 before.
    """
    if left.is_cuda:
        return on_card(left, left_scale, right, right_scale).to(dtype)
    with torch.autocast(left.device.type, enabled=False):
        total = left.float() @ right.float().t()
    return total.mul_(left_scale).mul_(right_scale.t()).to(dtype)


def on_card(
    left: torch.Tensor, left_scale: torch.Tensor, right: torch.Tensor, right_scale: torch.Tensor
) -> torch.Tensor:
    """Multiply as `product` does, in bfloat16, by the kernel: it takes the left side by rows, the right by columns."""
    by_column = right.contiguous().t()
    result: torch.Tensor = torch._scaled_mm(
        left.contiguous(), by_column, left_scale, right_scale.view(1, -1), out_dtype=torch.bfloat16
    )
    return result


@dataclass(frozen=True)
class Float8Weight:
    """A frozen weight W = diag(scale) codes."""

    codes: torch.Tensor
    """(outputs, inputs) in e4m3."""
    scale: torch.Tensor
    """(outputs, 1) float32."""
    rounds: bool = True
    """Round tokens and gradients as well; without it W itself is multiplied with, in their type."""

    def wide(self, dtype: torch.dtype) -> torch.Tensor:
        """Return W, (outputs, inputs), in a wider type."""
        return (self.codes.float() * self.scale).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x Wᵀ, (tokens, outputs), for x of (tokens, inputs), in its type."""
        if not self.rounds:
            return x @ self.wide(x.dtype).t()
        return product(*rounded(x), self.codes, self.scale, x.dtype)

    def backward(self, dy: torch.Tensor) -> torch.Tensor:
        """Return dY W, (tokens, inputs), for dY of (tokens, outputs), in its type."""
        if not self.rounds:
            return dy @ self.wide(dy.dtype)
        codes, scale = rounded(dy, self.scale[:, 0])
        across = self.codes.t()
        return product(codes, scale, across, torch.ones(len(across), 1, device=dy.device), dy.dtype)


class _Float8Product(torch.autograd.Function):
    """x (..., inputs) -> x Wᵀ."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Float8Weight) -> torch.Tensor:
        ctx.weight, ctx.shape, ctx.dtype = weight, x.shape, x.dtype
        return weight.forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        return ctx.weight.backward(grad.reshape(-1, grad.shape[-1])).view(ctx.shape).to(ctx.dtype), None


class Float8Linear(torch.nn.Linear):
    """A frozen linear layer in place of one with a 16-bit or 32-bit weight.

    The codes are a parameter of bytes: nothing casts those, and any process group can send them.
    """

    def __init__(self, base: torch.nn.Linear, device: torch.device) -> None:
        """Round a layer's weight, on the device where it will be used."""
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.compute_dtype, self.rounds = base.weight.dtype, True
        codes, scale = rounded(base.weight.detach().to(device))
        self.weight = torch.nn.Parameter(codes.view(torch.uint8), requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = base.bias
        self.train(base.training)

    def frozen(self) -> Float8Weight:
        """Return the weight."""
        return Float8Weight(self.weight.data.view(CODES), self.scale, self.rounds)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply, in the type that autocast or else the weight that was rounded asks for."""
        device = input.device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.compute_dtype
        y: torch.Tensor = _Float8Product.apply(input.to(cast), self.frozen())
        return y if self.bias is None else y + self.bias.to(cast)


def hold(model: Any, device: torch.device) -> Counter[str]:
    """Round the frozen weights of a model's LoRA layers, in their place; the wider ones are freed.

    Args:
        model: With a LoRA adapter, on any device.
        device: Where the model will be trained.

    Returns:
        How many LoRA layers stay as they are, by reason; "" counts those that do not.

    Raises:
        HardwareError: The device does not multiply 8-bit floating point.
    """
    refuse(device)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    counted: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            reason = "it is the output head" if module is head else _not_covered(module)
            if reason is None:
                module.base_layer = Float8Linear(module.get_base_layer(), device)
            counted[reason or ""] += 1
    return counted


@contextmanager
def without_rounding(model: torch.nn.Module) -> Iterator[None]:
    """Multiply with the rounded weights, and leave tokens and gradients as they are.

    For comparisons: rounding makes steps of 1/16 of the differences between two ways to compute the same.
    """
    held = [module for module in model.modules() if isinstance(module, Float8Linear)]
    for layer in held:
        layer.rounds = False
    try:
        yield
    finally:
        for layer in held:
            layer.rounds = True


def _not_covered(module: Any) -> str | None:
    base = module.base_layer
    if type(module) is not Linear or type(base) is not torch.nn.Linear or module.fan_in_fan_out:
        return f"no plain linear layer: {type(base).__name__}"
    for variant in getattr(module, "lora_variant", {}).values():
        return type(variant).__name__
    if base.weight.requires_grad:
        return "the base layer is trained as well"
    if base.in_features % ALIGNMENT_8BIT or base.out_features % ALIGNMENT_8BIT:
        return f"{base.in_features} x {base.out_features} is no multiple of {ALIGNMENT_8BIT}"
    return None


def refuse(device: torch.device) -> None:
    """Refuse a card whose products are impossible or wrong.

    Raises:
        HardwareError: It is older than Ada, or its kernel does not agree with float32.
    """
    hint = "--set train.float8_base=false"
    if device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < LEAST_FLOAT8:
        needed, has = (".".join(map(str, one)) for one in (LEAST_FLOAT8, found))
        raise HardwareError(
            f"train.float8_base needs compute capability {needed}, {torch.cuda.get_device_name(device)} has {has}",
            hint=hint,
        )
    gap = difference(device)
    if not gap <= TOLERANCE:
        raise HardwareError(f"train.float8_base: torch's product differs by {gap:.1e} on this card", hint=hint)


@functools.cache
def difference(device: torch.device) -> float:
    """Return the difference of a card's products to float32's, as a share of their norm; infinite where it has none.

    The sizes are no multiples of the kernel's tiles.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(*size, generator=generator) for size in ((333, 208), (144, 208), (333, 144)))
    gaps = []
    for place in (torch.device("cpu"), device):
        held = Float8Weight(*(one.to(place) for one in rounded(weight)))
        try:
            gaps.append([held.forward(x.to(place)).cpu(), held.backward(dy.to(place)).cpu()])
        except (RuntimeError, TypeError, NotImplementedError):
            return float("inf")  # built for other cards, or another signature
    return max(float((one - other).norm() / one.norm()) for one, other in zip(*gaps, strict=True))
