"""Compare the keys of an adapter with the layers of the class that a server loads.

A server loads the class that `architectures` in config.json names, and looks each key up among its layers. A key that
it does not find is skipped, in some servers without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig

from trainer.export.merge.shards import checkpoint
from trainer.export.merge.skeleton import PREFIX
from trainer.model.adapter import WEIGHTS

INNER = (".lora_", ".token_adapter")
"""What PEFT puts behind the name of a layer."""


def layer_of(key: str) -> str:
    """Return the name of the layer that a key of an adapter belongs to.

    Example:
        >>> layer_of("base_model.model.model.layers.0.mlp.experts.base_layer.lora_A.weight")
        'model.layers.0.mlp.experts'
        >>> layer_of("base_model.model.lm_head.weight")
        'lm_head'
    """
    name = key.removeprefix(PREFIX).replace(".base_layer", "")
    for inner in INNER:
        if inner in name:
            return name.partition(inner)[0]
    return name.rpartition(".")[0]


def unserved_keys(adapter: Path, base: Path) -> list[str]:
    """Return a finding where keys of an adapter name no layer of the served class, nor of the base's files.

    Args:
        adapter: PEFT folder.
        base: Folder of the base model.
    """
    config = AutoConfig.from_pretrained(str(base))
    name = next(iter(config.architectures or ()), "")
    served_class = getattr(transformers, name, None)
    if served_class is None:  # code of the repository, which is not run here
        return []
    with torch.device("meta"):
        model = served_class(config)
    layers = {path for path, _ in model.named_modules()} | _prefixes(checkpoint(base))
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        lost = sorted({key for key in file.keys() if layer_of(key) not in layers})  # noqa: SIM118  no mapping
    return [f"{len(lost)} keys name no layer of {name}, which servers load: the first is {lost[0]}"] if lost else []


def _prefixes(names: Iterable[str]) -> set[str]:
    """Return all beginnings of dotted names.

    Example:
        >>> sorted(_prefixes(["a.b.weight"]))
        ['a', 'a.b']
    """
    parts = [name.split(".") for name in names]
    return {".".join(words[:length]) for words in parts for length in range(1, len(words))}
