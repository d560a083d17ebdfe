"""What training would leave, and every format written from it, for the tests of the proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from trainer.export.merge import FourBit, MergePlan, merge_streaming
from trainer.export.provenance import template_sha256, write_provenance
from trainer.export.request import Export, Request
from trainer.export.sidecar import write_carried
from trainer.export.write_transformers import (
    generation_settings,
    plan_values,
    write_adapter,
    write_bnb4,
    write_full,
)
from trainer.recipe.export import Quantised, Verify
from trainer.recipe.model import ModelSection, QloraAdapter

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "Mistral": {"sliding_window": 8},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Llama padded": {"vocab_size": 704},
}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": "all-linear"},
    "qlora": {"target_modules": "all-linear"},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "attention dora": {"target_modules": ["q_proj", "v_proj"], "use_dora": True},
    "saved ends": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved norm": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
}
"""LoRA settings; `none` is full fine-tuning."""
LIMITS = Verify(quantised=Quantised(max_mean_kl=0.2, min_top1_agreement=0.3))
QLORA = QloraAdapter(kind="qlora")
FINGERPRINT = "this export"


def make_model(family: str, tokenizer: Any) -> Any:
    """Return a random model of a family whose outputs differ much from word to word."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    values = {"vocab_size": len(tokenizer), **sizes, **heads, **ends, **FAMILIES[family]}
    name = family.split()[0]
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**values))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)  # far enough from zero to tell words apart
    return model


def write_trained(kind: str, base: Path, folder: Path) -> Path:
    """Write what training would leave: an adapter whose B is not zero, or a whole model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    if kind == "none":
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        model.save_pretrained(folder)
        return folder
    tuned = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **KINDS[kind]))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:  # what begins at zero
                weight.copy_(0.05 * torch.randn_like(weight))
            elif "modules_to_save" in name:
                weight.add_(0.02 * torch.randn_like(weight))
    tuned.save_pretrained(folder)
    return folder


def questions(tokenizer: Any) -> list[dict[str, Any]]:
    """Return two questions as a request holds them."""
    request = [[{"role": "user", "content": f"Describe a {colour} horse as JSON."}] for colour in ("red", "blue")]
    texts = [tokenizer.apply_chat_template(item, tokenize=False, add_generation_prompt=True) for item in request]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [{"messages": item, "tools": [], "kwargs": {}, "ids": row} for item, row in zip(request, ids, strict=True)]


def request_for(
    kind: str, base: Path, trained: Path, tokenizer: Any, exports: list[Export], **remaining: Any
) -> Request:
    """Ask for proofs, `remaining` being other fields of the request."""
    general = [[5, 6, 7]] if kind == "qlora" else []
    common = {"rows": [list(range(3, 40)), list(range(100, 220))], "prompts": questions(tokenizer), "general": general}
    return Request(
        model=ModelSection(name_or_path=str(base)).model_dump(mode="json"),
        base=str(base),
        cache=str(trained.parent),
        trained=str(trained),
        is_adapter=kind != "none",
        four_bit=QLORA.model_dump(mode="json") if kind == "qlora" else None,
        weights_dtype="float32",
        stop_ids=[tokenizer.eos_token_id],
        stop_id=tokenizer.eos_token_id,
        max_new_tokens=4,
        template=template_sha256(tokenizer.chat_template),
        eos_token=tokenizer.eos_token,
        exports=exports,
        **common | remaining,
    )


def finish(export: Export, base: Path, tokenizer: Any) -> Export:
    """Add to a format what travels along."""
    folder, stop_id = Path(export.folder), tokenizer.eos_token_id
    write_carried(folder, tokenizer, generation_settings(base), stop_id, {"stop_token_ids": [stop_id]}, base=base)
    sign(folder, export.kind, tokenizer)
    return export


def sign(folder: Path, kind: str, tokenizer: Any) -> None:
    """Write provenance.json over what lies in a folder."""
    facts = {"fingerprint": FINGERPRINT, "template": template_sha256(tokenizer.chat_template)}
    write_provenance(folder, {"kind": kind, "stop_token_id": tokenizer.eos_token_id, **facts})


def write_formats(kind: str, base: Path, trained: Path, path: Path, tokenizer: Any) -> list[Export]:
    """Write adapter, merged (bfloat16; of qlora on both bases, in float32) and bnb4."""
    actual = []
    if kind == "none":
        section = ModelSection(name_or_path=str(trained))
        write_full(section, path, path / "merged", dtype="bfloat16", max_shard_gb=1)
        actual.append(Export("merged", "merged", str(path / "merged"), fingerprint=FINGERPRINT))
    else:
        write_adapter(trained, path / "adapter")
        actual.append(Export("adapter", "adapter", str(path / "adapter"), fingerprint=FINGERPRINT))
        for on in ("plain", "dequantised") if kind == "qlora" else ("plain",):
            plan = MergePlan(
                dtype="float32" if kind == "qlora" else "bfloat16",
                base=on,  # type: ignore[arg-type]
                four_bit=FourBit(dtype=torch.float32) if kind == "qlora" else None,
                stop_id=tokenizer.eos_token_id,
            )
            name = "merged" if on == "plain" else "merged-dequantised"
            merge_streaming(base, [(trained, 1.0)], path / name, plan, lambda line: None)
            actual.append(Export(name, "merged", str(path / name), on, plan_values(plan), FINGERPRINT))
    if kind in ("lora", "qlora", "none"):  # merged weights of the others are no different
        write_bnb4(path / "merged", path / "bnb4", QLORA, max_shard_gb=1)
        actual.append(Export("bnb4", "bnb4", str(path / "bnb4"), fingerprint=FINGERPRINT))
    return [finish(export, base, tokenizer) for export in actual]
