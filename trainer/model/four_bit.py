"""Load base models in bitsandbytes' 4 bits, stacked experts included, and count what stays wide.

transformers quantises linear layers only. The experts of most mixtures are stacked in one parameter: 95 % of the
weights of a Qwen3-30B-A3B would stay in 16 bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from trainer.model.experts import stacked_experts
from trainer.model.lazy_experts import LazyTensor, packed_experts
from trainer.recipe.model import QloraAdapter

METHOD = "bitsandbytes_4bit"
"""Name under which transformers keeps its class for 4-bit loading."""


def four_bit(adapter: QloraAdapter, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return bitsandbytes' settings for a qlora adapter."""
    compute = adapter.bnb_4bit_compute_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=adapter.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=adapter.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=dtype if compute == "auto" else getattr(torch, compute),
    )


class FourBitQuantizer(Bnb4BitHfQuantizer):
    """Quantise linear layers as transformers does, and each stack of experts as soon as it is read."""

    stacks: frozenset[str] = frozenset()

    def _process_model_before_weight_loading(self, model: PreTrainedModel, device_map: Any, **keywords: Any) -> None:
        super()._process_model_before_weight_loading(model, device_map, **keywords)
        skipped = self.modules_to_not_convert
        self.stacks = frozenset(
            # the skip list names modules; a stack is a parameter, so its module decides
            name
            for name in stacked_experts(model)
            if should_convert_module(name.rpartition(".")[0], skipped)
        )

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **keywords: Any) -> bool:
        return param_name in self.stacks or super().param_needs_quantization(model, param_name, **keywords)

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantise(self, super().get_quantize_ops())


class _Quantise(ConversionOps):
    """Step of transformers' loader that follows the fusion of experts."""

    def __init__(self, quantizer: FourBitQuantizer, linear: ConversionOps) -> None:
        self.quantizer = quantizer
        self.linear = linear

    def convert(
        self, input_dict: dict[str, Any], full_layer_name: str | None = None, **keywords: Any
    ) -> dict[str, Any]:
        """Quantise the tensors of one parameter."""
        if not any(name in self.quantizer.stacks for name in input_dict):
            # an ordinary linear layer: (out, in), packed by bitsandbytes' own Params4bit
            converted: dict[str, Any] = self.linear.convert(input_dict, full_layer_name=full_layer_name, **keywords)
            return converted
        settings = self.quantizer.quantization_config
        # (experts, out, in) after the loader has fused the experts of the file
        tensors = {name: value[0] if isinstance(value, list) else value for name, value in input_dict.items()}
        return {
            name: packed_experts(
                tensor,
                quant_type=settings.bnb_4bit_quant_type,
                double_quant=settings.bnb_4bit_use_double_quant,
            )
            for name, tensor in tensors.items()
        }


@contextmanager
def stacks_in_four_bits() -> Iterator[None]:
    """Let transformers load stacked experts in 4 bits as well, inside this context."""
    with patch.dict(AUTO_QUANTIZER_MAPPING, {METHOD: FourBitQuantizer}):
        yield


def quantised_names(model: PreTrainedModel, settings: BitsAndBytesConfig) -> set[str]:
    """Return the parameters that a 4-bit loading quantises.

    Args:
        model: Without weights, on the meta device. Its linear layers are replaced, as the loading would do it.
        settings: Of bitsandbytes.
    """
    quantizer = FourBitQuantizer(settings, pre_quantized=False)
    with torch.device("meta"):
        # new layers are made without memory, like the model itself
        quantizer._process_model_before_weight_loading(model, device_map=None)
    linear = {f"{name}.weight" for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    return linear | quantizer.stacks


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of the loaded weights of a 4-bit model."""

    four_bit: int
    wide: Counter[str]
    """Reason -> bytes of the weights that are not in 4 bits."""

    def summary(self) -> str:
        """Return both for the log.

        Example:
            >>> WeightBytes(15_000_000_000, Counter({"norms and biases": 9_000_000})).summary()
            '15,000.0 MB in 4 bits, 9.0 MB wider (norms and biases 9.0 MB)'
        """
        wide = ", ".join(f"{reason} {size / 1e6:,.1f} MB" for reason, size in self.wide.most_common())
        return f"{self.four_bit / 1e6:,.1f} MB in 4 bits, {self.wide.total() / 1e6:,.1f} MB wider ({wide})"


def weight_bytes_of(model: PreTrainedModel) -> WeightBytes:
    """Count the bytes of a model that was loaded in 4 bits, before an adapter is attached."""
    packed, wide = 0, Counter[str]()
    # by identity: a tied head is the embedding, and must not be counted twice
    ends = {id(end.weight) for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None}
    for parameter in model.parameters():
        if isinstance(parameter, LazyTensor):
            packed += parameter.source.num_bytes  # type: ignore[attr-defined]
        elif type(parameter).__name__ == "Params4bit":
            # numel counts bytes here: uint8 holds two weights
            packed += parameter.numel() * parameter.element_size() + _state_bytes(parameter)
        else:
            wide[_reason(parameter, ends)] += parameter.numel() * parameter.element_size()
    return WeightBytes(packed, wide)


def _state_bytes(weight: Any) -> int:
    """Return the bytes of the scales and tables of one weight."""
    state = weight.quant_state
    # absmax: one scale for each block of 64 weights; code: the 16 values that four bits stand for
    tensors = [state.absmax, state.code]
    if state.nested:
        # double quantisation: the scales are 8-bit codes themselves, in blocks of 256, around a mean
        tensors += [state.state2.absmax, state.state2.code, state.offset]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _reason(parameter: nn.Parameter, ends: set[int]) -> str:
    if id(parameter) in ends:
        return "embeddings and head"
    return "norms and biases" if parameter.dim() < 2 else "layers that bitsandbytes does not quantise"


def dequantise_stacks(model: nn.Module) -> None:
    """Replace stacked weights in 4 bits by dense ones, as `dequantize()` of transformers does for linear layers."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, LazyTensor):
                setattr(module, name, nn.Parameter(parameter.dense(), requires_grad=False))


def keep_out_of_ddp(model: nn.Module) -> None:
    """Let DDP leave stacked weights in 4 bits alone: it sends frozen weights round once, as ordinary memory.

    Every process has read them from the same file.
    """
    lazy = [name for name, parameter in model.named_parameters() if isinstance(parameter, LazyTensor)]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, lazy)
