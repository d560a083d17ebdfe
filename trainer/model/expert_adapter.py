"""Let LoRA on stacked experts compute with `LazySum`; modules, weights and files stay PEFT's.

PEFT forms W + s B A for all experts of a layer, and autograd keeps that sum, as large as the base weights, for the
backward pass. Here it exists while a product reads it.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch.func import functional_call

from trainer.model.lazy_experts import LazySum


def sum_lazily(model: torch.nn.Module) -> None:
    """Replace the forward pass of PEFT's wrappers around stacked experts; call it after each adapter that is added."""
    wrappers = [module for module in model.modules() if isinstance(module, ParamWrapper)]
    # a layer with two adapted parameters has one wrapper around the other; the outer one computes for both
    inner = {id(wrapper.base_layer) for wrapper in wrappers}
    for wrapper in wrappers:
        if id(wrapper) not in inner:
            wrapper.forward = types.MethodType(_forward, wrapper)


def _forward(module: ParamWrapper, x: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
    wrappers = [module]
    while isinstance(wrappers[-1].base_layer, ParamWrapper):
        wrappers.append(wrappers[-1].base_layer)
    experts = module.get_base_layer()
    is_plain = all(wrapper.num_experts > 1 and not wrapper.merged for wrapper in wrappers)
    if module.disable_adapters or not is_plain or "adapter_names" in keywords:
        result: torch.Tensor = type(module).forward(module, x, *arguments, **keywords)
        return result
    weights = {wrapper.parameter_name: _weight(wrapper) for wrapper in wrappers}
    # the experts' own code runs, and reads these tensors where its parameters are
    return functional_call(experts, weights, (x, *arguments), keywords)


def _weight(wrapper: ParamWrapper) -> torch.Tensor:
    """Return W + s L R over the active adapters, (experts, rows, columns)."""
    weight: torch.Tensor = wrapper.get_param()
    for name in wrapper.active_adapters:
        if name in wrapper.lora_A:
            left, right, scaling = wrapper.get_delta_factors(name)
            weight = LazySum.apply(weight, left, right, scaling)
    return weight
