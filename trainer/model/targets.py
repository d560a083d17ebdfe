"""Choose the layers that get an adapter where a recipe says `target_modules: all-linear`.

PEFT's own `all-linear` takes every `nn.Linear` but the head. Some of these are no targets: towers for images and sound,
routers, layers whose subclass computes something else than a product, and layers that PEFT refuses or renames. Layers
that no gradient reaches are found when the adapter is attached. Experts that are stacked in one parameter are no
`nn.Linear`; they are named one by one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import assert_never

import torch
from peft import LoraConfig, LoraModel
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.pytorch_utils import Conv1D

from trainer.model.experts import stacked_experts
from trainer.model.name_patterns import layer_number
from trainer.recipe.model import LoraAdapter

ROUTER_NAMES = frozenset({"gate", "router", "router_linear", "shared_expert_gate", "shared_experts_gate", "wg"})
UNREACHED = "that no gradient reaches"
UNREADABLE = "whose names PEFT cannot read back"
NO_VARIANTS = "of stacked experts, for which PEFT has neither dropout nor DoRA"
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass
class AdapterTargets:
    """The layers of one model that get an adapter."""

    modules: list[str] = field(default_factory=list)
    """Names of linear layers, from the model."""
    parameters: list[str] = field(default_factory=list)
    """Names of stacked weights of experts, each (experts, rows, columns)."""
    excluded: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Reason -> names of linear layers and stacked weights that get none."""

    def leave_out(self, names: Collection[str], reason: str) -> None:
        """Move modules to those that get no adapter for a reason."""
        if excluded := [name for name in self.modules if name in names]:
            self.excluded[reason] += excluded
            self.modules = [name for name in self.modules if name not in names]

    def summary(self) -> str:
        """Return the reasons with the number of their layers, for the log; empty where no layer is left out."""
        return "; ".join(f"{len(names)} {reason}" for reason, names in sorted(self.excluded.items()))


def choose_targets(model: PreTrainedModel, adapter: LoraAdapter) -> AdapterTargets:
    """Choose the targets of `all-linear`.

    Args:
        model: Base model, on any device; on meta it needs no weights.
        adapter: The recipe's section; its `exclude_modules` and `experts` are followed.
    """
    targets = AdapterTargets()
    head = model.get_output_embeddings()
    # `gate_proj` of an image tower is no target: its input never comes from text
    decoder = text_decoder(model)
    renamed = _renamed_by_peft(model)
    # W + B1 A1 + B2 A2 in one tensor: neither layer would compute with its own update after a merge
    sharers = Counter(id(layer.weight) for _, layer in model.named_modules() if isinstance(layer, (nn.Linear, Conv1D)))
    for name, layer in model.named_modules():
        if not isinstance(layer, (nn.Linear, Conv1D)) or layer is head:
            continue
        reason = _reason_against(name, layer, model.config, decoder, adapter)
        if reason is None and sharers[id(layer.weight)] > 1:
            reason = "whose weights several layers share: a merge could not tell their updates apart"
        if reason is None and _is_refused(model, name.rpartition(".")[2]):
            reason = "that PEFT refuses in models with Mamba layers"
        if reason is None and name.rpartition(".")[2] in renamed:
            reason = "whose names PEFT takes for those of stacked experts"
        if reason:
            targets.excluded[reason].append(name)
        else:
            targets.modules.append(name)
    experts = [name for name in stacked_experts(model) if _inside(name, decoder) and _in_layers(name, adapter)]
    if _takes_experts(adapter):
        targets.parameters = experts
    elif experts:
        reason = "of stacked experts (adapter.experts)" if adapter.experts == "none" else NO_VARIANTS
        targets.excluded[reason] = experts
    return targets


def _is_refused(model: PreTrainedModel, leaf: str) -> bool:
    """Ask PEFT whether it refuses layers of this name in this model: `out_proj` and `conv1d` of Mamba, for example."""
    try:
        # the method reads none of the state of its object
        LoraModel._check_target_module_compatiblity(None, LoraConfig(), model, leaf)
    except ValueError:
        return True
    return False


def _in_layers(name: str, adapter: LoraAdapter) -> bool:
    return not adapter.layers_to_transform or layer_number(name) in adapter.layers_to_transform


