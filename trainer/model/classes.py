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
"""In the order of preference."""


def class_of(folder: str | Path) -> AutoClass:
    """Return the class that loads a folder; its config.json decides.

    Raises:
        HardwareError: transformers has no class that generates text for it.
        OSError, ValueError: config.json is missing or of an unknown type.
    """
    return auto_class(AutoConfig.from_pretrained(str(folder)))


def auto_class(config: PreTrainedConfig) -> AutoClass:
    """Return the class whose mapping has the configuration: `AutoModelForImageTextToText` for a Mistral 3, for example.

    Where several have it, the one whose model is in `architectures` comes first: it holds all weights of the
    checkpoint, and servers know the names of its layers.

    Raises:
        HardwareError: transformers has no class that generates text for it.
    """
    if getattr(config, "auto_map", None):  # the repository's own code, which the recipe has allowed
        return AutoModelForCausalLM
    loaders = [loader for loader in CLASSES if type(config) in loader._model_mapping]
    if not loaders:
        raise HardwareError(
            f"no model of the type {config.model_type} generates text (transformers has no such class for it)",
            hint="choose a causal language model, or one that reads images and writes text",
        )
    architectures = set(config.architectures or ())
    # a checkpoint with a vision tower names the whole model, not its text decoder
    return next((loader for loader in loaders if _class_names(loader, config) & architectures), loaders[0])


def _class_names(loader: AutoClass, config: PreTrainedConfig) -> set[str]:
    model_classes = loader._model_mapping[type(config)]
    return {each.__name__ for each in (model_classes if isinstance(model_classes, tuple) else (model_classes,))}
