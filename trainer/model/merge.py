"""Merge an adapter into its unquantised base, in float32, with one rounding at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.errors import HardwareError


def refuse_tied_embeddings(model: PeftModel, base: PreTrainedModel) -> None:
    """Refuse LoRA on embeddings that share their weights with the head.

    PEFT 0.21 merges the update into both ends, or twice.

    Raises:
        HardwareError: The adapter is of that kind.
    """
    tied = getattr(base.config, "tie_word_embeddings", False)
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    adapted = [end for end in ends if hasattr(end, "lora_A") or hasattr(end, "lora_embedding_A")]
    if tied and adapted:
        raise HardwareError(
            "the adapter changes embeddings that are tied to the head; such a merge is wrong in PEFT",
            hint="export.formats: [adapter], or train without embed_tokens and lm_head in adapter.target_modules",
        )


def merged(model: PeftModel) -> PreTrainedModel:
    """Return the base model with the update added; weights in the type they have (float32 for an exact merge).

    `safe_merge` is off: it rounds the update before adding. Non-finite weights are looked for here instead.

    Raises:
        HardwareError: A merged weight is not finite.
    """
    result: PreTrainedModel = model.merge_and_unload(safe_merge=False)
    for name, weight in result.named_parameters():
        if not torch.isfinite(weight).all():
            raise HardwareError(f"merged weight {name} is not finite", hint="export.dtype: float32")
    return result


def changed_weights(before: dict[str, torch.Tensor], model: PreTrainedModel) -> int:
    """Count the weights of `before` that the merge changed."""
    after = dict(model.named_parameters())
    return sum(not torch.equal(weight, after[name].detach()) for name, weight in before.items())


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    dtype: torch.dtype,
    max_shard_gb: float,
    stop_id: int,
) -> None:
    """Write a plain transformers folder: safetensors, tokenizer, template, generation settings."""
    model.to(dtype)
    model.config.use_cache = True
    model.config.dtype = dtype
    model.config._name_or_path = ""  # a path of this machine otherwise
    add_stop(model.generation_config, stop_id)
    model.save_pretrained(str(folder), max_shard_size=f"{max_shard_gb}GB")
    tokenizer.save_pretrained(str(folder))
    open_to_all(folder)


def add_stop(generation_config: Any, stop_id: int) -> None:
    """Make sure that generation ends at the token that the answers were trained to end with; greedy by default."""
    known = generation_config.eos_token_id
    ids = [known] if isinstance(known, int) else list(known or [])
    if stop_id not in ids:
        generation_config.eos_token_id = [*ids, stop_id]
    for name in ("temperature", "top_p", "top_k"):  # refused by save_pretrained beside do_sample=False
        if not generation_config.do_sample:
            setattr(generation_config, name, None)


def open_to_all(folder: Path) -> None:
    """Make files readable: safetensors writes 0600, which a server under another user cannot open."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
