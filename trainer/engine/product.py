"""One LoRA linear layer as one differentiable product: y = x Wᵀ + s (x Aᵀ) Bᵀ, with few passes over large tensors.

PEFT makes three products, scales the third and adds it: each is a tensor of tokens x features, and automatic
differentiation keeps and walks through most of them again. Here the adapter enters the base layer's own product. With

    block = [[W, sB],
             [A,  0]]

the forward pass is `[x | x Aᵀ] [W | sB]ᵀ` where the layer widens, and `x [W; A]ᵀ`, which gives x Wᵀ and x Aᵀ at once,
where it does not; the backward pass mirrors it. Only x and x Aᵀ are kept.

Source: https://arxiv.org/abs/2106.09685 (LoRA), equation 3; the gradients follow from the product rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from trainer.engine.float8 import Float8Weight


class FrozenBlock:
    """A frozen weight with room for an adapter beside and below it.

    The adapter is written in before each use: it is small, and another one may have been used in between. For that
    reason the block is never among the tensors that automatic differentiation keeps.
    """

    def __init__(self, weight: torch.Tensor, rank: int, packed: torch.Tensor | None = None) -> None:
        """Copy a weight, (outputs, inputs), into a block; `packed` is the 4-bit weight that it was made of."""
        self.outputs, self.inputs = weight.shape
        self.rank = rank
        self.values = weight.new_zeros(self.outputs + rank, self.inputs + rank)
        self.weight = self.values[: self.outputs, : self.inputs]
        self.weight.copy_(weight)
        # held, so that no other weight can come to lie at its address
        self.source = self.weight if packed is None else packed.detach()

    def holds(self, weight: torch.Tensor) -> bool:
        """Tell whether a layer's weight is still the one of this block."""
        return weight.data_ptr() == self.source.data_ptr()

    def load(self, a: torch.Tensor, b: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Write an adapter in; return A and sB as the block has them."""
        at_a, at_b = self.values[self.outputs :, : self.inputs], self.values[: self.outputs, self.inputs :]
        at_a.copy_(a)
        torch.mul(b, scaling, out=at_b)
        return at_a, at_b

    @property
    def beside(self) -> torch.Tensor:
        """[W | sB], (outputs, inputs + rank)."""
        return self.values[: self.outputs]

    @property
    def below(self) -> torch.Tensor:
        """[W; A], (outputs + rank, inputs)."""
        return self.values[:, : self.inputs]


@dataclass(frozen=True)
class Frozen:
    """The base layer of one call."""

    weight: Callable[[], torch.Tensor | Float8Weight]
    """Gives (outputs, inputs) in the type of the product or in 8 bits; computed anew each time for 4-bit weights."""
    bias: torch.Tensor | None
    block: FrozenBlock | None
    keep: bool
    """Keep `weight()` for the backward pass: it costs no memory, or its layer's backward pass follows at once."""

    def adapter(
        self, a: torch.Tensor, b: torch.Tensor, scaling: float, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A and sB in the type of the adapter's product."""
        if self.block is not None:
            return self.block.load(a, b, scaling)
        return a.to(dtype), (b * scaling).to(dtype)


class LoraProduct(torch.autograd.Function):
    """x (..., inputs), A (rank, inputs), B (outputs, rank) -> (..., outputs) in the type of `product`.

    Args of `apply`: x, A, B, the scaling s, `Frozen`, the types of the base's product and of the adapter's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        base: Frozen,
        product: torch.dtype,
        adapter: torch.dtype,
    ) -> torch.Tensor:
        """Multiply."""
        rows = x.reshape(-1, x.shape[-1]).to(product)
        small_a, scaled_b = base.adapter(a, b, scaling, adapter)
        weight = None
        if base.block is None:
            weight = base.weight()
            y, xa = _forward(rows, weight, base.bias, small_a, scaled_b)
        elif _widens(base.block.inputs, base.block.outputs):
            y, xa = _forward_beside(rows, base.block, base.bias, small_a)
        else:
            y, xa = _forward_below(rows, base.block, base.bias, scaled_b)
        ctx.save_for_backward(rows, xa, a, b, weight if base.keep else None)
        ctx.scaling, ctx.base, ctx.adapter, ctx.x = scaling, base, adapter, (x.shape, x.dtype)
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, A and B."""
        rows, xa, a, b, weight = ctx.saved_tensors
        base, wanted = ctx.base, ctx.needs_input_grad
        small_a, scaled_b = base.adapter(a, b, ctx.scaling, ctx.adapter)
        dy = grad.reshape(-1, grad.shape[-1]).to(rows.dtype)
        if not wanted[0]:
            dx, dxa = None, dy.to(ctx.adapter) @ scaled_b
        elif base.block is None:
            dx, dxa = _backward(dy, base.weight() if weight is None else weight, small_a, scaled_b)
        elif _widens(base.block.outputs, base.block.inputs):
            dx, dxa = _backward_below(dy, base.block, scaled_b)
        else:
            dx, dxa = _backward_beside(dy, base.block, small_a)
        da = dxa.t() @ rows.to(ctx.adapter) if wanted[1] else None
        db = (dy.to(ctx.adapter).t() @ xa).to(b.dtype).mul_(ctx.scaling) if wanted[2] else None
        shape, dtype = ctx.x
        return (
            None if dx is None else dx.view(shape).to(dtype),
            None if da is None else da.to(a.dtype),
            db,
            *(None,) * 4,
        )


def _widens(narrow: int, wide: int) -> bool:
    """Tell whether copying the narrow side (read, write, read again) moves less than adding to the wide one."""
    return 3 * narrow < 2 * wide


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left @ right in place, inside the product where the types allow it, and rounded once where not."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _forward(
    x: torch.Tensor, weight: torch.Tensor | Float8Weight, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    xa = x.to(a.dtype) @ a.t()
    if isinstance(weight, Float8Weight):
        y = weight.forward(x) if bias is None else weight.forward(x).add_(bias)
    else:
        y = torch.nn.functional.linear(x, weight, bias)
    _add_product(y, xa, b.t())
    return y, xa


def _forward_beside(
    x: torch.Tensor, block: FrozenBlock, bias: torch.Tensor | None, a: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    xa = x @ a.t()
    return torch.nn.functional.linear(torch.cat([x, xa], 1), block.beside, bias), xa


def _forward_below(
    x: torch.Tensor, block: FrozenBlock, bias: torch.Tensor | None, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    padded = None if bias is None else torch.nn.functional.pad(bias, (0, block.rank))
    both = torch.nn.functional.linear(x, block.below, padded)
    y, xa = both[:, : block.outputs], both[:, block.outputs :].clone()  # a view would keep all of y in memory
    y.addmm_(xa, b.t())
    return y, xa


def _backward(
    dy: torch.Tensor, weight: torch.Tensor | Float8Weight, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    dxa = dy.to(b.dtype) @ b
    dx = weight.backward(dy) if isinstance(weight, Float8Weight) else dy @ weight
    _add_product(dx, dxa, a)
    return dx, dxa


def _backward_beside(dy: torch.Tensor, block: FrozenBlock, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = dy @ block.beside
    dx, dxa = both[:, : block.inputs], both[:, block.inputs :]
    dx.addmm_(dxa, a)
    return dx, dxa


def _backward_below(dy: torch.Tensor, block: FrozenBlock, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dxa = dy @ b
    return torch.cat([dy, dxa], 1) @ block.below, dxa
