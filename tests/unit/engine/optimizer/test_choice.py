"""Which optimizer class trains what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from trainer.engine.lora import SHARDED
from trainer.engine.optimizer.adamw_8bit import BlockwiseAdamW
from trainer.engine.optimizer.choice import optimizer_for
from trainer.engine.optimizer.rounded import RoundedAdamW, RoundedSGD


def made(dtype: torch.dtype) -> Any:
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config).to(dtype)


def proposed(optim: str) -> Any:
    return Trainer.get_optimizer_cls_and_kwargs(
        TrainingArguments(output_dir="x", optim=optim, learning_rate=3e-4, use_cpu=True, report_to="none")
    )


@pytest.mark.parametrize(
    ("optim", "dtype", "expected"),
    [
        ("adamw_torch", torch.float32, torch.optim.AdamW),
        ("adamw_torch", torch.bfloat16, RoundedAdamW),
        ("adamw_torch_fused", torch.bfloat16, RoundedAdamW),
        ("sgd", torch.float32, torch.optim.SGD),
        ("sgd", torch.bfloat16, RoundedSGD),
        ("adamw_8bit", torch.float32, BlockwiseAdamW),
        ("adamw_8bit", torch.bfloat16, BlockwiseAdamW),
        ("paged_adamw_8bit", torch.bfloat16, BlockwiseAdamW),
        ("paged_adamw_32bit", torch.float32, BlockwiseAdamW),
    ],
)
def test_weights_of_16_bits_and_states_of_bitsandbytes_have_a_class_of_ours(
    optim: str, dtype: torch.dtype, expected: type[torch.optim.Optimizer]
) -> None:
    model = made(dtype)
    kind, settings = optimizer_for(model, optim, 7, proposed(optim))
    optimizer = kind(model.parameters(), **settings)
    assert type(optimizer) is expected and optimizer.param_groups[0]["lr"] == 3e-4
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    if expected is BlockwiseAdamW:
        assert optimizer.args.optim_bits == (8 if "8bit" in optim else 32)
        assert optimizer.is_paged is optim.startswith("paged")
        assert optimizer.in_float32 == {id(model.get_input_embeddings().weight)}


def test_adapters_in_float32_on_a_bfloat16_base_keep_torchs_optimizer() -> None:
    model = get_peft_model(made(torch.bfloat16), LoraConfig(r=2, target_modules="all-linear"))
    assert optimizer_for(model, "adamw_torch", 7, proposed("adamw_torch"))[0] is torch.optim.AdamW


@pytest.mark.parametrize("name", SHARDED)
@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit"])
def test_weights_spread_over_processes_keep_what_transformers_proposes(
    name: str, optim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = proposed(optim)
    monkeypatch.setenv(name, "true")
    assert optimizer_for(made(torch.bfloat16), optim, 7, first) is first
