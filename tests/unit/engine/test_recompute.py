"""Levels of recompute: the same gradients bit for bit, and as many bytes kept as the plan says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import families
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from trainer.engine import recompute
from trainer.engine.batch import of_rows
from trainer.engine.prepare import Engine, prepare
from trainer.model.activations import Level
from trainer.model.memory import Predictor
from trainer.model.outline import Outline
from trainer.recipe import Recipe

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {"use_sliding_window": False, "sliding_window": None},
    "Qwen3": {"head_dim": 16},
    "Gemma": {"head_dim": 16},
    "Phi3": {},
    "SmolLM3": {},
}
RANK = 8
ROWS = [np.arange(57, dtype="int64") % 90 + 3, np.arange(40, dtype="int64") * 7 % 80 + 4]
TOKENS = 97
RECIPE = {
    "recipe_version": 1,
    "name": "plan",
    "model": {"name_or_path": "x"},
    "data": {"sources": [{"path": "x.jsonl"}]},
}


def trained(family: str, dtype: torch.dtype, *, adapter: bool = True, **settings: Any) -> tuple[Any, Engine, Any]:
    """Return a tiny model ready to train, with its engine and a batch."""
    model = families.make(family, **FAMILIES.get(family, {}), **settings).to(dtype)
    if adapter:
        model = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear"))
        torch.manual_seed(2)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
    model.train()
    engine = prepare(model, ROWS, attention="auto", say=lambda _: None)
    assert engine.layout == "flat" and engine.scorer is not None
    items = [(row, np.ones(len(row), dtype="uint8")) for row in ROWS]
    return model, engine, of_rows([items], "flat", 0)


def gradients(model: Any, engine: Engine, batch: Any) -> list[torch.Tensor]:
    """Return the log-probabilities and the gradient of every trained weight."""
    model.zero_grad()
    found, _ = engine.score(model, batch)
    (-found.mean()).backward()
    return [found.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]


LEVELS: dict[str, list[Level]] = {
    "elementwise": ["elementwise", "elementwise"],
    "layer": ["full", "none"],
    "mixed": ["full", "elementwise"],
    "full": ["full", "full"],
    "offload": ["offload", "offload"],
    "some offload": ["offload", "full"],
}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma", "Gemma2", "Phi3"])
def test_gradients_are_bit_for_bit_those_without_recompute(family: str, dtype: torch.dtype, levels: str) -> None:
    model, engine, batch = trained(family, dtype)
    expected = gradients(model, engine, batch)
    recompute.apply(model, LEVELS[levels])
    found = gradients(model, engine, batch)
    assert len(found) == len(expected) > 10
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    recompute.remove(model)
    assert all("forward" not in vars(layer) for layer in recompute.decoder_layers(model))


@pytest.mark.parametrize("family", ["Llama", "Gemma"])
def test_gradients_of_all_weights_are_bit_for_bit_the_same(family: str) -> None:
    model, engine, batch = trained(family, torch.float32, adapter=False)
    expected = gradients(model, engine, batch)
    recompute.apply(model, ["elementwise", "full"])
    assert all(torch.equal(one, other) for one, other in zip(gradients(model, engine, batch), expected, strict=True))


def test_two_backward_passes_over_one_graph_agree() -> None:
    model, engine, batch = trained("Llama", torch.float32)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    recompute.apply(model, ["elementwise", "elementwise"])
    found = engine.score(model, batch)[0].mean()
    first = torch.autograd.grad(found, weights, retain_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(first, torch.autograd.grad(found, weights), strict=True))


def test_autocast_is_the_same_in_the_second_computation() -> None:
    model, engine, batch = trained("Llama", torch.float32, adapter=False)
    results = []
    for level in ("none", "elementwise"):
        recompute.apply(model, [level, level])
        with torch.autocast("cpu", torch.bfloat16):
            results.append(gradients(model, engine, batch))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_plan_for_another_number_of_layers_is_refused() -> None:
    with pytest.raises(recompute.NotRecomputed, match="2 layers can be recomputed, the plan has 3"):
        recompute.apply(trained("Llama", torch.float32)[0], ["full"] * 3)


def kept_by_layer(model: Any, engine: Engine, batch: Any, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count the bytes of all tensors that each layer keeps, without weights; a storage counts once."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen: dict[int, tuple[int, torch.Tensor]] = {}
    current = [-1]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        at = tensor.untyped_storage().data_ptr()
        if at not in weights:
            seen.setdefault(at, (current[0], tensor))
        return tensor.detach()

    monkeypatch.setattr(recompute, "keep", keep)
    for index, layer in enumerate(recompute.decoder_layers(model)):
        layer.register_forward_pre_hook(lambda *_, index=index: current.__setitem__(0, index))
        layer.register_forward_hook(lambda *_: current.__setitem__(0, -1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.score(model, batch)
    counted: Counter[int] = Counter()
    for index, tensor in seen.values():
        counted[index] += tensor.untyped_storage().nbytes()
    return counted


def predictor(model: Any, dtype: str, adapter: dict[str, Any], *, targets: Sequence[str] | None = None) -> Predictor:
    recipe = Recipe.model_validate(RECIPE | {"adapter": adapter, "model": {"name_or_path": "x", "dtype": dtype}})
    return Predictor(Outline.of(model.config.to_dict()), recipe, is_cuda=False)


@pytest.mark.parametrize("level", ["none", "elementwise", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_keeps_as_many_bytes_as_the_plan_says(
    family: str, dtype: torch.dtype, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engine, batch = trained(family, dtype, num_hidden_layers=3)
    recompute.apply(model, [level] * 3)
    plan = predictor(model, str(dtype).removeprefix("torch."), {"kind": "lora", "r": RANK})
    counted = kept_by_layer(model, engine, batch, monkeypatch)
    expected = plan.layer.kept(level) * TOKENS + plan.layer.kept_once(level)
    assert [counted[1], counted[2]] == [expected, expected]


@pytest.mark.parametrize("level", ["none", "full"])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_a_fully_trained_layer_keeps_as_many_bytes_as_the_plan_says(
    family: str, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engine, batch = trained(family, torch.float32, adapter=False, num_hidden_layers=3)
    recompute.apply(model, [level] * 3)
    counted = kept_by_layer(model, engine, batch, monkeypatch)
    assert counted[1] == predictor(model, "float32", {"kind": "none"}).layer.kept(level) * TOKENS
