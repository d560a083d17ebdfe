"""LoRA on 4-bit weights: the weights that bitsandbytes computes with, dequantised as seldom as memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.unit.engine import families
from tests.unit.engine.closeness import errors, gap
from trainer.engine import lora, recompute
from trainer.model.adapter import _keep_four_bit_layout
from trainer.model.planning.activations import Level

IDS = torch.randint(3, families.VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    families.make("Qwen2").save_pretrained(path)  # biases on q, k and v
    return path


def quantised(folder: Path, dtype: torch.dtype = torch.float32, *, double: bool = True) -> Any:
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=dtype, device_map={"": "cpu"}
    )
    _keep_four_bit_layout(model)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=12, target_modules="all-linear"))
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.enable_input_require_grads()
    return model.train()


def run(model: Any) -> list[torch.Tensor]:
    model.zero_grad()
    logits = model(input_ids=IDS, use_cache=False).logits
    logits.float().log_softmax(-1)[..., 7].sum().backward()
    return [logits.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.grad is not None)]


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """Give every dequantised weight that a product used."""
    calls: list[torch.Tensor] = []
    original = lora.dequantize_bnb_weight

    def counted(weight: Any) -> torch.Tensor:
        calls.append(original(weight))
        return calls[-1]

    monkeypatch.setattr(lora, "dequantize_bnb_weight", counted)
    yield calls


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
def test_weights_are_bitsandbytes_own_and_results_pefts(
    folder: Path, double: bool, unpacked: list[torch.Tensor]
) -> None:
    model = quantised(folder, double=double)
    expected = run(model)
    counted = lora.switch_on(model)
    assert set(counted) == {""} and counted[""] == 14
    result = run(model)
    assert gap(result, expected) < 2e-6
    base = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(unpacked[0], dequantize_4bit(base.data, base.quant_state))


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_no_worse_than_peft(folder: Path, autocast: bool) -> None:
    model = quantised(folder, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        theirs = run(model)
        lora.switch_on(model)
        ours = run(model)
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in theirs]
    exact = run(_in_float64(quantised(folder, torch.bfloat16)))
    assert mean(errors(ours, exact)) < 1.2 * mean(errors(theirs, exact))  # roundings of other layers add up by chance


def _in_float64(model: Any) -> Any:
    """Put the dequantised weights into a model of plain linear layers."""
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if base is None:
            continue
        plain = torch.nn.Linear(base.in_features, base.out_features, bias=base.bias is not None).double()
        plain.weight.data = dequantize_4bit(base.weight.data, base.weight.quant_state).double()
        if base.bias is not None:
            plain.bias.data = base.bias.data.double()
        plain.requires_grad_(False)
        module.base_layer = plain
    return model.double()


def test_a_recomputed_layer_is_dequantised_twice_not_three_times(folder: Path, unpacked: list[torch.Tensor]) -> None:
    model = quantised(folder)
    lora.switch_on(model)
    expected = run(model)
    assert len(unpacked) == 2 * 14  # forward and backward
    unpacked.clear()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert gap(run(model), expected) == 0.0
    assert len(unpacked) == 2 * 14  # forward, and once for recomputation and backward
    with torch.no_grad():
        model(input_ids=IDS)
    assert len(unpacked) == 3 * 14


@pytest.mark.parametrize("level", ["full", "offload"])
@pytest.mark.parametrize(("is_lean", "times"), [(False, 2), (True, 3)])
def test_a_lean_layer_is_dequantised_once_more(
    level: Level, is_lean: bool, times: int, folder: Path, unpacked: list[torch.Tensor]
) -> None:
    model = quantised(folder)
    lora.switch_on(model)
    expected = run(model)
    unpacked.clear()
    recompute.apply(model, [level, level], is_lean=is_lean)
    assert gap(run(model), expected) == 0.0
    assert len(unpacked) == times * 14


def test_dequantised_weights_are_not_kept_without_recomputation(folder: Path) -> None:
    model = quantised(folder)
    lora.switch_on(model)
    sizes: list[torch.Size] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.shape)
        return tensor

    layer = model.base_model.model.model.layers[0].mlp.gate_proj
    x = torch.randn(7, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    assert torch.Size([96, 64]) not in sizes and torch.Size([7, 64]) in sizes


def test_weights_kept_dequantised_are_dequantised_once(folder: Path, unpacked: list[torch.Tensor]) -> None:
    model = quantised(folder)
    expected = run(model)
    lora.switch_on(model, dequantised=True)
    assert len(unpacked) == 14
    assert gap(run(model), expected) < 2e-6
    assert len(unpacked) == 14
    lora.switch_off(model)
    assert gap(run(model), expected) == 0.0


def test_a_merge_replaces_weights_that_are_kept_dequantised(folder: Path) -> None:
    model = quantised(folder)
    lora.switch_on(model, dequantised=True)
    model.merge_adapter()
    model.unmerge_adapter()  # quantises twice: the weights are no longer those at the start
    results = run(model)
    lora.switch_off(model)
    assert gap(results, run(model)) < 2e-6
