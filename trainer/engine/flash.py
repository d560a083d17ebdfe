"""Compute variable-length attention by the FlashAttention that torch ships for CUDA.

Its signature changed between torch 2.10, 2.11 and 2.13, so one function here calls it. A card uses it only after its
results have agreed with those of plain attention.

Shapes: T tokens, h query heads, g key heads, d head size.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch

from trainer.engine.plain import by_segment
from trainer.engine.segments import Segment, Segments

try:
    from torch.nn.attention import varlen
except ImportError:  # a torch built without it
    varlen = None
varlen_attn: Any = getattr(varlen, "varlen_attn", None)

HALF = (torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256
TOLERANCE = 0.02
"""Largest difference to float32 attention of unit-normal inputs: three bfloat16 roundings of values below 2."""


def covers(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Tell whether the kernel takes these tensors, (1, h or g, T, d) each, on this card."""
    size = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype == key.dtype == value.dtype
        and query.dtype in HALF
        and size <= MAX_HEAD_DIM
        and size % 8 == 0
        and value.shape[-1] == size
        and agrees(query.device.index, query.dtype)
    )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    *,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """Return causal attention inside each segment.

    Args:
        query: (1, h, T, d), half precision, on CUDA.
        key: (1, g, T, d).
        value: Like `key`.
        segments: On the same device.
        scale: Of the scores; None: 1 / sqrt(d).
        window: Largest number of keys of a query, itself included; None: all.

    Returns:
        (1, T, h, d).
    """
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (T, heads, d)
    if segments.key_index is not None:  # keys of shared prompts, once for each answer
        k, v = k.index_select(0, segments.key_index), v.index_select(0, segments.key_index)
    return _call(q, k, v, segments, scale, window)[None]


def _call(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments, scale: float | None, window: int | None
) -> torch.Tensor:
    options: dict[str, object] = {"scale": scale}
    if "window_size" in _parameters():
        options["window_size"] = (-1 if window is None else window - 1, 0)  # (left, right): no key to the right
    elif window is None:
        options["is_causal"] = True
    else:
        raise RuntimeError("this torch's varlen_attn has no sliding window")
    if "enable_gqa" in _parameters():
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    # q (T, h, d); k, v (gathered keys, g, d); causal at the lower right where a segment has more keys than queries
    return varlen_attn(q, k, v, segments.starts_q, segments.starts_k, segments.longest_q, segments.longest_k, **options)


@functools.cache
def _parameters() -> frozenset[str]:
    return frozenset(inspect.signature(varlen_attn).parameters)


@functools.cache
def agrees(device: int, dtype: torch.dtype) -> bool:
    """Compare the kernel with plain float32 attention on this card: forward and gradients, once a process.

    Segments with fewer queries than keys, grouped heads and a window show errors of alignment, grouping and window.
    """
    if varlen_attn is None:
        return False
    try:
        return max(differences(torch.device("cuda", device), dtype)) <= TOLERANCE
    except (RuntimeError, TypeError, ValueError):
        return False  # another signature, or a card without FlashAttention


def differences(device: torch.device, dtype: torch.dtype) -> list[float]:
    """Return the largest difference to float32 attention of the output and each gradient, with and without a window.

    The differences are relative to the largest value of each. The caller's autocast and gradient mode change nothing.
    """
    spans = [Segment(0, 70), Segment(70, 100, 0, 40), Segment(100, 101), Segment(101, 133)]
    segments = Segments.of(spans).to(device)
    generator = torch.Generator().manual_seed(0)
    largest = []
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for window in (None, 16):
            inputs = [torch.randn(1, heads, 133, 64, generator=generator) for heads in (4, 2, 2)]  # h = 4, g = 2
            weight = torch.randn(1, 133, 4, 64, generator=generator).to(device)
            results = []
            for kind in (torch.float32, dtype):
                # both start from the numbers that half precision can hold, so only the kernels' own rounding differs
                leaves = [tensor.to(device, dtype).to(kind).requires_grad_() for tensor in inputs]
                function: Callable[..., torch.Tensor] = attend if kind == dtype else by_segment
                output = function(*leaves, segments, scale=None, window=window)
                # a random weight for each output: a plain sum would let errors of opposite sign cancel
                gradients = torch.autograd.grad((output.float() * weight).sum(), leaves)
                results.append([output.detach(), *gradients])
            largest += [float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results, strict=True)]
    return largest


def name() -> str:
    """Return the name of the kernel for a log line."""
    return f"FlashAttention of torch ({fastest()}) on segments"


@functools.cache
def fastest() -> str:
    """Switch to FlashAttention 3 or 4 where torch can activate it, once a process; return the version in use."""
    activate: Callable[[str], None] | None = getattr(torch.nn.attention, "activate_flash_attention_impl", None)
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
    by_capability = {
        9: (("FA3", "flash_attn_interface"), ("FA4", "flash_attn.cute")),
        10: (("FA4", "flash_attn.cute"),),
    }
    for name, package in by_capability.get(capability[0], ()):
        if activate and _is_installed(package):
            try:
                activate(name)
            except (RuntimeError, ValueError, ImportError):
                continue
            agrees.cache_clear()
            if agrees(torch.cuda.current_device(), torch.bfloat16):
                return name
            torch.nn.attention.restore_flash_attention_impl()
            agrees.cache_clear()
    return "FA2"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
