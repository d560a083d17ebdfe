"""Stacked experts in 4 bits: the weights of bitsandbytes, computed at each use and never kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import LoraConfig, get_peft_model
from torch.autograd.graph import saved_tensors_hooks

from tests import tiny
from tests.zoo import models
from trainer.model.adapter import attach, load_on
from trainer.model.experts import stacked_experts
from trainer.model.four_bit import dequantise_stacks, four_bit, quantised_names, weight_bytes_of
from trainer.model.lazy_experts import LazySum, LazyTensor, packed_experts
from trainer.model.load import load_model
from trainer.model.size import weight_bytes
from trainer.recipe.model import ModelSection, QloraAdapter

IDS = torch.arange(1, 41)[None]
MIXTURES = ["qwen3_moe", "gpt_oss", "llama4_text", "granitemoe", "jetmoe"]
"""Experts apart in the file; transposed with biases; one product for all; fused in the file; one module for a stack."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.make_tokenizer()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("mixtures")
    return {name: models.write(name, root / name, tokenizer) for name in MIXTURES}


def adapter(**settings: Any) -> QloraAdapter:
    return QloraAdapter.model_validate({"kind": "qlora", "r": 2, "alpha": 4, **settings})


def section(folder: Path) -> ModelSection:
    return ModelSection.model_validate({"name_or_path": str(folder)})


def loaded(folder: Path, **settings: Any) -> Any:
    return load_model(section(folder), folder, adapter=adapter(**settings), dtype=torch.float32)


def filled(model: Any) -> Any:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return model.train()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return {"loss": loss.detach()} | {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


def reference(model_type: str, folder: Path, tokenizer: Any, packed: Any) -> Any:
    """Return a float model with the weights that the 4-bit one computes with, and PEFT's own forward pass."""
    model = models.make(model_type, tokenizer)
    names = quantised_names(models.make(model_type, tokenizer, device="meta"), four_bit(adapter(), torch.float32))
    for name in names:
        weight = model.get_parameter(name)
        weight.data = dequantize_4bit(*quantize_4bit(weight.data, compress_statistics=True, quant_type="nf4"))
    config = packed.peft_config["default"]
    model = get_peft_model(
        model,
        LoraConfig(
            r=config.r,
            lora_alpha=config.lora_alpha,
            target_modules=config.target_modules,
            target_parameters=config.target_parameters,
            task_type="CAUSAL_LM",
        ),
    )
    weights = {name: weight for name, weight in packed.named_parameters() if "lora_" in name}
    assert not model.load_state_dict(weights, strict=False).unexpected_keys
    return model.train()


@pytest.mark.parametrize("model_type", MIXTURES)
def test_loss_and_gradients_are_those_of_a_float_model_with_the_dequantised_weights(
    model_type: str, folders: dict[str, Path], tokenizer: Any
) -> None:
    packed = filled(attach(loaded(folders[model_type]), adapter()))
    computed = gradients(packed)
    expected = gradients(reference(model_type, folders[model_type], tokenizer, packed))
    assert set(computed) == set(expected) and any("expert" in name for name in computed)
    for name, value in expected.items():
        torch.testing.assert_close(computed[name], value, rtol=2e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("model_type", MIXTURES)
def test_no_dense_copy_of_a_stack_waits_for_the_backward_pass(model_type: str, folders: dict[str, Path]) -> None:
    model = filled(attach(loaded(folders[model_type]), adapter()))
    smallest = min(model.get_parameter(name).shape.numel() for name in stacked_experts(model))
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=IDS[:, :4], labels=IDS[:, :4], use_cache=False)
    assert sum(isinstance(tensor, LazyTensor) for tensor in saved) >= 4
    layers = [tensor for tensor in saved if tensor.dim() == 3 and not isinstance(tensor, LazyTensor)]
    assert all(tensor.numel() < smallest for tensor in layers)


@pytest.mark.parametrize("model_type", MIXTURES)
def test_experts_are_counted_in_four_bits(model_type: str, folders: dict[str, Path]) -> None:
    model = loaded(folders[model_type])
    held = weight_bytes_of(model)
    numbers = sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in model.parameters())
    in_four_bits = numbers - held.wide.total() // 4
    assert in_four_bits / 2 < held.four_bit < in_four_bits / 2 * 1.4 + 2000 * len(list(model.parameters()))
    stacks = set(stacked_experts(model))
    assert stacks and all(isinstance(model.get_parameter(name), LazyTensor) for name in stacks)
    planned = weight_bytes(section(folders[model_type]), folders[model_type], adapter(), torch.float32)
    assert planned < 1.1 * (held.four_bit + held.wide.total())


def test_an_adapter_is_read_back_onto_four_bit_experts(folders: dict[str, Path], tmp_path: Path) -> None:
    model = filled(attach(loaded(folders["gpt_oss"]), adapter())).eval()
    model.save_pretrained(tmp_path)
    again = load_on(loaded(folders["gpt_oss"]), tmp_path)
    assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)
    with again.disable_adapter():
        assert torch.equal(again(input_ids=IDS).logits, loaded(folders["gpt_oss"])(input_ids=IDS).logits)


def test_dequantised_stacks_compute_the_same(folders: dict[str, Path]) -> None:
    model = loaded(folders["qwen3_moe"])
    expected = model(input_ids=IDS).logits
    dequantise_stacks(model)
    assert not any(isinstance(weight, LazyTensor) for weight in model.parameters())
    assert torch.equal(model(input_ids=IDS).logits, expected)


@pytest.mark.parametrize(("shape", "double"), [((3, 32, 64), True), ((3, 32, 64), False), ((3, 5, 7), True)])
def test_one_expert_is_a_part_of_the_whole(shape: tuple[int, int, int], double: bool) -> None:
    weight = packed_experts(torch.randn(shape), quant_type="nf4", double_quant=double)
    for number in range(-1, 3):
        assert torch.equal(weight[number].dense(), weight.dense()[number])


def test_weights_that_are_computed_at_each_use_cannot_be_written() -> None:
    weight = packed_experts(torch.randn(2, 32, 64), quant_type="nf4", double_quant=True)
    with pytest.raises(RuntimeError, match="would write"):
        weight.data.add_(1)


def test_sums_of_several_adapters_have_the_gradients_of_dense_sums() -> None:
    base = torch.randn(2, 6, 5)
    factors = [torch.randn(size, requires_grad=True) for size in [(2, 6, 3), (2, 3, 5), (2, 6, 1), (2, 1, 5)]]
    a, b, c, d = factors
    x = torch.randn(2, 4, 5)
    lazy = LazySum.apply(LazySum.apply(base, a, b, 0.5), c, d, 2.0)
    dense = base + 0.5 * a @ b + 2.0 * c @ d
    computed = torch.autograd.grad((x @ lazy.mT).sin().sum(), factors)
    expected = torch.autograd.grad((x @ dense.mT).sin().sum(), factors)
    for one, two in zip(computed, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
