"""Optimizers on bfloat16 weights against torch's on float32 ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.engine.optimizer import block_update
from trainer.engine.optimizer.rounded import RoundedAdamW, RoundedSGD

ADAMW = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
SGD = {"lr": 1e-2, "weight_decay": 0.1}


def weights(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    torch.manual_seed(seed)
    return torch.nn.Parameter(torch.randn(shape).bfloat16())


def gradients(steps: int, *shape: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape).bfloat16() for _ in range(steps)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tensor of a test have several blocks, the last one short."""
    monkeypatch.setitem(block_update.BLOCK, "cpu", 512)


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [(RoundedAdamW, lambda p, **s: torch.optim.AdamW(p, fused=True, **s), ADAMW), (RoundedSGD, torch.optim.SGD, SGD)],
    ids=["adamw", "sgd"],
)
def test_each_step_is_that_of_torch_in_float32_rounded_to_a_neighbour(ours: Any, theirs: Any, settings: Any) -> None:
    rounded = weights(60, 33)
    optimizer = ours([rounded], seed=3, **settings)
    exact = torch.nn.Parameter(rounded.detach().float())
    oracle = theirs([exact], **settings)
    for gradient in gradients(5, 60, 33):
        exact.data = rounded.detach().float()
        rounded.grad, exact.grad = gradient, gradient.float()
        optimizer.step()
        oracle.step()
        cut = exact.detach().view(torch.int32) >> 16
        bits = rounded.detach().view(torch.int16).to(torch.int32)
        assert ((bits == cut) | (bits == cut + 1)).all()
        is_exact = exact.detach() == exact.detach().bfloat16().float()
        assert torch.equal(rounded.detach().float()[is_exact], exact.detach()[is_exact])
        assert 0.3 < float((bits == cut).float().mean()) < 0.7  # both neighbours are taken
    for name, state in oracle.state[exact].items():
        if name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[rounded][name], state)


def test_float32_weights_among_them_are_changed_exactly() -> None:
    mixed = [weights(700), torch.nn.Parameter(weights(700).detach().float())]
    optimizer = RoundedAdamW(mixed, seed=0, **ADAMW)
    exact = torch.nn.Parameter(mixed[1].detach().clone())
    oracle = torch.optim.AdamW([exact], fused=True, **ADAMW)
    for gradient in gradients(4, 700):
        mixed[0].grad, mixed[1].grad, exact.grad = gradient, gradient.float(), gradient.float()
        optimizer.step()
        oracle.step()
    assert torch.equal(mixed[1], exact) and mixed[0].dtype == torch.bfloat16


def test_nearest_stalls_where_stochastic_follows_float32() -> None:
    """A thousand updates of 1e-4 on weights near 1, whose neighbours are 2^-7 apart."""
    start, steps = torch.ones(4096), 1000
    rounded, nearest = (torch.nn.Parameter(start.bfloat16()) for _ in range(2))
    exact = torch.nn.Parameter(start.clone())
    settings: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.0}
    kinds = [
        RoundedAdamW([rounded], seed=0, **settings),
        torch.optim.AdamW([nearest], fused=True, **settings),
        torch.optim.AdamW([exact], fused=True, **settings),
    ]
    for _ in range(steps):
        for weight, optimizer in zip((rounded, nearest, exact), kinds, strict=True):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    moved = 1 - float(exact.detach().mean())
    assert moved == pytest.approx(0.1, rel=1e-3)
    assert torch.equal(nearest.detach().float(), start)
    # the path is a random walk with steps of 2^-8 or 2^-7: its mean over 4096 weights is sharp
    assert 1 - float(rounded.detach().float().mean()) == pytest.approx(moved, rel=0.02)
    assert float(rounded.detach().float().std()) < 0.05


def train(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], slopes: list[torch.Tensor]) -> None:
    for gradient in slopes:
        for index, parameter in enumerate(parameters):
            parameter.grad = (gradient * (index + 1)).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize(("kind", "settings"), [(RoundedAdamW, ADAMW), (RoundedSGD, SGD)], ids=["adamw", "sgd"])
def test_a_resumed_training_is_the_uninterrupted_one(kind: Any, settings: Any, tmp_path: Any) -> None:
    slopes = gradients(8, 900)
    complete = [weights(900, seed=index) for index in range(2)]
    train(kind(complete, seed=5, **settings), complete, slopes)
    first = [weights(900, seed=index) for index in range(2)]
    optimizer = kind(first, seed=5, **settings)
    train(optimizer, first, slopes[:3])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    second = [torch.nn.Parameter(parameter.detach().clone()) for parameter in first]
    resumed = kind(second, seed=5, **settings)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    train(resumed, second, slopes[3:])
    assert all(torch.equal(left, two) for left, two in zip(complete, second, strict=True))
    right = [weights(900, seed=index) for index in range(2)]
    train(kind(right, seed=6, **settings), right, slopes)
    assert not torch.equal(complete[0], right[0])


def test_loaded_states_keep_float32_and_belong_to_the_new_optimizer() -> None:
    parameter = weights(300)
    optimizer = RoundedAdamW([parameter], seed=0, **ADAMW)
    train(optimizer, [parameter], gradients(2, 300))
    again = RoundedAdamW([parameter], seed=0, **ADAMW)
    again.load_state_dict(optimizer.state_dict())
    mine, theirs = again.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"]
    assert mine.dtype == torch.float32 and torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()


def test_all_processes_round_alike() -> None:
    """Each has its own optimizer on its own copy, whatever else it drew from torch's random stream."""
    copies = []
    for process in range(3):
        parameter = weights(2000)
        optimizer = RoundedAdamW([parameter], seed=9, **ADAMW)
        for gradient in gradients(3, 2000):
            torch.rand(process)
            parameter.grad = gradient.clone()
            optimizer.step()
        copies.append(parameter.detach())
    assert torch.equal(copies[0], copies[1]) and torch.equal(copies[0], copies[2])


def test_equal_tensors_are_not_rounded_alike() -> None:
    pair = [weights(2000), weights(2000)]
    optimizer = RoundedAdamW(pair, seed=9, **ADAMW)
    for parameter in pair:
        parameter.grad = gradients(1, 2000)[0]
    optimizer.step()
    assert not torch.equal(*pair)


def test_a_gradient_that_is_not_finite_shows_in_the_weights() -> None:
    parameter = weights(600)
    optimizer = RoundedAdamW([parameter], seed=0, **ADAMW)
    parameter.grad = torch.full((600,), float("nan"), dtype=torch.bfloat16)
    optimizer.step()
    assert parameter.isnan().all()
