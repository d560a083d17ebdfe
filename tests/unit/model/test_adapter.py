"""A saved adapter is opened again before it counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from trainer.errors import HardwareError, StageError
from trainer.model.adapter import attach, check_saved, coverage
from trainer.recipe.model import LoraAdapter


def saved(folder: Path, target: str, *, moved: bool) -> Path:
    """Save an adapter on one layer, fresh or with its zero matrix moved."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    settings = LoraConfig(r=2, target_modules=[target], init_lora_weights=True, task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name and not weight.any() and moved:
                weight.fill_(0.5)
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("target", ["q_proj", "embed_tokens", "lm_head"])
def test_an_adapter_that_learned_nothing_is_refused_on_any_layer(tmp_path: Path, target: str) -> None:
    assert check_saved(saved(tmp_path / "moved", target, moved=True))["b_norm"] > 0
    with pytest.raises(StageError, match="every B matrix is zero"):
        check_saved(saved(tmp_path / "fresh", target, moved=False))


def test_no_more_layers_are_adapted_than_there_are() -> None:
    config = MixtralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    covered = coverage(get_peft_model(MixtralForCausalLM(config), settings))
    assert 0 < covered.adapted_modules < covered.linear_modules  # the head is not adapted


def mixtral() -> MixtralForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return MixtralForCausalLM(MixtralConfig(vocab_size=50, num_key_value_heads=2, num_local_experts=2, **sizes))


def test_dora_leaves_stacked_experts_out_and_says_so() -> None:
    messages: list[str] = []
    model = attach(mixtral(), LoraAdapter(kind="lora", alpha=8, use_dora=True), messages.append)
    assert "2 of stacked experts, for which PEFT has neither dropout nor DoRA" in messages[0]
    assert not any("experts" in name for name, weight in model.named_parameters() if weight.requires_grad)


def test_dora_on_stacked_experts_is_refused_where_the_recipe_asks_for_them() -> None:
    with pytest.raises(HardwareError, match="no DoRA for stacked experts") as caught:
        attach(mixtral(), LoraAdapter(kind="lora", alpha=8, use_dora=True, experts="all"))
    assert "q_proj" in caught.value.hint and "base_layer" not in caught.value.hint