def _renamed_by_peft(model: PreTrainedModel) -> set[str]:
    """Return the names of layers that PEFT replaces by stacked experts, as `gate_proj` in models like Qwen2-MoE.

    Adapters of older releases named each expert. PEFT reads such names as the stacked parameters, and the same name of
    a dense layer or a shared expert with them.
    """
    if not any(True for _ in stacked_experts(model)):
        return set()
    names = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    config = LoraConfig(target_modules=sorted(names))
    convert_peft_config_for_transformers(config, model=model, conversions=get_model_conversion_mapping(model))
    return names - set(config.target_modules)


def shortest_names(model: nn.Module, modules: Sequence[str]) -> list[str]:
    """Return the last parts of names where these mean the same layers to PEFT, and whole names elsewhere.

    Example: `q_proj` stands for 64 names unless a tower for images has a `q_proj` too.
    """
    targets = set(modules)
    others = {name.rpartition(".")[2] for name, _ in model.named_modules() if name not in targets}
    leaves = {name: name.rpartition(".")[2] for name in modules}
    return sorted({name if leaf in others else leaf for name, leaf in leaves.items()})


def _takes_experts(adapter: LoraAdapter) -> bool:
    """Tell whether stacked experts get an adapter; PEFT has neither dropout nor DoRA for them."""
    match adapter.experts:
        case "auto":
            return not adapter.dropout and not adapter.use_dora
        case "all":
            return True
        case "none":
            return False
        case _:
            assert_never(adapter.experts)


def text_decoder(model: PreTrainedModel) -> str:
    """Return the name of the module that reads text; empty where the whole model does.

    Example: `model.language_model` of a Gemma 3 with its vision tower, empty for a Llama.
    """
    if model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()
    return next((name for name, module in model.named_modules() if module is decoder), "")


def _reason_against(
    name: str, layer: nn.Module, config: PreTrainedConfig, decoder: str, adapter: LoraAdapter
) -> str | None:
    """Return why a linear layer gets no adapter; None where it gets one."""
    leaf = name.rpartition(".")[2]
    if not _inside(name, decoder):
        return "outside the language model (towers, projectors)"
    if any(_matches(pattern, name) for pattern in adapter.exclude_modules):
        return "named by adapter.exclude_modules"
    if not _in_layers(name, adapter):
        return "outside adapter.layers_to_transform"
    if is_router(leaf, layer, config.get_text_config()):
        return "routers"
    if not computes_product(type(layer)):  # type: ignore[arg-type]  # a class is hashable
        return f"of the class {type(layer).__name__}, which is no plain product"
    return None


def _inside(name: str, decoder: str) -> bool:
    return not decoder or name.startswith(f"{decoder}.")


def _matches(pattern: str, name: str) -> bool:
    """Match a name as PEFT does: the end of a name, or a regular expression of whole names."""
    return name == pattern or name.endswith(f".{pattern}") or bool(re.fullmatch(pattern, name))


def is_router(leaf: str, layer: nn.Module, config: PreTrainedConfig) -> bool:
    """Tell whether a layer chooses experts, by the last part of its name, its class and its outputs."""
    if "Router" in type(layer).__name__:
        return True
    num_outputs = getattr(layer, "out_features", None)
    counts = {getattr(config, name, None) for name in EXPERT_COUNTS} | {1}
    # `gate` is also the name of half an MLP: a router has as many outputs as there are experts, or one
    return leaf in ROUTER_NAMES and num_outputs in counts


@cache
def computes_product(layer_class: type[nn.Module]) -> bool:
    """Tell whether a class of layers computes x W^T + b, by trying a small one.

    A subclass of `nn.Linear` may return a tuple (routers) or mix groups of inputs: an adapter beside it would be wrong.
    """
    if layer_class in (nn.Linear, Conv1D) or layer_class.forward is nn.Linear.forward:
        return True
    if layer_class.__module__.startswith("bitsandbytes"):
        return True
    try:
        layer = layer_class(4, 3)
        # (2, 4) -> (2, 3): different sizes show a transposed weight
        inputs = torch.arange(8.0).reshape(2, 4)
        with torch.no_grad():
            outputs = layer(inputs)
        expected = nn.functional.linear(inputs, layer.weight, layer.bias)
        return isinstance(outputs, torch.Tensor) and torch.allclose(outputs, expected)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
