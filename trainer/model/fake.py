"""Run a model that has no weights: shapes, types and gradients flow, numbers do not.

A model on the meta device computes shapes, but code that asks for the device (autocast, masks, adapters) expects a real
one. torch's fake tensors are meta tensors that name the CPU as their device; torch and transformers know them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

NOT_FAKED = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, AssertionError)
"""Raised where a step depends on a number, or where torch has no shapes for an operation."""


@contextmanager
def fake_tensors(model: nn.Module) -> Iterator[FakeTensorMode]:
    """Give a model fake tensors on the CPU while the context lasts; its weights are not touched.

    Tensors made inside are fake as well. A step that depends on a number, such as `.item()`, raises RuntimeError.

    Example:
        >>> layer = nn.Linear(4, 3, device="meta")
        >>> with fake_tensors(layer):
        ...     layer(torch.ones(2, 4)).sum().backward()
        >>> layer.weight.device, layer.weight.grad is None
        (device(type='meta'), True)
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    swapped: list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor]] = []
    fakes: dict[int, torch.Tensor] = {}
    # dictionaries of parameters directly: setattr would register anew, and lose the order
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    swapped.append((tensors, name, tensor))
                    # tied weights stay one tensor, or their gradients would be counted twice
                    if id(tensor) not in fakes:
                        fakes[id(tensor)] = _fake(tensor, mode)
    for tensors, name, tensor in swapped:
        tensors[name] = fakes[id(tensor)]
    try:
        with mode, _Repairs(mode):
            yield mode
    finally:
        for tensors, name, tensor in swapped:
            tensors[name] = tensor


class _Repairs(TorchDispatchMode):
    """Mend two operations: products of grouped matrices in types that only CPUs have, and tensors set on a storage.

    torch remembers the arguments of `set_`, so the storage would never be freed.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self.mode = mode

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Return a tensor of the product's shape, or what torch computes."""
        # the cache of shapes holds the storage as a key: a step would seem to keep all that it ever made
        if func is torch.ops.aten.set_.source_Storage_storage_offset:
            remembers, self.mode.cache_enabled = self.mode.cache_enabled, False
            try:
                return func(*args, **(kwargs or {}))
            finally:
                self.mode.cache_enabled = remembers
        if func is not torch.ops.aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        left, right = args[0], args[1]
        assert isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
        # (rows, k) x (groups, k, n) by offsets, (groups, m, k) x (groups, k, n), or (m, rows) x (rows, n) a group
        offsets = kwargs.get("offs") if kwargs else None
        offsets = args[2] if len(args) > 2 else offsets
        groups = [offsets.shape[0]] if isinstance(offsets, torch.Tensor) and left.dim() == right.dim() == 2 else []
        stacked = [left.shape[0]] if left.dim() == right.dim() == 3 else []
        return left.new_empty([*groups, *stacked, left.shape[-2], right.shape[-1]])


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        fake = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
    return fake
