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
    "StableLm": {},  # does not hand keywords on to its attention
}
GATED_DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "head_dim": 16,
}
MAMBA_2 = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 32}
RECURRENT: dict[str, dict[str, Any]] = {
    "Mamba": {"state_size": 8, "time_step_rank": 4},
    "Jamba": {
        "num_hidden_layers": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "Bamba": {**MAMBA_2, "attn_layer_indices": [1]},
    "FalconH1": {**MAMBA_2, "mamba_d_ssm": 128},  # attention and state beside each other in one layer
    "Lfm2": {"layer_types": ["conv", "full_attention"]},  # a short convolution alone
    "Qwen3_5": GATED_DELTA,
    "Qwen3Next": {**GATED_DELTA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    | {"shared_expert_intermediate_size": 32},
    "MiniMax": {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 2, "head_dim": 16},
}
"""A state runs along the sequence."""
FALLBACKS: dict[str, dict[str, Any]] = {
    "Bloom": {},  # has attention of its own, with position biases
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
    settings = SIZE | (COVERED | RECURRENT | FALLBACKS).get(family, {}) | changes
    config_class = getattr(
        transformers, f"{family}TextConfig" if family in ("Llama4", "Qwen3_5") else f"{family}Config"
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config_class(**settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
            if weight.shape == (4,):
                weight.normal_()  # sinks
    return model
