"""Let LoRA layers of PEFT compute with `LoraProduct`; modules, weights and files stay PEFT's.

Each call reads the layer's present state: adapters may be switched, disabled or merged at any time. A layer that is not
plain LoRA with one active adapter goes through PEFT's own forward.
"""

from __future__ import annotations

import math
import os
import types
from collections import Counter
from collections.abc import Iterator

import torch
from peft.tuners.lora import Linear, LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.integrations import dequantize_bnb_weight

from trainer.engine.product import Frozen, FrozenBlock, LoraProduct
from trainer.model.planning.quantised_sizes import DEQUANTISED_SHARE

FOUR_BIT = "Params4bit"
SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
"""Set by `accelerate launch` where weights are spread over processes, which then own their memory."""
ALIGNMENT = 8
"""Numbers of a row in half precision: rows that do not start at multiples of 16 bytes are multiplied slowly on cards.

Source: https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication/ (Tensor Core use).
"""


def is_sharded() -> bool:
    """Tell whether weights are spread over processes, by FSDP or DeepSpeed."""
    return any(os.environ.get(name) == "true" for name in SHARDED)


def switch_on(model: torch.nn.Module, *, dequantised: bool = False) -> Counter[str]:
    """Let the LoRA layers of a model compute with `LoraProduct`.

    Args:
        model: With or without adapters.
        dequantised: Keep 4-bit weights dequantised as well, instead of dequantising them in each pass.

    Returns:
        The number of layers that go through PEFT's forward at present, by reason; "" counts the others.
    """
    counted: Counter[str] = Counter()
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module, layer in _lora_layers(model):
        if isinstance(module, ParamWrapper):
            continue  # stacked experts, see trainer.model.expert_adapter
        reason = "it is the output head" if module is head else _not_linear(module)
        if reason is None:
            module._product = _LayerProduct(module, layer, dequantised)
            module.forward = types.MethodType(_forward, module)
            reason = _not_plain(module, module.get_base_layer(), training=True)
        counted[reason or ""] += 1
    return counted


def switch_off(model: torch.nn.Module) -> None:
    """Undo `switch_on`."""
    for module in model.modules():
        if isinstance(vars(module).get("_product"), _LayerProduct):
            del module._product, module.forward


def dequantised_fits(model: torch.nn.Module) -> bool:
    """Tell whether a card has the memory to keep all 4-bit weights under adapters dequantised."""
    weights = [module.get_base_layer().weight for module, _ in _lora_layers(model) if _not_linear(module) is None]
    states = [weight.quant_state for weight in weights if _is_four_bit(weight) and weight.quant_state is not None]
    if not states or weights[0].device.type != "cuda":
        return False
    size = sum(math.prod(state.shape) * state.dtype.itemsize for state in states)
    free, _ = torch.cuda.mem_get_info(weights[0].device)
    # the rest of the memory stays for activations, gradients and optimizer states
    return size <= DEQUANTISED_SHARE * free


def _is_four_bit(weight: torch.Tensor | None) -> bool:
    return type(weight).__name__ == FOUR_BIT


def _lora_layers(model: torch.nn.Module) -> Iterator[tuple[LoraLayer, torch.nn.Module | None]]:
    """Yield each LoRA layer with the innermost module around it that can be recomputed, or None."""
    recomputed = [
        (f"{name}.", module) for name, module in model.named_modules() if hasattr(module, "gradient_checkpointing")
    ]
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            around = [(prefix, outer) for prefix, outer in recomputed if f"{name}.".startswith(prefix.lstrip("."))]
            yield module, max(around, key=lambda pair: len(pair[0]))[1] if around else None


def _not_linear(module: LoraLayer) -> str | None:
    """Return the reason why a layer can never use the product."""
    base = module.get_base_layer()
    plain = type(module) is Linear and type(base) is torch.nn.Linear
    if plain or _is_four_bit(getattr(base, "weight", None)):
        return None
    return f"no linear layer: {type(base).__name__}"


def _not_plain(module: LoraLayer, base: torch.nn.Module, *, training: bool) -> str | None:
    """Return the reason why a layer is not x Wᵀ + s (x Aᵀ) Bᵀ at present."""
    names = _active(module)
    if len(names) != 1:
        return f"{len(names)} active adapters"
    name = names[0]
    if name in getattr(module, "lora_variant", ()):
        return type(module.lora_variant[name]).__name__
    if training and getattr(module.lora_dropout[name], "p", 0.0) > 0:
        return "dropout"
    if module.lora_B[name].bias is not None:
        return "a bias in the adapter"
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return "the base layer is trained as well"
    return "a transposed weight" if module.fan_in_fan_out else None


def _active(module: LoraLayer) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]


