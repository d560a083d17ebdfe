"""What a preference method is built with."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.methods.setup import _switch_dropout_off


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
