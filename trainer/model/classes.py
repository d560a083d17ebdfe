"""Choose the class of transformers that loads a checkpoint for text."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedConfig,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from trainer.errors import HardwareError

AutoClass = type[_BaseAutoModelClass]
CLASSES: tuple[AutoClass, ...] = (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM)
"""In the order of preference: the causal mapping holds text models, and whole models where these have a text head."""


def class_of(folder: str | Path) -> AutoClass:
    """Return the class that loads a folder; its config.json decides.

    Raises:
        HardwareError: transformers has no class that generates text for it.
        OSError, ValueError: config.json is missing or of an unknown type.
    """
    return auto_class(AutoConfig.from_pretrained(str(folder)))


def auto_class(config: PreTrainedConfig) -> AutoClass:
    """Return the class whose mapping has the configuration: `AutoModelForImageTextToText` for a Mistral 3, say.

    Raises:
        HardwareError: transformers has no class that generates text for it.
    """
    if getattr(config, "auto_map", None):  # the repository's own code, which the recipe has allowed
        return AutoModelForCausalLM
    for loader in CLASSES:
        if type(config) in loader._model_mapping:
            return loader
    raise HardwareError(
        f"no model of the type {config.model_type} generates text (transformers has no such class for it)",
        hint="choose a causal language model, or one that reads images and writes text",
    )
