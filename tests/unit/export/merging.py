"""Tiny bases and adapters for tests of merging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from trainer.digests import hash_file

SIZE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": False},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "Gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "Gemma3": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "Mistral": {"sliding_window": 8},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16},
    "GptOss": {"head_dim": 16, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}
HEADS = {"GPT2": "GPT2LMHeadModel"}
LINEAR = ["q_proj", "v_proj", "o_proj", "down_proj", "up_proj"]
ATTENTION = ["q_proj", "v_proj", "o_proj"]
TOKENS = torch.arange(3, 43).reshape(2, 20)


def make_base(folder: Path, family: str = "Llama", *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a random model of two layers."""
    torch.manual_seed(0)
    prefix = "Gemma3Text" if family == "Gemma3" else family
    config = getattr(transformers, f"{prefix}Config")(**SIZE | FAMILIES.get(family, {}) | changes)
    model = getattr(transformers, HEADS.get(family, f"{family}ForCausalLM"))(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.1)
    model.to(dtype).save_pretrained(folder, max_shard_size=changes.get("shard", "5GB"))
    return folder


def make_multimodal(folder: Path) -> Path:
    """Write a Gemma 3 that also sees."""
    text = transformers.Gemma3TextConfig(**SIZE | FAMILIES["Gemma3"]).to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    complete = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    model = transformers.Gemma3ForConditionalGeneration(complete)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.1)
    model.save_pretrained(folder)
    return folder


def make_adapter(
    folder: Path, base: Path, *, scale: float = 0.05, seed: int = 1, vocab: int = 0, **kwargs: Any
) -> Path:
    """Write an adapter whose trained tensors are random."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if vocab:
        model.resize_token_embeddings(vocab, mean_resizing=False)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM"} | kwargs
    peft = get_peft_model(model, LoraConfig(**settings))
    torch.manual_seed(seed)
    for name, weight in peft.named_parameters():
        if weight.requires_grad:
            noise = torch.randn_like(weight) * scale
            survivors = weight.data if "magnitude" in name or "modules_to_save" in name else 0
            weight.data.copy_(survivors + noise)  # in place: tied adapters share their memory
    peft.save_pretrained(folder)
    return folder


def adapted(base: Path, adapters: list[tuple[Path, float]], *, vocab: int = 0) -> PeftModel:
    """Return the base with the adapters beside it, in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if vocab:
        model.resize_token_embeddings(vocab, mean_resizing=False)
    names = [f"a{number}" for number in range(len(adapters))]
    peft = PeftModel.from_pretrained(model, str(adapters[0][0]), adapter_name="a0")
    for name, (folder, _) in list(zip(names, adapters, strict=True))[1:]:
        peft.load_adapter(str(folder), adapter_name=name)
    peft.base_model.set_adapter(names)
    for module in peft.modules():
        for name, (_, weight) in zip(names, adapters, strict=True):
            if isinstance(module, LoraLayer) and name in module.scaling:
                module.scaling[name] *= weight
    return peft.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Return the logits on fixed tokens."""
    return model(input_ids=TOKENS).logits.float()


def reopened(folder: Path) -> Any:
    """Load a folder in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a folder."""
    actual: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        actual |= load_file(path)
    return actual


def peft_merged(base: Path, adapters: list[tuple[Path, float]], folder: Path, **kwargs: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that PEFT's own merge writes, in float32."""
    adapted(base, adapters, **kwargs).merge_and_unload(safe_merge=False).save_pretrained(folder)
    return weights(folder)


def rewrite(path: Path, change: Any) -> None:
    """Change the tensors of a safetensors file in place."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def config(folder: Path) -> dict[str, Any]:
    """Return config.json."""
    return json.loads((folder / "config.json").read_text())


def hash_folder(path: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, by its path relative to the folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): hash_file(file) for file in files}
