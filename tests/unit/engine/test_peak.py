"""The predicted peak of a forward and backward pass, against what torch's profiler sees allocated."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.engine import recompute
from trainer.engine.batch import of_rows
from trainer.engine.prepare import prepare
from trainer.model.adapter import attach
from trainer.model.load import load_model
from trainer.model.planning.activations import Kinds, Level
from trainer.model.planning.model_shape import Outline
from trainer.model.planning.predictor import MicroBatch, Predictor
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter, ModelSection, QloraAdapter

LAYERS = 4
ROWS = 4
AUTOCAST = Kinds(2, 2, 4, 2)
"""As on a card: bfloat16 weights under autocast, float32 adapters."""
LEVELS: dict[str, tuple[Level, ...]] = {
    "none": ("none",) * LAYERS,
    "elementwise": ("elementwise",) * LAYERS,
    "mixed": ("full", "full", "elementwise", "elementwise"),
    "full": ("full",) * LAYERS,
    "offload": ("offload",) * LAYERS,
}


SIZES: dict[str, tuple[dict[str, int], int]] = {
    "lora": ({"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 896}, 1536),
    "qlora": ({"vocab_size": 512, "hidden_size": 512, "intermediate_size": 1792}, 384),
}
"""Of the model, and tokens of a micro-batch."""


@pytest.fixture(scope="module", params=SIZES)
def training(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A model with adapters as it trains on a card, one step of it, and its predictor."""
    kind, folder = request.param, tmp_path_factory.mktemp("base")
    size, tokens = SIZES[kind]
    torch.manual_seed(0)
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = LlamaConfig(**size, **heads, tie_word_embeddings=False, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    adapter = (QloraAdapter if kind == "qlora" else LoraAdapter)(kind=kind, r=16, alpha=16.0)
    base = load_model(ModelSection(name_or_path=str(folder)), folder, adapter=adapter, dtype=torch.bfloat16)
    model = attach(base, adapter).train()
    ids = np.arange(tokens // ROWS) % 500 + 1
    engine = prepare(model, [ids], attention="auto", say=lambda _: None)
    batch = of_rows([[(ids, np.ones(len(ids), dtype="uint8"))] * ROWS], "flat", 0)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            result, _ = engine.score(model, batch)
            loss = -result.mean()
        loss.backward()

    values = {"recipe_version": 1, "name": "p", "model": {"name_or_path": "x"}, "data": {"sources": [{"path": "x"}]}}
    recipe = Recipe.model_validate(values | {"adapter": {"kind": kind, "r": 16}})
    with mock.patch.object(Kinds, "of", lambda *_, **__: AUTOCAST):
        predictor = Predictor(Outline.of(config.to_dict()), recipe, is_cuda=False)
    step()  # what is made once
    yield model, step, predictor, MicroBatch(tokens, tokens - ROWS)


def allocated(step: Any) -> int:
    """Return the most bytes allocated at a time in a call, less those that were there before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as observed:
        step()
    events = [event for event in observed.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())


@pytest.mark.parametrize("is_lean", [True, False], ids=["lean", ""])
@pytest.mark.parametrize("levels", LEVELS)
def test_the_peak_is_predicted_within_a_tenth(levels: str, is_lean: bool, training: Any) -> None:
    model, step, predictor, batch = training
    recompute.apply(model, LEVELS[levels], is_lean=is_lean)
    model.zero_grad(set_to_none=True)
    memory = predictor.predict(LEVELS[levels], batch, accumulation=1, is_lean=is_lean)
    stays = memory.weights + memory.adapters + memory.optimizer
    ratio = (memory.passes - stays) / (allocated(step) - memory.host)
    assert 0.96 < ratio < 1.1
