"""Multiply with a frozen weight in 8-bit floating point: half the memory of 16 bits, twice the rate on Hopper and Ada.

M tokens, K inputs, N outputs. A weight is stored as e4m3 codes C (N, K) with a float32 scale s for each output; tokens
X (M, K) are rounded to codes with a scale t for each token:

    W = diag(s) C        X ~ diag(t) Q        X W^T ~ (Q C^T) * t s^T        scales are factors of rows and columns
    dX = dY W = (dY diag(s)) C                the scales s are summed over: they enter dY before it is rounded

Gradients are rounded to e4m3 as well: with a scale for each token they need its precision, not the range of e5m2.

Source: https://arxiv.org/abs/2209.05433 (e4m3, e5m2).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch.autograd.function import FunctionCtx, once_differentiable

from trainer.errors import HardwareError
from trainer.model.planning.gpus import LEAST_FLOAT8
from trainer.model.planning.quantised_sizes import ALIGNMENT_8BIT, CHUNK_8BIT

CODES = torch.float8_e4m3fn
LARGEST = float(torch.finfo(CODES).max)
SMALLEST_SCALE = float(torch.finfo(torch.float32).tiny)
"""Scale of rows of zeros, and of rows whose scale would be a subnormal number."""
TOLERANCE = 2.0**-7
"""Limit of a card's error as a share of the norm: twice the rounding of bfloat16 results."""


def rounded(rows: torch.Tensor, factor: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Round rows to e4m3, each with a scale of its own by its largest number.

    Args:
        rows: (rows, columns), any floating type.
        factor: (columns,) float32; rows are multiplied by it first.

    Returns:
        Codes, (rows, columns) in e4m3, and scales, (rows, 1) float32, never 0. An infinite number or NaN makes the
        products of its row NaN.

    Example:
        >>> codes, scale = rounded(torch.tensor([[224.0, -448.0], [1.0, 0.0]]))
        >>> codes.float().tolist(), scale[0].tolist()
        ([[224.0, -448.0], [448.0, 0.0]], [1.0])
    """
    codes = torch.empty_like(rows, dtype=CODES, memory_format=torch.contiguous_format)
    scale = torch.empty(len(rows), 1, dtype=torch.float32, device=rows.device)
    num_rows = max(1, CHUNK_8BIT // rows.shape[1])  # float32 copies of a chunk at a time
    chunks = zip(rows.split(num_rows), codes.split(num_rows), scale.split(num_rows), strict=True)
    for chunk, chunk_codes, chunk_scale in chunks:
        numbers = chunk.float() if factor is None else chunk * factor
        # the largest number of a row gets the largest code, 448
        chunk_scale.copy_((numbers.abs().amax(1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE))
        chunk_codes.copy_(numbers / chunk_scale)
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
        total = left.float() @ right.float().t()  # exact products of codes, (M, N)
    return total.mul_(left_scale).mul_(right_scale.t()).to(dtype)


def on_card(
    left: torch.Tensor, left_scale: torch.Tensor, right: torch.Tensor, right_scale: torch.Tensor
) -> torch.Tensor:
    """Multiply as `product` does, by torch's kernel, to bfloat16: the left side by rows, the right by columns."""
    by_column = right.contiguous().t()
    result: torch.Tensor = torch._scaled_mm(
        left.contiguous(), by_column, left_scale, right_scale.view(1, -1), out_dtype=torch.bfloat16
    )
    return result


@dataclass(frozen=True)
class Float8Weight:
    """A frozen weight, W = diag(scale) codes."""

    codes: torch.Tensor
    """(outputs, inputs) in e4m3."""
    scale: torch.Tensor
    """(outputs, 1) float32."""
    rounds: bool = True
    """Round tokens and gradients as well; False: multiply with W in their type."""

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
        # (dY diag(s)) C: columns of dY times s, so that the product with the codes needs no other scale
        codes, scale = rounded(dy, self.scale[:, 0])
        across = self.codes.t()
        return product(codes, scale, across, torch.ones(len(across), 1, device=dy.device), dy.dtype)


class _Float8Product(torch.autograd.Function):
    """x (..., inputs) -> x Wᵀ."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor, weight: Float8Weight) -> torch.Tensor:
        ctx.weight, ctx.shape, ctx.dtype = weight, x.shape, x.dtype
        return weight.forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        return ctx.weight.backward(grad.reshape(-1, grad.shape[-1])).view(ctx.shape).to(ctx.dtype), None


class Float8Linear(torch.nn.Linear):
    """A frozen linear layer in place of one with a 16-bit or 32-bit weight.

    The codes are a parameter of bytes, which nothing casts and any process group can send.
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


def hold(model: torch.nn.Module, device: torch.device) -> Counter[str]:
    """Round the frozen weights of a model's LoRA layers, in their place; the wider ones are freed.

    Args:
        model: With a LoRA adapter, on any device.
        device: Where the model will be trained.

    Returns:
        The number of LoRA layers that stay as they are, by reason; "" counts the rounded ones.

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
    """Multiply with the rounded weights for a while, without rounding tokens and gradients.

    For comparisons: rounding turns tiny differences between two computations into steps of 1/16.
    """
    layers = [module for module in model.modules() if isinstance(module, Float8Linear)]
    for layer in layers:
        layer.rounds = False
    try:
        yield
    finally:
        for layer in layers:
            layer.rounds = True


def _not_covered(module: LoraLayer) -> str | None:
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
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_FLOAT8:
        needed, has = (".".join(map(str, version)) for version in (LEAST_FLOAT8, capability))
        raise HardwareError(
            f"train.float8_base needs compute capability {needed}, {torch.cuda.get_device_name(device)} has {has}",
            hint=hint,
        )
    gap = difference(device)
    if not gap <= TOLERANCE:
        raise HardwareError(f"train.float8_base: torch's product differs by {gap:.1e} on this card", hint=hint)


@functools.cache
def difference(device: torch.device) -> float:
    """Return the difference of a card's products to float32's, as a share of their norm; infinite: no such kernel.

    The sizes are no multiples of the kernel's tiles, so that its edges are tested as well.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(*size, generator=generator) for size in ((333, 208), (144, 208), (333, 144)))
    products = []
    for target in (torch.device("cpu"), device):
        frozen = Float8Weight(*(tensor.to(target) for tensor in rounded(weight)))
        try:
            products.append([frozen.forward(x.to(target)).cpu(), frozen.backward(dy.to(target)).cpu()])
        except (RuntimeError, TypeError, NotImplementedError):
            return float("inf")  # built for other cards, or another signature
    return max(float((exact - card).norm() / exact.norm()) for exact, card in zip(*products, strict=True))
