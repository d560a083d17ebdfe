"""Attention inside segments: equal to a dense mask in float64, and nothing else is let through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer.engine import current, flash
from trainer.engine.attention import NotCovered, segment_attention
from trainer.engine.plain import by_segment
from trainer.engine.segments import Segment, Segments, lower_right

SPANS = [Segment(0, 9), Segment(9, 14, 0, 4), Segment(14, 15), Segment(15, 35), Segment(35, 37, 15, 30)]
TOKENS, HEADS, KEY_HEADS, SIZE = 37, 4, 2, 8


def inputs(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, heads, TOKENS, SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def allowed(window: int | None) -> torch.Tensor:
    """Return who may see whom, (T, T), built token by token."""
    table = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    for span in SPANS:
        keys = [*range(span.prefix_low, span.prefix_high), *range(span.low, span.high)]
        for query in range(span.low, span.high):
            observed = keys[: len(keys) - (span.high - 1 - query)]
            table[query, observed[-window:] if window else observed] = True
    return table


def dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    k, v = (tensor.repeat_interleave(HEADS // KEY_HEADS, 1) for tensor in (k, v))
    scores = q @ k.transpose(2, 3) * (scale or SIZE**-0.5)
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~allowed(window), float("-inf")).exp()
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp().reshape(1, -1, 1, 1)
    return (weights / total @ v).transpose(1, 2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.2},
        {"window": 3},
        {"window": 100},
        {"softcap": 2.0},
        {"softcap": 2.0, "window": 3},
        {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)},
        {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64), "window": 5},
    ],
    ids=["plain", "scale", "window", "wide window", "soft cap", "soft cap in a window", "sinks", "sinks in a window"],
)
def test_segments_attend_as_a_dense_mask_does(options: dict[str, Any]) -> None:
    segments = Segments.of(SPANS)
    results = []
    for function, leading in ((by_segment, (segments,)), (dense, ())):
        leaves = inputs()
        output = function(*leaves, *leading, **options)
        assert output.shape == (1, TOKENS, HEADS, SIZE)
        weight = torch.sin(torch.arange(output.numel(), dtype=torch.float64)).view(output.shape)
        results.append([output, *torch.autograd.grad((output * weight).sum(), leaves)])
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_a_mask_is_aligned_at_the_lower_right() -> None:
    like = torch.zeros((), dtype=torch.float32)
    assert lower_right(2, 4, None, like).isfinite().tolist() == [[True, True, True, False], [True] * 4]
    assert lower_right(2, 4, 2, like).isfinite().tolist() == [[False, True, True, False], [False, False, True, True]]


def test_the_kernel_is_given_the_segments_that_plain_attention_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments for torch's kernel, run through a kernel written from its documentation."""

    def kernel(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and enable_gqa and window_size[1] == 0
        outputs = []
        for index in range(len(cu_seq_q) - 1):
            q, k, v = (
                tensor[starts[index] : starts[index + 1]].transpose(0, 1)
                for tensor, starts in ((query, cu_seq_q), (key, cu_seq_k), (value, cu_seq_k))
            )
            assert q.shape[1] <= max_q and k.shape[1] <= max_k
            window = None if window_size[0] < 0 else window_size[0] + 1
            mask = lower_right(q.shape[1], k.shape[1], window, q)
            outputs.append(
                torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
            )
        return torch.cat(outputs, 1).transpose(0, 1)

    monkeypatch.setattr(flash, "varlen_attn", kernel)
    flash._parameters.cache_clear()
    segments = Segments.of(SPANS)
    for window in (None, 3):
        result = flash.attend(*inputs(), segments, scale=None, window=window)
        torch.testing.assert_close(result, by_segment(*inputs(), segments, window=window), rtol=1e-12, atol=1e-12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as the start-up test may ask first
        assert max(flash.differences(torch.device("cpu"), torch.bfloat16)) < flash.TOLERANCE
    flash._parameters.cache_clear()


def test_the_kernel_is_refused_when_it_aligns_at_the_upper_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(
        query: Any, key: Any, value: Any, starts_q: Any, starts_k: Any, *_: Any, window_size: Any = None, **__: Any
    ) -> torch.Tensor:
        outputs = []
        for index in range(len(starts_q) - 1):
            q, k, v = (
                tensor[starts[index] : starts[index + 1]].transpose(0, 1)
                for tensor, starts in ((query, starts_q), (key, starts_k), (value, starts_k))
            )
            outputs.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
        return torch.cat(outputs, 1).transpose(0, 1)

    monkeypatch.setattr(flash, "varlen_attn", kernel)
    flash._parameters.cache_clear()
    assert max(flash.differences(torch.device("cpu"), torch.bfloat16)) > flash.TOLERANCE
    flash._parameters.cache_clear()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"is_causal": False}, "not causal"),
        ({"attention_mask": torch.ones(1)}, "not causal"),
        ({"position_bias": torch.ones(1)}, "position_bias"),
        ({"brand_new": 3}, "brand_new"),
    ],
)
def test_what_is_not_honoured_raises(keywords: dict[str, Any], message: str) -> None:
    module: Any = SimpleNamespace()
    with current.of(Segments.of(SPANS)), pytest.raises(NotCovered, match=message):
        segment_attention(module, *inputs(), **keywords)


def test_attention_without_the_segments_of_a_batch_raises() -> None:
    module: Any = SimpleNamespace()
    with pytest.raises(NotCovered):
        segment_attention(module, *inputs())


def test_types_of_layers_whose_reach_is_unknown_raise() -> None:
    config = SimpleNamespace(layer_types=["full_attention", "chunked_attention"])
    chunked: Any = SimpleNamespace(config=config, layer_idx=1)
    unnumbered: Any = SimpleNamespace(config=config)
    for module in (chunked, unnumbered):
        with current.of(Segments.of(SPANS)), pytest.raises(NotCovered, match="chunked_attention"):
            segment_attention(module, *inputs())


def test_a_window_that_does_not_arrive_raises() -> None:
    config = SimpleNamespace(layer_types=["full_attention", "sliding_attention"], sliding_window=4)
    full: Any = SimpleNamespace(config=config, layer_idx=0)
    sliding: Any = SimpleNamespace(config=config, layer_idx=1)
    with current.of(Segments.of(SPANS)):
        segment_attention(full, *inputs(), position_ids=None, use_cache=False)
        segment_attention(sliding, *inputs(), sliding_window=4)
        with pytest.raises(NotCovered, match="window by a mask"):
            segment_attention(sliding, *inputs())


def test_a_token_of_another_segment_changes_nothing() -> None:
    segments = Segments.of(SPANS)
    q, k, v = (tensor.detach() for tensor in inputs())
    before = by_segment(q, k, v, segments)
    for tensor in (q, k, v):
        tensor[:, :, 14:15] += 1
    after = by_segment(q, k, v, segments)
    assert torch.equal(before[:, :14], after[:, :14]) and torch.equal(before[:, 15:], after[:, 15:])
    assert not torch.equal(before[:, 14], after[:, 14])
