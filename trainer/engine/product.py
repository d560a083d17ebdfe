"""Compute one LoRA linear layer as one product, y = x Wᵀ + s (x Aᵀ) Bᵀ, with few passes over large tensors.

    x (M, K) tokens by inputs     W (N, K) frozen      A (r, K), B (N, r) trained, r the rank      s the scaling

PEFT computes three products, scales the third and adds it: several tensors of shape (M, N), most of which autograd
saves and reads again. Here the adapter enters the base layer's own product. With

    block = [[W, sB],      (N + r, K + r)
             [A,  0]]

    forward   widening layer     y           = [x | x Aᵀ] [W | sB]ᵀ
              other layer        [u | x Aᵀ]  = x [W; A]ᵀ             y = u + (x Aᵀ) (sB)ᵀ
    backward  widening layer     [v | dxa]   = dy [W | sB]           dx = v + dxa A
              other layer        dx          = [dy | dxa] [W; A]     with dxa = dy sB
    always    dA = dxaᵀ x        dB = s dyᵀ (x Aᵀ)

Only x and x Aᵀ are saved for the backward pass.

Source: https://arxiv.org/abs/2106.09685 (LoRA), equation 3; the gradients follow from the product rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import FunctionCtx, once_differentiable


class FrozenBlock:
    """A frozen weight with margins for an adapter beside and below it.

    The adapter is copied in before each use: it is small, and another one may have been used since. So autograd never
    saves the block.

    Example:
        >>> block = FrozenBlock(torch.tensor([[1.0, 2.0]]), rank=1)
        >>> _ = block.load(torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0]]), scaling=2.0)
        >>> block.values.tolist()  # [[W, sB], [A, 0]]
        [[1.0, 2.0, 10.0], [3.0, 4.0, 0.0]]
    """

    def __init__(self, weight: torch.Tensor, rank: int, packed: torch.Tensor | None = None) -> None:
        """Copy a weight, (outputs, inputs), into a block; `packed` is the 4-bit weight that it was dequantised from."""
        self.outputs, self.inputs = weight.shape
        self.rank = rank
        self.values = weight.new_zeros(self.outputs + rank, self.inputs + rank)
        self.weight = self.values[: self.outputs, : self.inputs]
        self.weight.copy_(weight)
        # a reference, so that no other weight can get its address
        self.source = self.weight if packed is None else packed.detach()

    def holds(self, weight: torch.Tensor) -> bool:
        """Tell whether a layer's weight is still the one in this block."""
        # a fake weight has no address: it stands for the one that was put here
        return isinstance(weight, FakeTensor) or weight.data_ptr() == self.source.data_ptr()

    def load(self, a: torch.Tensor, b: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy an adapter in; return views of A, (r, K), and sB, (N, r)."""
        block_a, block_b = self.values[self.outputs :, : self.inputs], self.values[: self.outputs, self.inputs :]
        block_a.copy_(a)
        torch.mul(b, scaling, out=block_b)
        return block_a, block_b

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
    """The base layer in one call."""

    weight: Callable[[], torch.Tensor]
    """Returns (outputs, inputs) in the type of the product; 4-bit weights are dequantised in each call."""
    bias: torch.Tensor | None
    block: FrozenBlock | None
    keep: bool
    """Save `weight()` for the backward pass: it takes no memory, or the layer's backward pass follows at once."""

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
        ctx: FunctionCtx,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        base: Frozen,
        product: torch.dtype,
        adapter: torch.dtype,
    ) -> torch.Tensor:
        """Return y."""
        rows = x.reshape(-1, x.shape[-1]).to(product)  # (M, K)
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
        return _owned(y.view(*x.shape[:-1], y.shape[-1]))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        rows, xa, a, b, weight = ctx.saved_tensors
        base, needs = ctx.base, ctx.needs_input_grad
        small_a, scaled_b = base.adapter(a, b, ctx.scaling, ctx.adapter)
        dy = grad.reshape(-1, grad.shape[-1]).to(rows.dtype)  # (M, N)
        # the first layer of a model with frozen embeddings: nothing below wants dx
        if not needs[0]:
            dx, dxa = None, dy.to(ctx.adapter) @ scaled_b
        elif base.block is None:
            dx, dxa = _backward(dy, base.weight() if weight is None else weight, small_a, scaled_b)
        elif _widens(base.block.outputs, base.block.inputs):
            dx, dxa = _backward_below(dy, base.block, scaled_b)
        else:
            dx, dxa = _backward_beside(dy, base.block, small_a)
        da = dxa.t() @ rows.to(ctx.adapter) if needs[1] else None  # (r, M) (M, K)
        db = (dy.to(ctx.adapter).t() @ xa).to(b.dtype).mul_(ctx.scaling) if needs[2] else None
        shape, dtype = ctx.x
        return (
            None if dx is None else dx.view(shape).to(dtype),
            None if da is None else da.to(a.dtype),
            db,
            *(None,) * 4,
        )


def _owned(y: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the same memory that is no view: models may add to the result in place."""
    return y.new_empty(0).set_(y.untyped_storage(), y.storage_offset(), y.shape, y.stride())


def _widens(narrow: int, wide: int) -> bool:
    """Tell whether copying the narrow side moves fewer bytes than adding to the wide side.

    A copy reads, writes and reads again, 3 passes over the narrow side; adding reads and writes, 2 over the wide one.
    """
    return 3 * narrow < 2 * wide


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left @ right in place; one kernel where the types are equal, else with one more rounding."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _forward(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    xa = x.to(a.dtype) @ a.t()
    y = torch.nn.functional.linear(x, weight, bias)
    _add_product(y, xa, b.t())
    return y, xa


def _forward_beside(
    x: torch.Tensor, block: FrozenBlock, bias: torch.Tensor | None, a: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    xa = x @ a.t()
    return torch.nn.functional.linear(torch.cat([x, xa], 1), block.beside, bias), xa  # (M, K + r) (K + r, N)


def _forward_below(
    x: torch.Tensor, block: FrozenBlock, bias: torch.Tensor | None, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    padded = None if bias is None else torch.nn.functional.pad(bias, (0, block.rank))
    both = torch.nn.functional.linear(x, block.below, padded)  # (M, N + r) = [u | x Aᵀ]
    y, xa = both[:, : block.outputs], both[:, block.outputs :].clone()  # a view would keep all of `both` in memory
    y.addmm_(xa, b.t())
    return y, xa


def _backward(
    dy: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    dxa = dy.to(b.dtype) @ b  # b is sB, (N, r)
    dx = dy @ weight
    _add_product(dx, dxa, a)
    return dx, dxa


def _backward_beside(dy: torch.Tensor, block: FrozenBlock, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = dy @ block.beside  # (M, K + r) = [v | dxa]
    dx, dxa = both[:, : block.inputs], both[:, block.inputs :]
    dx.addmm_(dxa, a)
    return dx, dxa


def _backward_below(dy: torch.Tensor, block: FrozenBlock, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dxa = dy @ b
    return torch.cat([dy, dxa], 1) @ block.below, dxa  # (M, N + r) (N + r, K)
