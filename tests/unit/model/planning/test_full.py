"""Predicted bytes of full fine-tuning in one card: equal to those of real optimizers and backward passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

from tests.unit.model.planning.test_predictor import EIGHT
from trainer.engine.batch import of_rows
from trainer.engine.optimizer.adamw_8bit import BlockwiseAdamW
from trainer.engine.optimizer.backward import InBackward
from trainer.engine.optimizer.block_update import BLOCK
from trainer.engine.optimizer.rounded import RoundedAdamW, RoundedSGD
from trainer.engine.prepare import prepare
from trainer.model.planning import advice, gpus
from trainer.model.planning.model_shape import Outline
from trainer.model.planning.predictor import BFLOAT16, BLOCK_OF_STEP, BLOCK_WORK, MicroBatch, Predictor
from trainer.recipe import Recipe

WHOLE = {"optimizer_in_backward": True, "max_grad_norm": 0}
"""Llama 3.1 8B. Source: https://huggingface.co/meta-llama/Llama-3.1-8B, config.json."""
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"mlp_bias": True, "attention_bias": True},
    "Qwen2": {},
    "Qwen3": {"head_dim": 48, "tie_word_embeddings": True},
    "Gemma": {"head_dim": 16},
    "Phi3": {},
}


def recipe(dtype: str, **train: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "recipe_version": 1,
            "name": "full",
            "model": {"name_or_path": "x", "dtype": dtype},
            "adapter": {"kind": "none"},
            "data": {"sources": [{"path": "x.jsonl"}]},
            "train": train,
        }
    )


def made(family: str, dtype: torch.dtype, **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 4160,  # its biases are just large enough for 8-bit states
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    config = getattr(transformers, f"{family}Config")(**(sizes | changes))
    return getattr(transformers, f"{family}ForCausalLM")(config).to(dtype)


def optimizer_of(model: Any, optim: str) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    if optim == "sgd":
        return RoundedSGD(parameters, lr=1e-3)
    if optim == "adamw_torch":
        return RoundedAdamW(parameters, lr=1e-3)
    table = [model.get_input_embeddings().weight]
    return BlockwiseAdamW(parameters, seed=0, in_float32=table, lr=1e-3, optim_bits=8 if "8bit" in optim else 32)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "sgd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_bfloat16_weights_are_counted_to_the_byte(family: str, optim: str) -> None:
    model = made(family, torch.bfloat16, **FAMILIES[family])
    optimizer = optimizer_of(model, optim)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shared = ("qmap1", "qmap2")  # one pair of small tables for all
    states = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name not in shared
    ]
    predictor = Predictor(Outline.of(model.config.to_dict()), recipe("bfloat16", optim=optim), is_cuda=False)
    assert predictor.optimizer() == sum(value.nbytes for value in states)
    assert predictor.weights() == sum(parameter.nbytes for parameter in model.parameters())
    assert sorted(predictor.trained()) == sorted(parameter.numel() for parameter in model.parameters())


def peak_of_a_step(model: Any, *, within: bool, tokens: int) -> int:
    """Return the most bytes that one step allocates, once the states exist."""
    optimizer = RoundedAdamW(model.parameters(), lr=1e-4)
    row = np.arange(tokens)
    engine = prepare(model, [row[:4]], attention="auto", say=lambda _: None)
    hooks = InBackward(optimizer) if within else None
    batch = of_rows([[(row, np.ones(tokens, dtype=np.uint8))]], engine.layout, 0)
    model.train()

    def step() -> None:
        log_probs, _ = engine.score(model, batch)
        (-log_probs.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = profiled.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    assert len(changes) > 500
    if hooks is not None:
        hooks.remove()
    return int(np.cumsum([size for _, size in sorted(changes)]).max())


@pytest.mark.parametrize("within", [False, True], ids=["after", "within"])
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_gradients_take_what_is_predicted(is_tied: bool, within: bool) -> None:
    """So few tokens that activations hardly count."""
    model = made("Llama", torch.bfloat16, vocab_size=40_000, hidden_size=128, tie_word_embeddings=is_tied)
    train = WHOLE if within else {"optimizer_in_backward": False}
    outline, batch = Outline.of(model.config.to_dict()), MicroBatch(4, 4)
    predictor = Predictor(outline, recipe("bfloat16", **train), is_cuda=False)
    tied = 2 * BFLOAT16 * outline.table if is_tied else 0
    predicted = predictor.freed_gradients(batch) if within else predictor.gradients + tied
    remainder = predictor.activations(("none",) * 2, batch) + predictor.head(batch)
    remainder += predictor.work("none", batch, is_lean=False)
    result = predictor.predict(("none",) * 2, batch, accumulation=1)
    assert predicted <= result.passes - predictor.weights() - predictor.optimizer() <= predicted + remainder
    measured = peak_of_a_step(model, within=within, tokens=4)
    assert remainder < 0.2 * predicted
    work = 0 if within else BLOCK_WORK * BLOCK["cpu"]  # without activations, the step itself is the peak
    assert 0.97 * predicted <= measured <= predicted + max(remainder, work) + 1024


def test_freed_gradients_are_a_small_part() -> None:
    outline, batch = Outline.of(EIGHT), MicroBatch(8192, 8192)
    settings = {"optim": "adamw_8bit", "global_batch_size": 2}
    predictor = Predictor(outline, recipe("bfloat16", **settings, **WHOLE), is_cuda=True)
    table = 2 * 128_256 * 4096
    assert predictor.gradients == 2 * 8_030_261_248 and predictor.freed_gradients(batch) == 2 * table


def test_auto_frees_gradients_in_plans_with_one_micro_batch_a_step() -> None:
    settings: dict[str, Any] = {"max_grad_norm": 0, "global_batch_size": 4}
    predictor, levels = Predictor(Outline.of(EIGHT), recipe("bfloat16", **settings), is_cuda=True), ("full",) * 32
    first, second = (predictor.predict(levels, MicroBatch(64, 64), accumulation=number) for number in (1, 2))
    assert predictor.steps_in_backward(1) and not predictor.steps_in_backward(2)
    assert first.gradients < 0.2 * second.gradients and first.peak < second.peak


def test_eight_billion_weights_fit_into_one_card() -> None:
    settings = {"optim": "adamw_8bit", "global_batch_size": 2}
    card, outline = gpus.CARDS["H100-80GB"], Outline.of(EIGHT)
    result = advice.planned(recipe("bfloat16", **settings, **WHOLE), outline, card)
    assert result.fits and result.batch.tokens == 2 * recipe("bfloat16").pack.max_length
    float32_states = settings | {"optim": "adamw_torch"}
    assert not advice.planned(recipe("bfloat16", **float32_states, **WHOLE), outline, card).fits


def test_blocks_are_those_of_the_optimizer() -> None:
    assert {True: BLOCK["cuda"], False: BLOCK["cpu"]} == BLOCK_OF_STEP
