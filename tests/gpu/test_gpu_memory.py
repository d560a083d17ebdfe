"""Recompute on a card: gradients bit for bit, copies to the host hidden, the peak as predicted."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card"),
]
LEVELS = ["none", "elementwise", "full", "offload"]
TOKENS = 8192


@pytest.fixture(scope="module")
def training() -> Any:
    """A Llama of 8 layers of 2048 in bfloat16 with adapters, its engine and a micro-batch of four rows."""
    import numpy as np
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainer.engine.batch import moved, of_rows
    from trainer.engine.prepare import prepare
    from trainer.model.adapter import attach
    from trainer.recipe.model import LoraAdapter

    torch.manual_seed(0)
    size = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 8, "vocab_size": 32768}
    config = LlamaConfig(**size, num_attention_heads=16, num_key_value_heads=4, pad_token_id=0)
    base = LlamaForCausalLM(config).to("cuda", torch.bfloat16)
    model: Any = attach(base, LoraAdapter(kind="lora", r=16, alpha=16.0)).train()
    ids = np.arange(TOKENS // 4) % 30000 + 1
    engine = prepare(model, [ids], attention="auto", say=print)
    batch = of_rows([[(ids, np.ones(len(ids), dtype="uint8"))]] * 4, "flat", 0)
    return model, engine, moved({name: batch[name] for name in ("inputs", "targets")}, torch.device("cuda")), config


def step(training: Any) -> tuple[list[Any], int]:
    """Return all gradients of a step, and the bytes at its peak above those at its start."""
    model, engine, batch, _ = training
    model.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        gradients, _ = engine.score(model, batch)
        loss = -gradients.mean()
    loss.backward()
    peak = torch.cuda.max_memory_allocated() - before
    return [weight.grad for weight in model.parameters() if weight.grad is not None], peak


@pytest.mark.parametrize("is_lean", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_a_level_changes_no_gradient_and_takes_what_was_predicted(level: Any, is_lean: bool, training: Any) -> None:
    from trainer.engine import recompute
    from trainer.model.planning.model_shape import Outline
    from trainer.model.planning.predictor import MicroBatch, Predictor
    from trainer.recipe import Recipe

    model, _, _, config = training
    recompute.remove(model)
    step(training)
    expected = [gradient.clone() for gradient in step(training)[0]]
    recompute.apply(model, [level] * 8, is_lean=is_lean)
    step(training)
    gradients, peak = step(training)
    # FlashAttention's backward pass adds up in any order
    for first, second in zip(gradients, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0.02 * float(second.abs().max()))
    values = {"recipe_version": 1, "name": "p", "model": {"name_or_path": "x"}, "data": {"sources": [{"path": "x"}]}}
    recipe = Recipe.model_validate(values | {"adapter": {"kind": "lora", "r": 16}})
    predictor = Predictor(Outline.of(config.to_dict()), recipe, is_cuda=True)
    memory = predictor.predict((level,) * 8, MicroBatch(TOKENS, TOKENS - 4), accumulation=1, is_lean=is_lean)
    predicted = memory.passes - memory.weights - memory.adapters - memory.optimizer
    assert 0.9 < predicted / peak < 1.15


def test_copies_to_the_host_hide_behind_the_computation(training: Any) -> None:
    from trainer.engine import recompute

    def seconds(level: Any) -> float:
        recompute.apply(training[0], [level] * 8)
        times = []
        for _ in range(7):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            step(training)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return float(sorted(times)[3])

    assert seconds("offload") < 1.1 * seconds("full")
