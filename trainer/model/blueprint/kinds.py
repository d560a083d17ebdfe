"""Sort a model's weights by what they do: attention, MLP, experts, router, head, recurrent layers, towers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from trainer.model.targets import is_router, text_decoder
from trainer.shapes.blueprint import WeightKind

RECURRENT = re.compile(
    r"mamba|delta|linear_?att|lightning|short_?conv|recurrent|rglru|rwkv|lstm|ssm|state_?space|conv1d|timemix", re.I
)
ATTENTION = re.compile(r"att(entio)?n|indexer", re.I)
GATED = re.compile(r"mlp|feed_?forward|ffn|shared_expert|dense", re.I)
EXPERTS = re.compile(r"(?<!shared_)(?<!shared)experts?(\.|$)|experts?$", re.I)
TOP_K = re.compile(r"(num_)?experts_per_tok(en)?|num_experts_per_token|(moe_|num_)?top_?k(_experts)?|moe_k|topk")
"""Settings with the number of experts that read a token."""


@dataclass(frozen=True)
class SortedWeight:
    """One parameter of a model."""

    name: str
    parameter: nn.Parameter
    kind: WeightKind
    active: int
    """Weights used for one token."""


def weights_of(model: PreTrainedModel) -> Iterator[SortedWeight]:
    """Yield every parameter once, with its kind.

    Args:
        model: On any device, before an adapter is attached.
    """
    decoder, config = text_decoder(model), model.config.get_text_config()
    head = _identities(model.get_output_embeddings())
    embedding = _identities(model.get_input_embeddings())
    chosen = top_k(config)
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        module_name = name.rpartition(".")[0]
        chain = [(part, modules[part]) for part in _ancestors(module_name)]
        if id(parameter) in embedding:  # before the head: a tied one is the same parameter
            kind: WeightKind = "embedding"
        elif id(parameter) in head:
            kind = "head"
        elif decoder and not name.startswith(f"{decoder}."):
            kind = "tower"
        else:
            kind = _kind(chain, parameter, config)
        # a token uses top_k of n experts, so that share of their weights
        share = _active_share(chain, parameter, chosen) if kind == "experts" else 1.0
        yield SortedWeight(name, parameter, kind, round(parameter.numel() * share))


def top_k(config: PreTrainedConfig) -> int | None:
    """Return the number of experts that read a token; None where the configuration does not name it."""
    for key, value in config.to_dict().items():
        if TOP_K.fullmatch(key) and isinstance(value, int) and value > 0:
            return value
    return None


def _identities(module: nn.Module | None) -> set[int]:
    return {id(parameter) for parameter in module.parameters()} if module is not None else set()


def _ancestors(name: str) -> list[str]:
    """Return a module and those that hold it, the nearest first.

    Example:
        >>> _ancestors("layers.0.mlp")
        ['layers.0.mlp', 'layers.0', 'layers', '']
    """
    parts = name.split(".") if name else []
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _kind(chain: list[tuple[str, nn.Module]], parameter: nn.Parameter, config: PreTrainedConfig) -> WeightKind:
    """Return the kind by the nearest module whose name or class tells it."""
    name, module = chain[0]
    if is_router(name.rpartition(".")[2], module, config):
        return "router"
    # attribute name and class, from the weight's own module upwards; the model itself tells nothing
    labels = [(part.rpartition(".")[2], type(each).__name__) for part, each in chain[:-1]]
    if any(_is_experts(leaf, label) for leaf, label in labels):
        return "experts"
    # a norm inside of attention is no attention weight
    if parameter.dim() == 1 and "norm" in f"{labels[0]}".lower():
        return "other"
    for leaf, label in labels:
        # `JambaMambaDecoderLayer` holds an MLP as well: a block's name does not tell the kind of what is in it
        if leaf.isdigit() or "Layer" in label or ("Block" in label and "Recurrent" not in label):
            continue
        for pattern, kind in ((RECURRENT, "recurrent"), (ATTENTION, "attention"), (GATED, "MLP")):
            if pattern.search(label) or pattern.search(leaf):
                return kind  # type: ignore[return-value]  # one of three literals
    return "other"


def _is_experts(leaf: str, label: str) -> bool:
    return leaf in ("experts", "expert") or ("Expert" in label and "Shared" not in label and "shared" not in leaf)


def _active_share(chain: list[tuple[str, nn.Module]], parameter: nn.Parameter, chosen: int | None) -> float:
    """Return the share of one layer's experts that read a token; 1 where their number is not known."""
    # one module for each expert, or one parameter (experts, out, in) for all
    lists = [len(module) for name, module in chain if name.endswith("experts") and isinstance(module, nn.ModuleList)]
    stacked = parameter.shape[0] if parameter.dim() > 1 else 0
    count = lists[0] if lists else stacked
    return min(1.0, chosen / count) if chosen and count else 1.0
