"""What a card makes of the engine at the start: kernels, types, refusals."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]
ROWS = [np.arange(size) % 90 + 3 for size in (40, 17, 25)]
CAPABILITIES = [(7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


@pytest.fixture
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A compute capability of the pretend card; what is remembered of another one is forgotten."""
    from trainer.engine import flash

    if "PRETEND_CARD" not in os.environ:
        pytest.skip("a real card has one compute capability")
    monkeypatch.setattr(torch.cuda.pretend_card, "capability", request.param)
    for function in (flash.agrees, flash.fastest):
        function.cache_clear()
    yield request.param
    for function in (flash.agrees, flash.fastest):
        function.cache_clear()


def adapted(dtype: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainer.model.adapter import attach
    from trainer.recipe.model import LoraAdapter

    size = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 97}
    config = LlamaConfig(**size, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
    return attach(LlamaForCausalLM(config).to("cuda", dtype), LoraAdapter(kind="lora", r=16, alpha=16.0)).train()


def started(dtype: Any, attention: str = "auto") -> tuple[Any, Any, list[str]]:
    from trainer.engine.prepare import prepare

    model, lines = adapted(dtype), list[str]()
    return model, prepare(model, ROWS, attention=attention, say=lines.append, autocast=dtype), lines


def train_step(model: Any, engine: Any, dtype: Any) -> None:
    from trainer.engine.batch import moved, of_rows

    batch = of_rows([[(ids, np.ones(len(ids), dtype="uint8")) for ids in ROWS]], engine.layout, 0)
    with torch.autocast("cuda", dtype):
        loss = -engine.score(model, moved(batch, torch.device("cuda")))[0].mean()
    loss.backward()


def test_flash_attention_is_used_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.engine import flash

    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no FlashAttention before Ampere")
    attend, calls = flash.attend, Counter[str]()

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls["flash"] += 1
        return attend(*arguments, **keywords)

    monkeypatch.setattr(flash, "attend", counted)
    for attention, num_calls in (("auto", 2), ("sdpa", 0)):  # the switch of the acceptance really differs
        model, engine, lines = started(torch.bfloat16, attention)
        assert ("FlashAttention" in lines[-1]) == (attention == "auto"), lines
        calls.clear()
        train_step(model, engine, torch.bfloat16)
        assert calls["flash"] == num_calls


def test_the_test_at_the_start_computes_as_the_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.engine import product

    calls = set[str]()

    def noted(name: str) -> Any:
        original = getattr(product, name)
        return lambda *arguments: calls.add(name) or original(*arguments)

    names = [name for name in vars(product) if name.startswith(("_forward", "_backward"))]
    for name in names:
        monkeypatch.setattr(product, name, noted(name))
    model, engine, lines = started(torch.bfloat16)
    assert "train: LoRA in 14 layers in one product" in lines
    at_start = set(calls)
    calls.clear()
    train_step(model, engine, torch.bfloat16)
    assert calls <= at_start and {"_forward_below", "_forward_beside"} <= calls


@pytest.mark.parametrize("capability", CAPABILITIES, indirect=True)
def test_each_generation_gets_its_types_and_kernels(capability: tuple[int, int]) -> None:
    from trainer.errors import HardwareError
    from trainer.model.load import precision
    from trainer.recipe.model import LoraAdapter, ModelSection

    section = ModelSection.model_validate({"name_or_path": "some/model"})
    types = precision(section, LoraAdapter(kind="lora"))
    half = torch.bfloat16 if capability >= (8, 0) else torch.float16  # emulated bfloat16 is slower than float32
    assert (types.weights, types.autocast) == (half, half)
    _, engine, lines = started(half)
    assert engine.layout == "flat" and ("FlashAttention" in lines[-1]) == (capability >= (8, 0)), lines
    if capability < (8, 0):
        with pytest.raises(HardwareError, match="no bfloat16"):
            precision(section.model_copy(update={"dtype": "bfloat16"}), LoraAdapter(kind="lora"))
