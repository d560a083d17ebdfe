"""Bases that are published in fewer bits: made wide once, or refused before a weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config

from tests import tiny
from tests.zoo import models
from trainer.errors import HardwareError
from trainer.model.load import check_base, load_model, weights_folder
from trainer.model.published import from_blocks
from trainer.recipe.model import ModelSection

IDS = torch.arange(1, 30)[None]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.make_tokenizer()


def section(folder: Path) -> ModelSection:
    return ModelSection.model_validate({"name_or_path": str(folder)})


def with_quantisation(folder: Path, settings: dict[str, Any] | None, tensors: dict[str, torch.Tensor]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_mxfp4(folder: Path, tokenizer: Any) -> Path:
    """Write a tiny gpt-oss as OpenAI publishes it: 4-bit experts, scales of 32 weights, everything else in bfloat16."""
    models.write("gpt_oss", folder, tokenizer)
    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name] = tensor.to(torch.bfloat16)
            continue
        experts, inputs, outputs = tensor.shape
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(120, 124, (experts, outputs, inputs // 32), dtype=torch.uint8)
    return with_quantisation(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, tensors)


def write_fp8(folder: Path, tokenizer: Any) -> Path:
    """Write a tiny Qwen3 with 8-bit layers in blocks of 32, some of them incomplete."""
    models.write("qwen3", folder, tokenizer)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor.to(torch.bfloat16)
            continue
        tensors[name] = tensor.mul(20).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = torch.rand(-(-tensor.shape[0] // 32), -(-tensor.shape[1] // 32)) / 20 + 0.02
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    return with_quantisation(folder, settings, tensors)


def test_mxfp4_is_what_transformers_makes_of_it(tmp_path: Path, tokenizer: Any) -> None:
    folder = write_mxfp4(tmp_path / "model", tokenizer)
    lines: list[str] = []
    weights_folder(section(folder), tmp_path, lines.append)
    model = load_model(section(folder), tmp_path, dtype=torch.bfloat16)
    weights_folder(section(folder), tmp_path, lines.append)
    assert len(lines) == 1 and "published in mxfp4" in lines[0]
    expected = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
    )
    assert dict(model.named_parameters()).keys() == dict(expected.named_parameters()).keys()
    for name, weight in expected.named_parameters():
        assert torch.equal(model.get_parameter(name), weight), name
    assert getattr(model.config, "quantization_config", None) is None


def test_fp8_blocks_are_weights_times_their_scales(tmp_path: Path, tokenizer: Any) -> None:
    folder = write_fp8(tmp_path / "model", tokenizer)
    published = load_file(folder / "model.safetensors")
    check_base(section(folder), tmp_path)
    model = load_model(section(folder), tmp_path, dtype=torch.bfloat16)
    for name, weight in model.named_parameters():
        scales = published.get(f"{name}_scale_inv")
        if scales is None:
            assert name == "lm_head.weight" or torch.equal(weight, published[name]), name
            continue
        whole = scales.repeat_interleave(32, 0)[: weight.shape[0]].repeat_interleave(32, 1)[:, : weight.shape[1]]
        assert torch.equal(weight, (published[name].float() * whole).to(torch.bfloat16)), name
    assert model(input_ids=IDS).logits.isfinite().all()


@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors", "bitsandbytes", "hqq", "new-method"])
def test_other_quantised_bases_are_refused_with_a_way_out(method: str, tmp_path: Path, tokenizer: Any) -> None:
    folder = models.write("qwen3", tmp_path / "model", tokenizer)
    with_quantisation(folder, {"quant_method": method}, {"no": torch.zeros(1)})  # no weight of a model is there
    with pytest.raises(HardwareError, match="bitsandbytes" if method == "bitsandbytes" else method) as caught:
        check_base(section(folder), tmp_path)
    assert "16-bit model" in caught.value.hint


def test_fp4_in_an_fp8_checkpoint_is_refused() -> None:
    with pytest.raises(HardwareError, match="int8"):
        from_blocks(torch.zeros(4, 4, dtype=torch.int8), torch.ones(1, 1), (4, 4))


def test_a_model_that_cannot_be_built_is_not_blamed_on_the_hub(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = models.write("qwen3", tmp_path / "model", tokenizer)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(HardwareError) as caught:
        load_model(section(folder), tmp_path, dtype=torch.float32)
    assert "hub" not in caught.value.hint and "too few for its header" in caught.value.message
