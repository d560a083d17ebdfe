"""Stepping in the backward pass is the ordinary step, and one gradient at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler

from trainer.engine import recompute
from trainer.engine.batch import of_rows
from trainer.engine.optimizer.adamw_8bit import BlockwiseAdamW
from trainer.engine.optimizer.backward import InBackward, freed_gradients
from trainer.engine.optimizer.rounded import RoundedAdamW, RoundedSGD
from trainer.engine.prepare import prepare

Build = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

FLOAT: dict[str, Build] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
    "fused": lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
    "foreach": lambda groups: torch.optim.AdamW(groups, lr=1e-2, foreach=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-1),
    "8bit": lambda groups: BlockwiseAdamW(groups, seed=1, lr=1e-2, optim_bits=8, min_8bit_size=1024),
}
HALF: dict[str, Build] = {
    "rounded adamw": lambda groups: RoundedAdamW(groups, seed=1, lr=1e-2),
    "rounded sgd": lambda groups: RoundedSGD(groups, seed=1, lr=2.0),
    "rounded 8bit": FLOAT["8bit"],
}


def made(*, is_tied: bool, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=90,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=is_tied,
        attention_bias=True,
    )
    return LlamaForCausalLM(config).to(dtype)


def groups(model: Any) -> list[dict[str, Any]]:
    """Return two groups as transformers makes them, matrices with weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": 0.1},
        {"params": [parameter for parameter in trained if parameter.ndim == 1], "weight_decay": 0.0},
    ]


def trained(model: Any, build: Build, *, in_backward: bool, steps: int = 4, level: str | None = None) -> list[float]:
    """Train with the engine's head, chunks of it and a schedule; return the gradient norms."""
    optimizer = build(groups(model))
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=2, num_training_steps=steps + 1)
    torch.manual_seed(3)
    rows = [torch.randint(0, 90, (17 + index,)).numpy() for index in range(steps)]
    engine = prepare(model, rows[:1], attention="auto", say=lambda _: None)
    hooks = InBackward(optimizer) if in_backward else None
    if level is not None:
        recompute.apply(model, (level,) * 3)  # type: ignore[arg-type]
    model.train()
    norms = []
    for row in rows:
        batch = of_rows([[(row, (row > -1).astype("uint8"))]], engine.layout, 0)
        log_probs, _ = engine.score(model, batch)
        (-log_probs.mean()).backward()
        if hooks is None:
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))))
        else:
            assert all(parameter.grad is None for parameter in model.parameters())
            norms.append(float(hooks.take_norm()))
        optimizer.step()
        schedule.step()
        model.zero_grad()
    return norms


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.float32, name) for name in FLOAT]
    + [(torch.float64, name) for name in FLOAT if name != "8bit"]
    + [(torch.bfloat16, name) for name in HALF],
)
def test_weights_are_those_of_the_ordinary_step_bit_for_bit(dtype: torch.dtype, name: str, is_tied: bool) -> None:
    model = made(is_tied=is_tied, dtype=dtype)
    start, twin = copy.deepcopy(model), copy.deepcopy(model)
    build = (FLOAT | HALF)[name]
    norms = trained(model, build, in_backward=False), trained(twin, build, in_backward=True)
    # the norms of the tensors are added up in another order, and torch takes those of bfloat16 gradients in bfloat16
    limit = {torch.float64: 1e-15, torch.float32: 1e-6, torch.bfloat16: 0.02}[dtype]
    assert norms[0] == pytest.approx(norms[1], rel=limit)
    for (where, left), second, first in zip(
        model.named_parameters(), twin.parameters(), start.parameters(), strict=True
    ):
        assert torch.equal(left, second), where
        assert left.ndim == 1 or not torch.equal(left, first), where  # norms near 1 move too little for some


@pytest.mark.parametrize("level", ["elementwise", "full"])
def test_recomputed_layers_see_the_weights_of_their_forward_pass(level: str) -> None:
    model = made(is_tied=True, dtype=torch.float32)
    twin = copy.deepcopy(model)
    trained(model, FLOAT["adamw"], in_backward=False)
    trained(twin, FLOAT["adamw"], in_backward=True, level=level)
    assert all(torch.equal(first, second) for first, second in zip(model.parameters(), twin.parameters(), strict=True))


def test_one_gradient_exists_at_a_time() -> None:
    model = made(is_tied=False, dtype=torch.float32)
    alive: list[int] = []

    def count(_: torch.Tensor) -> None:
        alive.append(sum(parameter.grad is not None for parameter in model.parameters()))

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(count)
    trained(model, FLOAT["sgd"], in_backward=True, steps=2)
    num_passes, rest = divmod(len(alive), len(list(model.parameters())))
    assert num_passes > 2 and rest == 0 and set(alive) == {1}  # the start-up test runs backward passes too


def test_a_tied_weight_steps_once_with_both_gradients() -> None:
    table = torch.nn.Parameter(torch.randn(5, 4, dtype=torch.float64))
    start = table.detach().clone()
    hooks = InBackward(torch.optim.SGD([table], lr=1.0))
    steps: list[int] = []
    hooks.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    ids = torch.tensor([1, 3, 1])
    rows = table[ids]
    middle = checkpoint(torch.sin, rows, use_reentrant=False)
    (middle @ table.T).logsumexp(-1).sum().backward()
    assert steps == [1]
    twin = start.clone().requires_grad_()
    (torch.sin(twin[ids]) @ twin.T).logsumexp(-1).sum().backward()
    assert twin.grad is not None
    torch.testing.assert_close(table.detach(), start - twin.grad, rtol=0, atol=1e-14)


def test_frozen_and_unused_weights_are_left_alone() -> None:
    model = made(is_tied=False, dtype=torch.float32)
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    unused = torch.nn.Parameter(torch.ones(3))
    model.register_parameter("unused", unused)
    before = frozen.detach().clone()
    trained(model, FLOAT["adamw"], in_backward=True)
    assert torch.equal(frozen, before) and torch.equal(unused, torch.ones(3))


def test_after_removal_gradients_stay() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    hooks = InBackward(torch.optim.SGD([parameter], lr=1.0))
    hooks.remove()
    (parameter * 2).sum().backward()
    assert parameter.grad is not None and torch.equal(parameter.detach(), torch.ones(3))
    assert float(hooks.take_norm()) == 0


def test_a_trial_throws_gradients_away_and_moves_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    module = torch.nn.ParameterList([parameter])
    with freed_gradients(module):
        (parameter * 2).sum().backward()
        assert parameter.grad is None
    (parameter * 2).sum().backward()
    assert parameter.grad is not None and torch.equal(parameter.detach(), torch.ones(3))


def test_a_gradient_that_is_not_finite_shows_in_the_norm() -> None:
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    hooks = InBackward(torch.optim.AdamW(parameters, lr=1.0))
    (parameters[0].sum() + (parameters[1] * float("nan")).sum()).backward()
    assert not torch.isfinite(hooks.take_norm())
