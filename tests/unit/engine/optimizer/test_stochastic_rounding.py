"""Stochastic rounding: right on average, exact where it can be."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.engine.optimizer.adamw_8bit import STATE_BLOCK
from trainer.engine.optimizer.block_update import BLOCK
from trainer.engine.optimizer.stochastic_rounding import Noise, to_bfloat16

DRAWS = 1 << 16


def neighbours(value: float) -> tuple[float, float]:
    """Return the bfloat16 numbers below and above in magnitude, by cutting bits."""
    bits = torch.tensor([value]).view(torch.int32) >> 16 << 16
    low, high = bits.view(torch.float32), (bits + (1 << 16)).view(torch.float32)
    return float(low), float(high)


def draws(value: float, *stream: int) -> torch.Tensor:
    values = torch.full((DRAWS,), value)
    return to_bfloat16(values, Noise(values.device, 1, *stream).take(DRAWS)).double()


@pytest.mark.parametrize(
    "value", [1.001, -1.001, 3.1415927, 0.999999, -255.4, 1.7e-5, 1e-38, -1e-39, 3.7e-40, 2.9e38, 1 + 2**-23]
)
def test_the_mean_of_many_roundings_is_the_float32_value(value: float) -> None:
    result, exact = draws(value), float(torch.tensor(value))
    low, high = neighbours(value)
    assert set(result.tolist()) <= {low, high}
    chance = (exact - low) / (high - low)
    error = abs(high - low) * math.sqrt(chance * (1 - chance) / DRAWS)
    assert abs(float(result.mean()) - exact) <= 5 * error + 1e-12 * abs(exact)


def test_what_bfloat16_holds_stays_as_it_is() -> None:
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    every = bits.view(torch.bfloat16)
    exact = every.float()[torch.isfinite(every.float())]
    for stream in range(20):
        result = to_bfloat16(exact, Noise(exact.device, stream).take(len(exact)))
        assert torch.equal(result.view(torch.int16), exact.bfloat16().view(torch.int16))  # also the sign of zero


def test_infinities_nan_and_overflow_go_to_nearest() -> None:
    payloads = torch.tensor([0x7F800001, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)  # NaN, of all kinds
    largest = torch.finfo(torch.float32).max
    values = torch.cat([payloads, torch.tensor([math.inf, -math.inf, largest, -largest])])
    for stream in range(50):
        result = to_bfloat16(values, Noise(values.device, stream).take(len(values)))
        assert result[:3].isnan().all()
        assert result[3:].tolist() == [math.inf, -math.inf, math.inf, -math.inf]


def test_noise_is_uniform_and_depends_on_its_numbers_alone() -> None:
    device = torch.device("cpu")
    result = Noise(device, 7, 3, 2).take(1 << 20)
    assert result.min() == 0 and result.max() == 65535
    counts = torch.bincount(result >> 6, minlength=1024).double()
    squared = float(((counts - 1024).square() / 1024).sum())  # chi-squared with 1023 degrees of freedom
    assert abs(squared - 1023) < 6 * math.sqrt(2 * 1023)
    torch.rand(100)  # torch's own stream is not part of it
    assert torch.equal(result, Noise(device, 7, 3, 2).take(1 << 20))
    for second in [(8, 3, 2), (7, 4, 2), (7, 3, 1), (73, 2)]:
        assert not torch.equal(result, Noise(device, *second).take(1 << 20))
    pieces = Noise(device, 7, 3, 2)
    assert torch.equal(torch.cat([pieces.take(1 << 19), pieces.take(1 << 19)]), result)


def test_a_block_is_whole_blocks_of_8_bit_states() -> None:
    assert all(size % STATE_BLOCK == 0 for size in BLOCK.values())
