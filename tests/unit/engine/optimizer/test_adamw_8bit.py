"""8-bit and paged states against bitsandbytes' own optimizer. Its CPU kernels take the place of a card's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch

from trainer.engine.optimizer import adamw_8bit, block_update
from trainer.engine.optimizer.adamw_8bit import BlockwiseAdamW

SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
BITS = [8, 32]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(block_update.BLOCK, "cpu", 1024)


def weights(dtype: torch.dtype, *shape: int) -> torch.nn.Parameter:
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(shape).bfloat16().to(dtype))


def gradients(steps: int, *shape: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape).bfloat16() for _ in range(steps)]


def states(optimizer: Any, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: value for name, value in optimizer.state[parameter].items() if isinstance(value, torch.Tensor)}


def same_states(first: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert first.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in first.items())


@pytest.mark.parametrize("bits", BITS)
def test_float32_weights_move_as_with_bitsandbytes(bits: int) -> None:
    ours, theirs = (weights(torch.float32, 70, 100) for _ in range(2))
    optimizer = BlockwiseAdamW([ours], seed=0, optim_bits=bits, **SETTINGS)
    oracle = bitsandbytes.optim.AdamW([theirs], optim_bits=bits, **SETTINGS)
    for gradient in gradients(5, 70, 100):
        ours.grad, theirs.grad = gradient.float(), gradient.float()
        optimizer.step()
        oracle.step()
    assert torch.equal(ours, theirs)
    same_states(states(optimizer, ours), states(oracle, theirs))


@pytest.mark.parametrize("bits", BITS)
def test_bfloat16_weights_move_as_float32_ones_do_and_are_rounded_to_a_neighbour(bits: int) -> None:
    ours, theirs = weights(torch.bfloat16, 70, 100), weights(torch.float32, 70, 100)
    optimizer = BlockwiseAdamW([ours], seed=0, optim_bits=bits, **SETTINGS)
    oracle = bitsandbytes.optim.AdamW([theirs], optim_bits=bits, **SETTINGS)
    for gradient in gradients(5, 70, 100):
        theirs.data = ours.detach().float()
        ours.grad, theirs.grad = gradient, gradient.float()
        optimizer.step()
        oracle.step()
        cut = theirs.detach().view(torch.int32) >> 16
        result = ours.detach().view(torch.int16).to(torch.int32)
        assert ((result == cut) | (result == cut + 1)).all()
        assert 0.3 < float((result == cut).float().mean()) < 0.7
    same_states(states(optimizer, ours), states(oracle, theirs))


def test_8_bit_states_follow_float32_ones() -> None:
    """A quadratic bowl: both arrive, and on the way they are close."""
    torch.manual_seed(0)
    goal = torch.randn(5000)
    results = []
    for bits in BITS:
        parameter = torch.nn.Parameter(torch.zeros(5000, dtype=torch.bfloat16))
        optimizer = BlockwiseAdamW([parameter], seed=0, optim_bits=bits, lr=1e-2, weight_decay=0.0)
        for _ in range(300):
            parameter.grad = (parameter.detach().float() - goal).bfloat16()
            optimizer.step()
        results.append(parameter.detach().float())
    start = float(goal.norm())
    assert all(float((item - goal).norm()) < 0.2 * start for item in results)
    assert float((results[0] - results[1]).norm()) < 0.05 * start


def test_embeddings_and_small_tensors_keep_float32_states() -> None:
    table, matrix, small = (weights(torch.bfloat16, *shape) for shape in [(100, 64), (100, 64), (63, 65)])
    optimizer = BlockwiseAdamW([table, matrix, small], seed=0, in_float32=[table], optim_bits=8, **SETTINGS)
    for parameter in (table, matrix, small):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kinds = [optimizer.state[parameter]["state1"].dtype for parameter in (table, matrix, small)]
    assert kinds == [torch.float32, torch.uint8, torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("bits", BITS)
def test_a_resumed_training_is_the_uninterrupted_one(bits: int, dtype: torch.dtype, tmp_path: Path) -> None:
    settings = {**SETTINGS, "optim_bits": bits, "seed": 4}

    def train(optimizer: BlockwiseAdamW, parameter: torch.nn.Parameter, slopes: list[torch.Tensor]) -> None:
        for gradient in slopes:
            parameter.grad = gradient.to(dtype)
            optimizer.step()

    slopes, complete, first = gradients(6, 70, 100), weights(dtype, 70, 100), weights(dtype, 70, 100)
    train(BlockwiseAdamW([complete], **settings), complete, slopes)
    optimizer = BlockwiseAdamW([first], **settings)
    train(optimizer, first, slopes[:2])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    second = torch.nn.Parameter(first.detach().clone())
    resumed = BlockwiseAdamW([second], **settings)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    train(resumed, second, slopes[2:])
    assert torch.equal(complete, second)


class Managed(BlockwiseAdamW):
    """Stands in for paged memory, which only CUDA has: buffers that are marked as it marks them."""

    prefetched = 0

    def get_state_buffer(self, p: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        buffer = torch.zeros_like(p, dtype=dtype)
        buffer.is_paged = True  # type: ignore[attr-defined]
        return buffer

    def prefetch_state(self, p: torch.Tensor) -> None:
        self.prefetched += 1


@pytest.mark.parametrize("bits", BITS)
def test_paged_states_stay_paged_in_blocks_and_after_loading(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    for name in ("_in_8bit", "_in_float32"):
        monkeypatch.setattr(adamw_8bit, name, watched(getattr(adamw_8bit, name), calls))
    settings = {**SETTINGS, "optim_bits": bits, "seed": 4, "is_paged": True}
    first, second = weights(torch.bfloat16, 70, 100), weights(torch.bfloat16, 70, 100)
    optimizer, resumed = Managed([first], **settings), Managed([second], **settings)
    first.grad = second.grad = gradients(1, 70, 100)[0]
    optimizer.step()
    resumed.load_state_dict(optimizer.state_dict())
    second.data.copy_(first.detach())
    optimizer.step()
    resumed.step()
    assert torch.equal(first, second) and optimizer.prefetched == 2
    assert len(calls) == 3 * math.ceil(7000 / 1024) and all(calls)
    for name in adamw_8bit.LARGE_STATES:
        assert resumed.state[second][name].is_paged
        assert resumed.state[second][name].data_ptr() != optimizer.state[first][name].data_ptr()


def watched(change: Any, calls: list[bool]) -> Any:
    """Note whether the states of each block are marked as paged."""

    def call(weight: Any, gradient: Any, state: Any, part: slice, group: Any) -> None:
        calls.append(all(adamw_8bit._part(state[name], part).is_paged for name in adamw_8bit.LARGE_STATES))
        change(weight, gradient, state, part, group)

    return call
