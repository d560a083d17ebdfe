"""Hold the stacked matrices of experts in 4 bits, or as base plus update, and compute them at each use.

A `LazyTensor` has the shape and type of the weights (experts, rows, columns), and memory for their short form alone.
Any operation but a view computes the dense weights and drops them afterwards. Autograd saves the short form: the
backward pass computes the weights again. So models, PEFT and all implementations of experts in transformers work
unchanged.

bitsandbytes' own parametrization keeps each dense copy until the backward pass, and PEFT 0.21 never removes its update
from such a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise, quantize_4bit
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils._pytree import tree_map

ATEN = torch.ops.aten
VIEWS = frozenset(
    {
        ATEN.alias.default,
        ATEN.detach.default,
        ATEN.expand.default,
        ATEN.permute.default,
        ATEN.select.int,
        ATEN.slice.Tensor,
        ATEN.t.default,
        ATEN.transpose.int,
        ATEN.unsqueeze.default,
        ATEN.view.default,
    }
)
"""Operations that stay lazy: they change shape and order, never a number."""
View = tuple[Callable[..., torch.Tensor], tuple[Any, ...], dict[str, Any]]


class ShortForm(Protocol):
    """The short form of stacked weights."""

    @property
    def num_experts(self) -> int:
        """Matrices in the stack."""
        ...

    def dense(self) -> torch.Tensor:
        """Return the weights, (experts, rows, columns)."""
        ...

    def expert(self, number: int) -> torch.Tensor:
        """Return the weights of one expert, (rows, columns)."""
        ...


@dataclass(frozen=True)
class FourBitStack:
    """Weights in bitsandbytes' 4 bits, quantised over the whole stack."""

    packed: torch.Tensor
    """uint8, two weights in a byte."""
    state: QuantState

    @property
    def num_experts(self) -> int:
        return int(self.state.shape[0])

    @property
    def num_bytes(self) -> int:
        """Bytes of codes, scales and tables."""
        nested = self.state.state2
        tensors = [self.packed, self.state.absmax, self.state.code]
        tensors += [nested.absmax, nested.code, self.state.offset] if nested is not None else []
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def dense(self) -> torch.Tensor:
        weights: torch.Tensor = dequantize_4bit(self.packed, self.state)
        return weights

    def expert(self, number: int) -> torch.Tensor:
        shape, block = torch.Size(self.state.shape[1:]), self.state.blocksize
        size = shape.numel()
        if size % block or size % 2:  # a block of weights with one scale reaches into the next expert
            return self.dense()[number]
        scales = self.state.absmax
        if self.state.nested:
            # double quantisation: scales are 8-bit codes around their mean, `offset`
            scales = dequantize_blockwise(scales, self.state.state2) + self.state.offset
        first = number * size  # index of the expert's first weight in the flat stack
        state = QuantState(
            absmax=scales[first // block : (first + size) // block].float(),
            shape=shape,
            code=self.state.code,
            blocksize=block,
            quant_type=self.state.quant_type,
            dtype=self.state.dtype,
        )
        # two weights a byte
        weights: torch.Tensor = dequantize_4bit(self.packed[first // 2 : (first + size) // 2], state)
        return weights


@dataclass(frozen=True)
class UpdatedStack:
    """W + s L R for each expert: W (experts, rows, columns), L (experts, rows, rank), R (experts, rank, columns)."""

    base: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    scaling: float

    @property
    def num_experts(self) -> int:
        return self.base.shape[0]

    def dense(self) -> torch.Tensor:
        if isinstance(self.base, LazyTensor):  # its dense weights are a copy, which may hold the sum
            return self.base.dense().baddbmm_(self.left, self.right, alpha=self.scaling)
        return torch.baddbmm(self.base, self.left, self.right, alpha=self.scaling)  # (E, rows, r) (E, r, columns)

    def expert(self, number: int) -> torch.Tensor:
        base = densified(self.base[number])  # of a lazy tensor: these blocks alone
        return torch.addmm(base, self.left[number], self.right[number], alpha=self.scaling)  # (rows, r) (r, columns)


class LazyTensor(torch.Tensor):
    """Stacked weights that exist while an operation reads them."""

    source: ShortForm
    views: tuple[View, ...]

    @staticmethod
    def __new__(
        cls, source: ShortForm, like: torch.Tensor, device: torch.device, *, views: tuple[View, ...] = ()
    ) -> Any:
        """Return a tensor of the shape, strides and type of `like`."""
        return torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=device
        )

    def __init__(
        self, source: ShortForm, like: torch.Tensor, device: torch.device, views: tuple[View, ...] = ()
    ) -> None:
        self.source = source
        self.views = views

    def __repr__(self, **_: object) -> str:
        return f"LazyTensor({type(self.source).__name__}, {tuple(self.shape)}, {self.dtype})"

    def dense(self) -> torch.Tensor:
        """Return the weights as an ordinary tensor."""
        views = list(self.views)
        while views and views[0][0] in (ATEN.detach.default, ATEN.alias.default):
            views.pop(0)
        # autocast would round the sum to its own type; these weights have theirs
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            # loops over experts take one at a time: only its blocks are dequantised, never the stack
            if views and views[0][0] is ATEN.select.int and views[0][1][0] == 0:
                weights = self.source.expert(views.pop(0)[1][1] % self.source.num_experts)
            else:
                weights = self.source.dense()
            for view, arguments, keywords in views:
                weights = view(weights, *arguments, **keywords)
        return weights

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        """Record a view; compute the weights for any other operation.

        Raises:
            RuntimeError: The operation writes: the result would be lost.
        """
        keywords = keywords or {}
        first = arguments[0] if arguments else None
        if operation in VIEWS and isinstance(first, LazyTensor):
            # the view runs on the meta device, for its shape and strides alone
            empty = torch.empty_strided(first.shape, first.stride(), dtype=first.dtype, device="meta")
            like = operation(empty, *arguments[1:], **keywords)
            view: View = (operation, tuple(arguments[1:]), keywords)
            return LazyTensor(first.source, like, first.device, views=(*first.views, view))
        written = [value for value, role in zip(arguments, operation._schema.arguments, strict=False) if role.is_write]
        if any(isinstance(value, LazyTensor) for value in written):
            raise RuntimeError(f"{operation} would write into weights that are computed at each use")
        return operation(*tree_map(densified, arguments), **tree_map(densified, keywords))


def densified(value: Any) -> Any:
    """Return the dense weights of a lazy tensor; anything else as it is."""
    return value.dense() if isinstance(value, LazyTensor) else value


def packed_experts(weight: torch.Tensor, *, quant_type: str, double_quant: bool) -> torch.nn.Parameter:
    """Quantise stacked weights, (experts, rows, columns) in the type of the products, to a frozen parameter.

    Example:
        >>> weight = torch.arange(256.0).reshape(2, 2, 64)
        >>> packed = packed_experts(weight, quant_type="nf4", double_quant=False)
        >>> packed.shape, packed.source.num_bytes  # 256 half bytes, 4 scales, a table of 16
        (torch.Size([2, 2, 64]), 208)
        >>> torch.equal(packed[1].dense(), packed.dense()[1])
        True
    """
    packed, state = quantize_4bit(weight, compress_statistics=double_quant, quant_type=quant_type)
    like = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
    return torch.nn.Parameter(LazyTensor(FourBitStack(packed, state), like, weight.device), requires_grad=False)


class LazySum(torch.autograd.Function):
    """W, L, R, s -> W + s L R as a lazy tensor; the gradients are dL = s dW Rᵀ and dR = s Lᵀ dW for each expert."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, base: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Return the sum; no number is computed here."""
        ctx.save_for_backward(left, right)
        ctx.scaling = scaling
        source = UpdatedStack(base.detach(), left.detach(), right.detach(), scaling)
        result: torch.Tensor = LazyTensor(source, torch.empty_like(base, device="meta"), base.device)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of W, where it is such a sum itself, L and R."""
        left, right = ctx.saved_tensors
        dense = densified(grad)  # (experts, rows, columns): the factors' gradients are scaled, which are small
        of_left, of_right = (dense @ right.mT).mul_(ctx.scaling), (left.mT @ dense).mul_(ctx.scaling)
        return dense if ctx.needs_input_grad[0] else None, of_left, of_right, None
