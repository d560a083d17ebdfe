"""Merge a model in memory as a whole, where its tensors cannot be followed one by one."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from safetensors import SafetensorError
from transformers import PreTrainedModel

from trainer.errors import HardwareError
from trainer.export.merge.four_bit import dequantised
from trainer.export.merge.pieces import main_dtype
from trainer.export.merge.plan import Adapters, MergedWeights, MergePlan
from trainer.export.merge.shards import checkpoint
from trainer.export.merge.skeleton import quantised_parameters
from trainer.model.classes import class_of


def merge_in_memory(base: Path, adapters: Adapters, folder: Path, plan: MergePlan) -> MergedWeights:
    """Write the weights of a merge by PEFT's `merge_and_unload`, in float32 with one rounding to nearest.

    Raises:
        HardwareError: PEFT or transformers cannot load it, such a merge is wrong in PEFT, or a weight is not finite.
    """
    dtype = main_dtype(checkpoint(base)) if plan.dtype == "auto" else getattr(torch, plan.dtype)
    for path in folder.iterdir():  # shards of an earlier attempt that was streamed
        path.unlink()
    try:
        model = class_of(base).from_pretrained(base, dtype=torch.float32, use_safetensors=True).eval()
        was_tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
        rows = model.get_input_embeddings().weight.shape[0]
        if plan.base == "dequantised" and plan.four_bit:
            for name in quantised_parameters(base, plan.four_bit):
                weight = model.get_parameter(name)
                # W' = dequantise(quantise(W)): the update was trained on W', and fits it better than W
                weight.data = dequantised(weight.data, plan.four_bit, plan.device).float().cpu()
        peft = _with_adapters(model, adapters)
        changed = sum(isinstance(layer, LoraLayer) for layer in peft.modules())
        result = merged(peft)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise HardwareError(
            f"PEFT cannot merge this adapter: {str(error).splitlines()[0]}", hint="export.formats: [adapter]"
        ) from error
    total = sum(1 for _ in result.parameters())
    num_new = result.get_input_embeddings().weight.shape[0] - rows
    untied = was_tied and not result.config.get_text_config().tie_word_embeddings
    # the one rounding: all before was float32
    result.to(dtype).save_pretrained(str(folder), max_shard_size=f"{plan.max_shard_gb}GB")
    return MergedWeights(
        dtype=str(dtype).removeprefix("torch."),
        vocabulary=result.config.get_text_config().vocab_size if num_new else None,
        rounding="nearest",
        changed=changed,
        copied=total - changed,
        untied=untied,
        streamed=False,
    )


def _with_adapters(model: PreTrainedModel, adapters: Adapters) -> PeftModel:
    names = [f"a{number}" for number in range(len(adapters))]
    peft = PeftModel.from_pretrained(model, str(adapters[0][0]), adapter_name=names[0], torch_device="cpu")
    for name, (folder, weight) in zip(names, adapters, strict=True):
        if name != names[0]:
            peft.load_adapter(str(folder), adapter_name=name, torch_device="cpu")
        for layer in peft.modules():
            if isinstance(layer, LoraLayer) and name in layer.scaling:
                layer.scaling[name] *= weight
    refuse_tied_embeddings(peft, peft.get_base_model())
    peft.base_model.set_adapter(names)
    return peft


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


def open_to_all(folder: Path) -> None:
    """Make files readable: safetensors writes 0600, which a server under another user cannot open."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
