"""What a training is built with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.errors import HardwareError
from trainer.methods.setup import _switch_dropout_off, hold_in_float8


def model_with_dropout() -> Any:
    """Return a model whose attention and adapter both drop."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_dropout=0.4,
    )
    settings = LoraConfig(
        r=2, target_modules="all-linear", lora_dropout=0.3, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(LlamaForCausalLM(config), settings).train()


def test_no_dropout_is_left_in_a_preference_method() -> None:
    model, ids = model_with_dropout(), torch.arange(20)[None]
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert _switch_dropout_off(model) == 0.4
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert torch.equal(model(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_frozen_weights_are_rounded_where_the_model_trains_and_it_is_said() -> None:
    model, said = model_with_dropout(), list[str]()
    model.get_base_model().hf_device_map = {"": "elsewhere"}
    hold_in_float8(model, torch.device("cpu"), said.append)
    assert said[0] == "train: frozen weights of 7 layers in 8 bits (e4m3)" and "no card" in said[1]
    assert model.hf_device_map == {"": torch.device("cpu")}


def test_weights_in_8_bits_are_not_spread_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(HardwareError, match="FSDP") as caught:
        hold_in_float8(model_with_dropout(), torch.device("cpu"), print)
    assert caught.value.hint == "--set train.float8_base=false"
