"""Tiny random models of the families whose attention or head is special."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCABULARY = 97
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
COVERED: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "Qwen3": {"head_dim": 16},
    "Mistral": {"sliding_window": 8},
    "Phi3": {},
    "SmolLM3": {},
    "Gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},  # soft caps in attention and head
    "Cohere": {"logit_scale": 0.3},
    "Granite": {"logits_scaling": 3.0},
    "MiniCPM3": {
        "num_key_value_heads": 4,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    },  # scales the hidden states, not the logits
    "GptOss": {
        "head_dim": 16,
        "sliding_window": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },  # sinks
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True},
}
FALLBACKS: dict[str, dict[str, Any]] = {
    "StableLm": {},  # does not hand keywords on to its attention
    "Bloom": {},  # has attention of its own, with position biases
    "Mamba": {},  # a state runs along the sequence
    "Llama4": {
        "num_local_experts": 2,
        "attention_chunk_size": 8,
        "head_dim": 16,
        "intermediate_size_mlp": 96,
    },  # windows by a mask
}


def make(family: str, **changes: Any) -> Any:
    """Return a model of the family in evaluation mode, with weights large enough to tell rows apart."""
    torch.manual_seed(0)
    settings = SIZE | COVERED.get(family, FALLBACKS.get(family, {})) | changes
    config_class = getattr(transformers, f"{family}TextConfig" if family == "Llama4" else f"{family}Config")
    model = getattr(transformers, f"{family}ForCausalLM")(config_class(**settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
            if weight.shape == (4,):
                weight.normal_()  # sinks
    return model
