"""Write the formats of PEFT, transformers and bitsandbytes, and read the base model for them."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from trainer.errors import HardwareError
from trainer.export.merge import FourBit, MergePlan
from trainer.model.classes import class_of
from trainer.model.experts import stacked_experts
from trainer.model.four_bit import four_bit
from trainer.model.load import device, load_model, weights_folder
from trainer.model.source import locate
from trainer.recipe.model import ModelSection, QloraAdapter


def base_folder(section: ModelSection, cache: Path) -> Path:
    """Return the folder with the base model's files; a hub model is in the hub's cache since training.

    Raises:
        HardwareError: The files are not there.
    """
    name, kwargs = weights_folder(section, cache)
    if Path(name).is_dir():
        return Path(name)
    try:
        folder = snapshot_download(
            name,
            revision=kwargs.get("revision"),
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"],
        )
    except OSError as error:
        raise HardwareError(
            f"cannot get the files of {name}: {str(error).splitlines()[0]}",
            hint="check model.name_or_path and model.revision; a gated model needs HF_TOKEN in the environment",
        ) from error
    return Path(folder)


def is_converted(base: Path, cache: Path) -> bool:
    """Tell whether the base's files were made from those that the recipe names: GGUF, MXFP4 or FP8."""
    return (cache / "models").absolute() in base.absolute().parents


def own_files(section: ModelSection, base: Path) -> Path | None:
    """Return the folder whose settings and tokenizer the base's authors wrote; None where they came as a GGUF file."""
    return None if locate(section.name_or_path, revision=section.revision).kind == "gguf" else base


def write_adapter(trained: Path, target: Path) -> None:
    """Copy the PEFT files of training."""
    shutil.copytree(trained, target, ignore=shutil.ignore_patterns("README.md"))


def write_full(section: ModelSection, cache: Path, target: Path, *, dtype: str, max_shard_gb: float) -> None:
    """Write a fully tuned model in its output type.

    Args:
        section: The recipe's `model`, with the trained folder as its name.
        cache: Folder for converted models.
        target: Folder to write.
        dtype: Type of the file.
        max_shard_gb: Largest file, in GB.
    """
    kind = getattr(torch, dtype)
    model: PreTrainedModel = load_model(section, cache, dtype=kind, placement=torch.device("cpu"))
    model.config.use_cache = True
    model.config.dtype = kind
    model.config._name_or_path = ""  # a path of this machine otherwise
    settings = model.generation_config
    for name in ("temperature", "top_p", "top_k"):  # refused by save_pretrained beside do_sample=False
        if not settings.do_sample:
            setattr(settings, name, None)
    model.save_pretrained(str(target), max_shard_size=f"{max_shard_gb}GB")


def write_bnb4(merged: Path, target: Path, adapter: QloraAdapter, *, max_shard_gb: float) -> int:
    """Quantise merged weights to 4 bits, with the settings of qlora.

    Returns:
        The number of stacked weights of experts that stay wide: transformers reads no others.

    Raises:
        HardwareError: bitsandbytes cannot.
    """
    kind = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    try:
        model: PreTrainedModel = class_of(merged).from_pretrained(
            str(merged), dtype=kind, device_map={"": device()}, quantization_config=four_bit(adapter, kind)
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise HardwareError(
            f"bnb4: {first}", hint="leave bnb4 out of export.formats, or update bitsandbytes"
        ) from error
    model.config._name_or_path = ""
    model.save_pretrained(str(target), max_shard_size=f"{max_shard_gb}GB")
    return sum(1 for _ in stacked_experts(model))


def plan_values(plan: MergePlan) -> dict[str, Any]:
    """Return a plan as JSON."""
    values = asdict(plan)
    if plan.four_bit is not None:
        values["four_bit"]["dtype"] = str(plan.four_bit.dtype).removeprefix("torch.")
    return values


def plan_of(values: dict[str, Any]) -> MergePlan:
    """Return the plan that `plan_values` wrote."""
    settings = values["four_bit"]
    if settings is not None:
        kind = {"dtype": getattr(torch, settings["dtype"]), "skipped": tuple(settings["skipped"])}
        settings = FourBit(**settings | kind)
    return MergePlan(**values | {"four_bit": settings})


def generation_settings(base: Path) -> GenerationConfig:
    """Return the generation defaults of the base model."""
    if (base / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(base))
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(base)))


def licence_of(base: Path) -> str | None:
    """Return the licence that the base model's own card names in its front matter."""
    card = base / "README.md"
    if not card.is_file():
        return None
    front = card.read_text(encoding="utf-8", errors="replace").split("---")
    match = re.search(r"^license:[ \t]*([\w.-]+)", front[1], re.MULTILINE) if len(front) > 2 else None
    return match.group(1) if match else None