class _LayerProduct:
    """State of one layer beside its PEFT module."""

    def __init__(self, module: LoraLayer, layer: torch.nn.Module | None, dequantised: bool) -> None:
        base = module.get_base_layer()
        self.layer = layer
        self.block = None
        names = _active(module)
        rank = module.lora_A[names[0]].weight.shape[0] if names else 0
        if not _can_move(base.weight, rank):
            return
        existing: FrozenBlock | None = getattr(base, "_lora_block", None)
        if existing is not None and existing.rank == rank and existing.holds(base.weight):
            self.block = existing  # switched on before
        elif not _is_four_bit(base.weight):
            self.block = base._lora_block = FrozenBlock(base.weight.data, rank)
            # the layer's weight becomes a view of the block, so that W exists once; `holds` notices a later move
            base.weight.data = self.block.weight
        elif dequantised:
            self.block = base._lora_block = FrozenBlock(dequantize_bnb_weight(base.weight), rank, base.weight)

    def call(self, module: LoraLayer, x: torch.Tensor) -> torch.Tensor | None:
        """Return the layer's output; None: PEFT's forward must compute it."""
        if module.disable_adapters or module.merged or torch.compiler.is_compiling():
            return None
        base = module.get_base_layer()
        if _not_plain(module, base, training=module.training):
            return None
        name = _active(module)[0]
        a, b = module.lora_A[name], module.lora_B[name]
        kinds = _kinds(base, x, a.weight.dtype)
        # hooks on A, B or the base would not run inside the product
        if kinds is None or _hooked(base) or _hooked(a) or _hooked(b):
            return None
        product, adapter, result = kinds
        frozen = self._frozen(base, a.weight.shape[0], product, adapter)
        # x (..., K), A (r, K), B (N, r) -> y (..., N)
        y: torch.Tensor = LoraProduct.apply(x, a.weight, b.weight, module.scaling[name], frozen, product, adapter)
        return y.to(result)

    def _frozen(self, base: torch.nn.Module, rank: int, product: torch.dtype, adapter: torch.dtype) -> Frozen:
        bias = None if base.bias is None else base.bias.to(product)
        weight, block = base.weight, self.block
        if block is not None and not block.holds(weight):
            block = None  # the weight was moved, converted or merged
        if block is not None and block.rank == rank and block.weight.dtype == product == adapter:
            return Frozen(lambda: block.weight, bias, block, False)
        if block is not None:
            weight = block.weight
        elif _is_four_bit(weight):
            # Frozen.keep: the first pass of a recomputed layer frees the copy; second pass and backward pass share one.
            return Frozen(lambda: dequantize_bnb_weight(weight), bias, None, _is_computed_twice(self.layer))
        return Frozen(lambda: weight.to(product), bias, None, weight.dtype == product)


def _is_computed_twice(layer: torch.nn.Module | None) -> bool:
    """Tell whether a decoder layer is computed again from its input, and keeps its weights from then on."""
    recomputed = getattr(layer, "_reuses_weights", getattr(layer, "gradient_checkpointing", False))
    return bool(recomputed and layer is not None and layer.training)


def _forward(module: LoraLayer, x: torch.Tensor, *arguments: object, **keywords: object) -> torch.Tensor:
    y: torch.Tensor | None = None if arguments or keywords else module._product.call(module, x)
    return type(module).forward(module, x, *arguments, **keywords) if y is None else y


def _can_move(weight: torch.Tensor, rank: int) -> bool:
    """Tell whether a weight can be moved into a block."""
    shape = weight.quant_state.shape if _is_four_bit(weight) and weight.quant_state is not None else weight.shape
    if rank == 0 or weight.device.type == "meta" or len(shape) != 2:
        return False
    is_even = all(size % ALIGNMENT == 0 for size in (rank, *shape))
    return (is_even or weight.device.type == "cpu") and not is_sharded()


def _kinds(
    base: torch.nn.Module, x: torch.Tensor, adapter: torch.dtype
) -> tuple[torch.dtype, torch.dtype, torch.dtype] | None:
    """Return PEFT's types of the base's product, the adapter's product and the result; None where PEFT mixes types."""
    device = x.device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    stored = base.weight.dtype
    if cast is not None and torch.float64 in (x.dtype, stored, adapter):
        return None  # autocast does not convert these
    if _is_four_bit(base.weight):
        state = base.weight.quant_state
        if state is None or getattr(state, "packing_format_for_cpu", False) or not base.compute_type_is_set:
            return None
        same = state.dtype == base.compute_dtype and cast in (None, base.compute_dtype)
        return (base.compute_dtype, cast or adapter, x.dtype) if same else None
    product = cast or stored
    if cast is None and x.dtype != product:
        return None
    return product, cast or adapter, product


def _hooked(module: torch.nn.Module) -> bool:
    """Tell whether a module has hooks, or a replaced forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )
