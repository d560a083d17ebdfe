"""Names and patterns of an adapter: followed as PEFT does, and an error where they fit nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.zoo import models
from trainer.errors import HardwareError
from trainer.export.merge import MergePlan, merge_streaming, replay
from trainer.model.adapter import attach, load_on
from trainer.recipe.model import LoraAdapter

IDS = torch.arange(1, 30)[None]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.make_tokenizer()


def attached(model_type: str, tokenizer: Any, **settings: Any) -> Any:
    adapter = LoraAdapter.model_validate({"kind": "lora", "r": 2, "alpha": 4, **settings})
    peft = attach(models.make(model_type, tokenizer), adapter)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return peft.eval()


def ranks(peft: Any) -> dict[str, int]:
    return {
        name.partition(".lora_A")[0].removeprefix("base_model.model."): weight.shape[0]
        for name, weight in peft.named_parameters()
        if "lora_A" in name
    }


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], r".*\.(q_proj|down_proj)"])
def test_layers_to_transform_are_the_only_ones_with_an_adapter(targets: Any, tokenizer: Any) -> None:
    adapted = ranks(attached("llama", tokenizer, target_modules=targets, layers_to_transform=[1]))
    assert adapted and all(name.startswith("model.layers.1.") for name in adapted)


def test_layers_to_transform_hold_for_stacked_experts(tokenizer: Any) -> None:
    adapted = ranks(attached("gpt_oss", tokenizer, layers_to_transform=[0]))
    assert any("experts" in name for name in adapted) and not any(".layers.1." in name for name in adapted)


def test_ranks_and_scales_follow_the_patterns(tokenizer: Any) -> None:
    peft = attached(
        "llama", tokenizer, rank_pattern={"down_proj": 8, r".*\.0\..*q_proj": 4}, alpha_pattern={"k_proj": 1}
    )
    adapted = ranks(peft)
    assert {rank for name, rank in adapted.items() if name.endswith("down_proj")} == {8}
    assert adapted["model.layers.0.self_attn.q_proj"] == 4 and adapted["model.layers.1.self_attn.q_proj"] == 2
    layer = peft.get_base_model().model.layers[0].self_attn
    assert layer.k_proj.scaling["default"] == 0.5 and layer.v_proj.scaling["default"] == 2


def test_parameters_can_be_named_beside_modules(tokenizer: Any) -> None:
    names = ranks(attached("gpt_oss", tokenizer, target_modules=["q_proj"], target_parameters=["experts.down_proj"]))
    assert {name.rpartition(".")[2] for name in names} == {"q_proj", "experts"}


@pytest.mark.parametrize(
    ("model_type", "settings", "part"),
    [
        ("llama", {"rank_pattern": {"w1": 4}}, "adapter.rank_pattern: 'w1'"),
        ("llama", {"alpha_pattern": {"w1": 4}}, "adapter.alpha_pattern: 'w1'"),
        ("llama", {"layers_to_transform": [0, 9]}, "adapter.layers_to_transform: '9'"),
        ("llama", {"modules_to_save": ["classifier"]}, "adapter.modules_to_save: 'classifier'"),
        ("llama", {"target_modules": ["q_proj"], "target_parameters": ["experts.w1"]}, "adapter.target_parameters"),
    ],
)
def test_a_name_that_fits_nothing_is_an_error(
    model_type: str, settings: dict[str, Any], part: str, tokenizer: Any
) -> None:
    with pytest.raises(HardwareError, match="fits nothing in this model") as caught:
        attached(model_type, tokenizer, **settings)
    assert caught.value.message.startswith(part)
    assert "names end in" in caught.value.hint


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {"rank_pattern": {"down_proj": 8}, "alpha_pattern": {"q_proj": 1}, "layers_to_transform": [1]}),
        ("gpt_oss", {"rank_pattern": {"experts.down_proj": 4}, "modules_to_save": ["lm_head"]}),
        ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"]}),
    ],
)
def test_such_an_adapter_is_read_back_and_merged(
    model_type: str, settings: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    base = models.write(model_type, tmp_path / "base", tokenizer)
    peft = attached(model_type, tokenizer, **settings)
    expected = peft(input_ids=IDS).logits
    peft.save_pretrained(tmp_path / "adapter")
    again = load_on(models.make(model_type, tokenizer), tmp_path / "adapter")
    assert torch.equal(again(input_ids=IDS).logits, expected)
    merge_streaming(base, [(tmp_path / "adapter", 1.0)], tmp_path / "merged", MergePlan(), lambda _: None)
    assert replay(base, [(tmp_path / "adapter", 1.0)], tmp_path / "merged", MergePlan()).findings == []
    merged = type(peft.get_base_model()).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
