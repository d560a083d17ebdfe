"""Levels of recompute: the same gradients bit for bit, and as many bytes kept as the plan says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.unit.engine import families
from trainer.engine import recompute
from trainer.engine.batch import of_rows
from trainer.engine.offload import Host
from trainer.engine.prepare import Engine, prepare
from trainer.model.planning.activations import LEVELS as LEVELS_OF_LAYERS
from trainer.model.planning.activations import Kinds, Level
from trainer.model.planning.model_shape import Outline
from trainer.model.planning.predictor import MicroBatch, Predictor
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
    result, _ = engine.score(model, batch)
    (-result.mean()).backward()
    return [result.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]


LEVELS: dict[str, list[Level]] = {
    "elementwise": ["elementwise", "elementwise"],
    "layer": ["full", "none"],
    "mixed": ["full", "elementwise"],
    "full": ["full", "full"],
    "offload": ["offload", "offload"],
    "some offload": ["offload", "full"],
    "lean": ["full", "elementwise"],
    "lean offload": ["offload", "offload"],
}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma", "Gemma2", "Phi3"])
def test_gradients_are_bit_for_bit_those_without_recompute(family: str, dtype: torch.dtype, levels: str) -> None:
    model, engine, batch = trained(family, dtype)
    expected = gradients(model, engine, batch)
    recompute.apply(model, LEVELS[levels], is_lean="lean" in levels)
    result = gradients(model, engine, batch)
    assert len(result) == len(expected) > 10
    assert all(torch.equal(first, second) for first, second in zip(result, expected, strict=True))
    recompute.remove(model)
    assert all("forward" not in vars(layer) for layer in recompute.decoder_layers(model))
    assert not any("_reuses_weights" in vars(module) or hasattr(module, "_elementwise") for module in model.modules())


@pytest.mark.parametrize("family", ["Llama", "Gemma"])
def test_gradients_of_all_weights_are_bit_for_bit_the_same(family: str) -> None:
    model, engine, batch = trained(family, torch.float32, adapter=False)
    expected = gradients(model, engine, batch)
    for levels, is_lean in ((["elementwise", "full"], False), (["offload", "offload"], True)):
        recompute.apply(model, levels, is_lean=is_lean)
        result = gradients(model, engine, batch)
        assert all(torch.equal(first, second) for first, second in zip(result, expected, strict=True))


@pytest.mark.parametrize("level", ["elementwise", "full", "offload"])
def test_what_is_dropped_is_dropped_again(level: Level) -> None:
    model, engine, batch = trained("Llama", torch.float32, attention_dropout=0.5)

    def after(levels: list[Level]) -> list[torch.Tensor]:
        recompute.apply(model, levels)
        torch.manual_seed(3)
        return [*gradients(model, engine, batch), torch.rand(3)]  # nor does the second time change what follows

    expected = after(["none", "none"])
    assert not torch.equal(expected[0], gradients(model, engine, batch)[0])
    assert all(torch.equal(first, second) for first, second in zip(after([level, level]), expected, strict=True))


def test_the_host_reads_once_whether_gated_blocks_compute_a_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine, batch = trained("Llama", torch.float32, num_hidden_layers=4)
    comparisons, original = list[int](), torch.equal

    def counted(first: torch.Tensor, second: torch.Tensor) -> bool:
        comparisons.append(first.numel())
        return original(first, second)

    monkeypatch.setattr(torch, "equal", counted)
    recompute.apply(model, ["elementwise"] * 4)
    for _ in range(2):
        gradients(model, engine, batch)
    assert len(comparisons) == 1


@pytest.mark.parametrize("is_lean", [True, False], ids=["lean", ""])
@pytest.mark.parametrize("level", ["full", "offload"])
def test_micro_batches_may_wait_for_each_other(level: Level, is_lean: bool) -> None:
    """Two forward passes, then their backward passes in either order; one that never gets its own."""
    model, engine, batch = trained("Llama", torch.float32, num_hidden_layers=5)
    right = of_rows([[(ROWS[1], np.ones(len(ROWS[1]), dtype="uint8"))]], "flat", 0)
    expected = [gradients(model, engine, left)[1:] for left in (batch, right)]
    recompute.apply(model, [level] * 5, is_lean=is_lean)
    for first in (0, 1):
        losses = [-engine.score(model, left)[0].mean() for left in (batch, right)]
        engine.score(model, batch)
        for number in (first, 1 - first):
            model.zero_grad()
            losses[number].backward()
            result = [weight.grad for weight in model.parameters() if weight.grad is not None]
            assert all(torch.equal(left, second) for left, second in zip(result, expected[number], strict=True))


def test_inputs_wait_on_the_host_and_two_of_them_on_the_device() -> None:
    host, inputs = Host(), [torch.full((4,), float(number)) for number in range(5)]
    waiting = [host.put(tensor, index) for index, tensor in enumerate(inputs)]
    assert [entry.on_device is not None for entry in waiting] == [False, False, False, True, True]
    for index in reversed(range(5)):
        assert torch.equal(host.take(waiting[index]), inputs[index])
        below = waiting[max(0, index - 1)]
        assert index == 0 or below.on_device is not None  # fetched while this one is computed with
        assert sum(entry.on_device is not None for entry in waiting) == min(index, 1)
    assert torch.equal(host.take(waiting[2]), inputs[2])  # a second backward pass over the same graph


def test_what_a_forward_pass_left_behind_is_let_go_by_the_next() -> None:
    host = Host()
    left = [host.put(torch.ones(2), index) for index in range(3)]
    first = host.put(torch.zeros(2), 0)
    assert all(item.on_device is None for item in left) and first.below is None
    assert torch.equal(host.take(left[2]), torch.ones(2))


@pytest.mark.parametrize("level", ["full", "offload"])
def test_layers_that_learn_nothing_are_not_computed_again(level: Level) -> None:
    model, engine, batch = trained("Llama", torch.float32, num_hidden_layers=3)
    layers = recompute.decoder_layers(model)
    layers[0].requires_grad_(False)  # its adapters
    expected = gradients(model, engine, batch)
    counted = Counter[int]()
    recompute.apply(model, [level] * 3)
    for number, layer in enumerate(layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: counted.update([number]))
    result = gradients(model, engine, batch)
    assert all(torch.equal(first, second) for first, second in zip(result, expected, strict=True))
    assert counted == {0: 1, 1: 2, 2: 2}


def test_gradients_asked_for_one_by_one_are_refused_where_they_would_be_wrong() -> None:
    model, engine, batch = trained("Llama", torch.float32)
    recompute.apply(model, ["full", "full"])
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with pytest.raises(RuntimeError, match=r"need \.backward|not have been used"):
        torch.autograd.grad(engine.score(model, batch)[0].mean(), weights)


def test_two_backward_passes_over_one_graph_agree() -> None:
    model, engine, batch = trained("Llama", torch.float32)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    recompute.apply(model, ["elementwise", "elementwise"])
    result = engine.score(model, batch)[0].mean()
    first = torch.autograd.grad(result, weights, retain_graph=True)
    assert all(
        torch.equal(left, second) for left, second in zip(first, torch.autograd.grad(result, weights), strict=True)
    )


def test_autocast_is_the_same_in_the_second_computation() -> None:
    model, engine, batch = trained("Llama", torch.float32, adapter=False)
    results = []
    for level in LEVELS_OF_LAYERS:
        recompute.apply(model, [level, level])
        with torch.autocast("cpu", torch.bfloat16):
            results.append(gradients(model, engine, batch))
    for result in results[1:]:
        assert all(torch.equal(first, second) for first, second in zip(result, results[0], strict=True))


def test_a_plan_for_another_number_of_layers_is_refused() -> None:
    with pytest.raises(recompute.NotRecomputed, match="2 layers can be recomputed, the plan has 3"):
        recompute.apply(trained("Llama", torch.float32)[0], ["full"] * 3)


def kept_by_layer(
    model: Any, engine: Engine, batch: Any, monkeypatch: pytest.MonkeyPatch, autocast: bool = False
) -> tuple[Counter[int], Counter[int]]:
    """Count the bytes of all tensors that each layer keeps, on the device without weights, and on the host.

    A storage counts once.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes = {weight.shape for layer in recompute.decoder_layers(model) for weight in layer.parameters()}
    calls: dict[int, tuple[int, torch.Tensor]] = {}
    current, on_host = [-1], Counter[int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        at = tensor.untyped_storage().data_ptr()
        is_copy = (
            autocast and tensor.dim() == 2 and (tensor.shape in sizes or tensor.shape[::-1] in sizes)
        )  # of a weight, rounded
        if at not in weights and not is_copy:
            calls.setdefault(at, (current[0], tensor))
        return tensor.detach()

    put = Host.put

    def counted_put(self: Host, tensor: torch.Tensor, number: int) -> Any:
        waiting = put(self, tensor, number)
        on_host[current[0]] += waiting.on_host.nbytes
        return waiting

    monkeypatch.setattr(recompute, "keep", keep)
    monkeypatch.setattr(Host, "put", counted_put)
    for index, layer in enumerate(recompute.decoder_layers(model)):
        layer.register_forward_pre_hook(lambda *_, index=index: current.__setitem__(0, index))
        layer.register_forward_hook(lambda *_: current.__setitem__(0, -1))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        engine.score(model, batch)
    counted: Counter[int] = Counter()
    for index, tensor in calls.values():
        counted[index] += tensor.untyped_storage().nbytes()
    return counted, on_host


def predictor(model: Any, dtype: str, adapter: dict[str, Any]) -> Predictor:
    recipe = Recipe.model_validate(RECIPE | {"adapter": adapter, "model": {"name_or_path": "x", "dtype": dtype}})
    return Predictor(Outline.of(model.config.to_dict()), recipe, is_cuda=False)


def check_kept(model: Any, engine: Engine, batch: Any, plan: Predictor, level: Level, counted: Any) -> None:
    on_device, on_host = counted
    expected = plan.layer.kept(level) * TOKENS + plan.layer.kept_once(level)
    assert [on_device[1], on_device[2]] == [expected, expected]
    size = model.config.hidden_size * TOKENS * plan.kinds.weights
    assert (
        sum(on_host.values())
        == plan.on_host([level] * 3, MicroBatch(TOKENS, TOKENS))
        == 3 * size * (level == "offload")
    )


@pytest.mark.parametrize("level", LEVELS_OF_LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_keeps_as_many_bytes_as_the_plan_says(
    family: str, dtype: torch.dtype, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engine, batch = trained(family, dtype, num_hidden_layers=3)
    recompute.apply(model, [level] * 3)
    plan = predictor(model, str(dtype).removeprefix("torch."), {"kind": "lora", "r": RANK})
    check_kept(model, engine, batch, plan, level, kept_by_layer(model, engine, batch, monkeypatch))


@pytest.mark.parametrize("level", LEVELS_OF_LAYERS)
@pytest.mark.parametrize("kinds", [Kinds(2, 2, 4, 2), Kinds(4, 2, 4, 2)], ids=["adapters", "all weights"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_under_autocast_keeps_as_many_bytes_as_the_plan_says(
    family: str, kinds: Kinds, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card: bfloat16 weights with float32 adapters, or float32 weights that are all trained."""
    is_full = kinds.is_mixed
    dtype = torch.float32 if is_full else torch.bfloat16
    model, engine, batch = trained(family, dtype, adapter=not is_full, num_hidden_layers=3)
    recompute.apply(model, [level] * 3)
    monkeypatch.setattr(Kinds, "of", lambda *_, **__: kinds)
    plan = predictor(model, "auto", {"kind": "none"} if is_full else {"kind": "lora", "r": RANK})
    check_kept(model, engine, batch, plan, level, kept_by_layer(model, engine, batch, monkeypatch, autocast=True))


@pytest.mark.parametrize("level", LEVELS_OF_LAYERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fully_trained_layer_keeps_as_many_bytes_as_the_plan_says(
    family: str, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engine, batch = trained(family, torch.float32, adapter=False, num_hidden_layers=3)
    recompute.apply(model, [level] * 3)
    plan = predictor(model, "float32", {"kind": "none"})
    check_kept(model, engine, batch, plan, level, kept_by_layer(model, engine, batch, monkeypatch))
