"""Build tiny random models of any model type: two to four layers, hidden size 64, a few experts, a tiny vocabulary."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SHAPES = json.loads(Path(__file__).with_name("shapes.json").read_text(encoding="utf-8"))
"""`sizes`: value of each size setting, by its name in config.json. `types`: what a model type needs besides.

`config` are its own settings, `text` those of its text model, `arch` is the class where the causal mapping has none,
`like` names the model type whose shape it varies.
"""
MODEL_TYPES = list(SHAPES["types"])


def config_of(model_type: str, tokenizer: Any) -> PreTrainedConfig:
    """Return the configuration of the tiny model of a type."""
    shape = SHAPES["types"][model_type]
    config_class = CONFIG_MAPPING[shape.get("like", model_type)]
    settings = _with_vocabulary(shape.get("config", {}), len(tokenizer))
    text_class = (getattr(config_class, "sub_configs", None) or {}).get("text_config")
    if text_class is None:
        return config_class(**_sizes(config_class, tokenizer) | settings | shape.get("text", {}))
    if text_class is not transformers.AutoConfig:
        settings["text_config"] = _sizes(text_class, tokenizer) | shape.get("text", {})
    return config_class(**settings)


def _with_vocabulary(config: dict[str, Any], size: int) -> dict[str, Any]:
    """Return settings in which every vocabulary has the size of the tokenizer's."""
    nested = {name: _with_vocabulary(value, size) for name, value in config.items() if isinstance(value, dict)}
    return config | nested | ({"vocab_size": size} if "vocab_size" in config else {})


def _sizes(config_class: type[PreTrainedConfig], tokenizer: Any) -> dict[str, Any]:
    """Return the sizes that a configuration class knows."""
    names: set[str] = set()
    for base in config_class.__mro__:
        names |= set(getattr(base, "__annotations__", {})) | set(inspect.signature(base.__init__).parameters)
    tokens = dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), len(tokenizer))
    tokens |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return {name: value for name, value in (SHAPES["sizes"] | tokens).items() if name in names}


def make(model_type: str, tokenizer: Any, *, device: str = "cpu") -> PreTrainedModel:
    """Return the tiny model of a type; on the device meta it has no weights.

    Matrices are three times as wide as initialised, so that layers matter beside the residual. Vectors of zeros are
    drawn: a scale of zero would hide the layers below it.
    """
    torch.manual_seed(0)
    config = config_of(model_type, tokenizer)
    arch = SHAPES["types"][model_type].get("arch")
    with torch.device(device):
        model = getattr(transformers, arch)(config) if arch else AutoModelForCausalLM.from_config(config)
    model = model.to(torch.float32).eval()
    if device == "meta":
        return model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and not any(part in name for part in ("conv", "A_log", "vision")):
                weight.mul_(3)
            elif weight.dim() == 1 and not weight.any():
                weight.normal_(std=0.1)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, **ends)
    return model


def write(model_type: str, folder: Path, tokenizer: Any) -> Path:
    """Write the tiny model of a type and its tokenizer."""
    make(model_type, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
