"""`all-linear` takes the layers that an adapter fits, in every family of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from tests.zoo import models
from trainer.errors import StageError
from trainer.model.adapter import attach, load_on
from trainer.model.targets import choose_targets, computes_product
from trainer.recipe.model import LoraAdapter

ATTENTION = "q_proj k_proj v_proj o_proj"
ALL = f"{ATTENTION} gate_proj up_proj down_proj"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.make_tokenizer()


def chosen(model_type: str, tokenizer: Any, **settings: Any) -> Any:
    adapter = LoraAdapter.model_validate({"kind": "lora", **settings})
    return choose_targets(models.make(model_type, tokenizer, device="meta"), adapter)


def leaves(names: list[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("llama", ALL),
        ("qwen3", ALL),
        ("phi3", "qkv_proj o_proj gate_up_proj down_proj"),
        ("gpt2", "c_attn c_proj c_fc"),
        ("falcon", "query_key_value dense dense_h_to_4h dense_4h_to_h"),
        ("gemma3", ALL),
        ("mistral3", ALL),
        ("qwen3_vl", ALL),
        ("llama4_text", ALL),
        ("gpt_oss", ATTENTION),
        ("mixtral", ATTENTION),
        ("mamba2", "in_proj"),
    ],
)
def test_every_product_of_the_language_model_is_a_target_and_nothing_else(
    model_type: str, expected: str, tokenizer: Any
) -> None:
    assert leaves(chosen(model_type, tokenizer).modules) == set(expected.split())


@pytest.mark.parametrize(
    ("model_type", "reason", "leaf"),
    [
        ("gemma3", "outside the language model", "fc1"),
        ("llama4", "routers", "router"),
        ("phimoe", "routers", "router"),
        ("qwen3_next", "routers", "shared_expert_gate"),
        ("deepseek_v4", "no plain product", "o_a_proj"),
        ("falcon_h1", "PEFT refuses", "out_proj"),
        ("zamba2", "several layers share", "q_proj"),
    ],
)
def test_a_layer_that_is_left_out_has_its_reason(model_type: str, reason: str, leaf: str, tokenizer: Any) -> None:
    excluded = chosen(model_type, tokenizer).excluded
    assert any(reason in text and leaf in leaves(names) for text, names in excluded.items()), dict(excluded)


@pytest.mark.parametrize(
    ("model_type", "leaf"), [("deepseek_v32", "wk"), ("jamba", "dt_proj"), ("gemma3n_text", "correction_coefs")]
)
def test_layers_that_no_gradient_reaches_get_no_adapter(model_type: str, leaf: str, tokenizer: Any) -> None:
    messages: list[str] = []
    adapter = LoraAdapter.model_validate({"kind": "lora", "r": 2, "alpha": 4})
    peft = attach(models.make(model_type, tokenizer), adapter, messages.append)
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name, _ in peft.named_parameters() if "lora_" in name}
    assert leaf not in adapted and adapted & {"o_proj", "down_proj"}
    assert "that no gradient reaches" in messages[0]


def test_layers_whose_names_peft_cannot_read_back_get_no_adapter(tokenizer: Any, tmp_path: Path) -> None:
    messages: list[str] = []
    adapter = LoraAdapter.model_validate({"kind": "lora", "r": 2, "alpha": 4})
    peft = attach(models.make("laguna", tokenizer), adapter, messages.append)
    assert "3 whose names PEFT cannot read back" in messages[0]
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    peft.save_pretrained(tmp_path)
    again = load_on(models.make("laguna", tokenizer), tmp_path)
    ids = torch.arange(1, 9)[None]
    assert torch.equal(again(input_ids=ids).logits, peft.eval()(input_ids=ids).logits)


def test_an_adapter_of_another_model_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    adapter = LoraAdapter.model_validate({"kind": "lora", "r": 2, "alpha": 4})
    attach(models.make("llama", tokenizer), adapter).save_pretrained(tmp_path)
    with pytest.raises(StageError, match="PEFT does not put"):
        load_on(models.make("phi3", tokenizer), tmp_path)


@pytest.mark.parametrize(("experts", "num_parameters"), [("auto", 4), ("all", 4), ("none", 0)])
def test_stacked_experts_are_targets_unless_the_recipe_says_none(
    experts: str, num_parameters: int, tokenizer: Any
) -> None:
    targets = chosen("gpt_oss", tokenizer, experts=experts)
    assert len(targets.parameters) == num_parameters
    assert all(name.rpartition(".")[2] in ("gate_up_proj", "down_proj") for name in targets.parameters)


def test_a_recipe_can_leave_layers_out(tokenizer: Any) -> None:
    targets = chosen("llama", tokenizer, exclude_modules=["k_proj", r".*layers\.0\.mlp\..*"])
    assert "k_proj" not in leaves(targets.modules)
    assert not any("layers.0.mlp" in name for name in targets.modules)
    assert sum(map(len, targets.excluded.values())) == 2 + 3


def test_a_subclass_that_computes_something_else_is_no_product() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    class Same(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input @ self.weight.T + self.bias

    assert computes_product(nn.Linear) and computes_product(Same) and not computes_product(Doubled)
