"""Build a model on the meta device, where it has shapes and no weights, within limits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from trainer.errors import HardwareError, TrainerError
from trainer.model.classes import auto_class
from trainer.model.four_bit import four_bit, quantised_names
from trainer.model.load import SourceSettings, cannot_load, checked_config
from trainer.model.planning.activations import FLOAT32, Kinds
from trainer.model.source import config_path, locate
from trainer.recipe import Recipe
from trainer.recipe.model import Adapter, ModelSection, four_bit_of

MAX_LAYERS = 1_000
"""The deepest published models have about 130 layers."""
MAX_SIZE = 1 << 28
"""Of any one number in config.json that is a size: a vocabulary has about 2^18 tokens, a context about 2^24."""


def read_config(section: ModelSection) -> PreTrainedConfig:
    """Return the configuration of the recipe's model, without reading weights.

    Raises:
        HardwareError: It is missing, damaged, of an unknown type, wants code of its own, or asks for absurd sizes.
    """
    source = locate(section.name_or_path, revision=section.revision)
    settings: SourceSettings = {"trust_remote_code": section.trust_remote_code}
    if source.revision:
        settings["revision"] = source.revision
    name = str(source.path or source.name)
    if (path := config_path(source)) is not None:  # a class may already build lists of that many layers
        refuse_absurd_sizes(_parsed(path), name)
    try:
        if source.kind == "gguf" and source.path is not None:
            return AutoConfig.from_pretrained(str(source.path.parent), gguf_file=source.path.name)
        config = checked_config(name, settings)
    except TrainerError:
        raise
    except Exception as error:  # whatever a configuration class raises for values that it does not expect
        raise cannot_load("model", name, error) from error
    return config


def _parsed(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HardwareError(f"{path} cannot be read: {error}", hint="copy the file again from its source") from error
    if not isinstance(config, dict):
        raise HardwareError(f"{path} holds no JSON object", hint="copy the file again from its source")
    return config


def refuse_absurd_sizes(config: Mapping[str, object], name: str) -> None:
    """Refuse numbers that no model has, before a class tries to build that many layers.

    Raises:
        HardwareError: A number of layers or another size is too large.

    Example:
        >>> refuse_absurd_sizes({"num_hidden_layers": 32, "text_config": {"hidden_size": 4096}}, "model")
    """
    for key, value in _integers(config):
        limit = MAX_LAYERS if "layer" in key and "vocab" not in key else MAX_SIZE
        if ("layer" in key or key.endswith(("size", "dim", "heads", "experts"))) and value > limit:
            raise HardwareError(
                f"{name}: config.json says {key}: {value:,}, the limit is {limit:,}",
                hint="compare config.json with the model's page: no published model is that large",
            )


def _integers(config: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _integers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield key, value


def build(config: PreTrainedConfig, section: ModelSection, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of a configuration on the meta device.

    Raises:
        HardwareError: No class generates text for it, or its class does not take these values.
    """
    loader = auto_class(config)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = loader.from_config(
                config, dtype=dtype, trust_remote_code=section.trust_remote_code
            )
    except TrainerError:
        raise
    except Exception as error:  # whatever a model class raises for sizes that do not fit each other
        raise cannot_load("model", section.name_or_path, error) from error
    return model


def traced_types(recipe: Recipe, *, is_cuda: bool) -> tuple[torch.dtype, torch.dtype | None]:
    """Return the types of weights and of products under autocast, as training chooses them; float16 as bfloat16."""
    kinds = Kinds.of(recipe, is_cuda=is_cuda)
    is_set = recipe.model.dtype != "auto" and not (recipe.model.dtype == "float16" and is_cuda)
    autocast = torch.bfloat16 if is_cuda and not is_set else None
    return torch.float32 if kinds.weights == FLOAT32 else torch.bfloat16, autocast


def four_bit_names(section: ModelSection, adapter: Adapter) -> set[str]:
    """Return the names of the weights that the recipe's adapter has in 4 bits; empty without such an adapter.

    Raises:
        HardwareError: The model cannot be built.
    """
    settings = four_bit_of(adapter)
    if settings is None:
        return set()
    # a model of its own: the layers are replaced as the loading would do it
    model = build(read_config(section), section, torch.bfloat16)
    return quantised_names(model, four_bit(settings, torch.bfloat16))
