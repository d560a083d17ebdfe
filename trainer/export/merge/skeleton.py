"""Build the model and its adapters without weights, to ask PEFT which layer changes which parameter.

The same skeleton translates between names: transformers renames the keys of a checkpoint when it loads them, and may
fuse the experts of a layer into one parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from trainer.errors import HardwareError
from trainer.export.merge.plan import FourBit, NotStreamableError, wrong_adapter
from trainer.model.classes import auto_class
from trainer.model.four_bit import quantised_names

PREFIX = "base_model.model."
PLAIN_INITS = {True, False, None, "gaussian", "eva", "orthogonal"}
"""Ways to start an adapter that leave the base weights alone."""


@dataclass(frozen=True)
class Home:
    """Where a tensor of a checkpoint goes in the model.

    Example:
        Mixtral keeps `w1` and `w3` of each expert apart, (I, H) each. In the model both are rows of one parameter
        `gate_up_proj`, (E, 2 I, H): `experts.3.w3` is expert 3, from row I on.
    """

    parameter: str
    expert: int | None = None
    """Set where the parameter holds the matrices of all experts."""
    first_row: int = 0
    """Where this tensor's rows begin within the matrix of its expert."""
    opaque: bool = False
    """The way there cannot be followed row by row."""


@dataclass(frozen=True)
class Skeleton:
    """A model with adapters, on torch's meta device.

    Attributes:
        peft: The model; adapter number i is called `a<i>`.
        embeddings: Parameter name of the input embeddings.
        head: Parameter name of the head; None where there is none.
        tied: Both are one tensor in the base.
    """

    peft: PeftModel
    embeddings: str
    head: str | None
    tied: bool


def empty_model(base: Path) -> PreTrainedModel:
    """Return the base model without weights.

    Raises:
        HardwareError: transformers does not know the model, or it is quantised already.
    """
    try:
        config = AutoConfig.from_pretrained(base)
        with torch.device("meta"):
            model = auto_class(config).from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise HardwareError(
            f"cannot build the model of {base}: {str(error).splitlines()[0]}", hint="check model.name_or_path"
        ) from error
    if getattr(config, "quantization_config", None):
        raise HardwareError(
            f"{base} holds quantised weights; an adapter cannot be merged into them without loss",
            hint="set model.name_or_path to the 16-bit base, or export.formats: [adapter]",
        )
    return model


def skeleton(base: Path, adapters: list[Path]) -> Skeleton:
    """Put every adapter on the empty model.

    Raises:
        NotStreamableError: PEFT changes base weights for such an adapter, or copies layers.
        StageError: A module that an adapter targets is not in the model.
    """
    model = empty_model(base)
    ends = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
    # by identity: a head that is tied to the embeddings is the same parameter under two names
    names = {id(module): name for name, module in model.named_modules()}
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    embeddings = f"{names[id(inputs)]}.weight"
    head = f"{names[id(outputs)]}.weight" if outputs is not None else None
    tied = bool(head and model.all_tied_weights_keys and ends[head] == ends[embeddings])
    peft: PeftModel | None = None
    for number, folder in enumerate(adapters):
        config = _streamable(PeftConfig.from_pretrained(str(folder)), folder)
        try:
            if peft is None:
                peft = PeftModel(model, config, adapter_name=f"a{number}", low_cpu_mem_usage=True)
            else:
                peft.add_adapter(f"a{number}", config, low_cpu_mem_usage=True)
        except ValueError as error:
            raise wrong_adapter(str(error).splitlines()[0]) from error
    return Skeleton(peft, embeddings, head, tied)


def _streamable(config: PeftConfig, folder: Path) -> PeftConfig:
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise NotStreamableError(f"{folder.name} is of kind {kind}, not LORA")
    if config.init_lora_weights not in PLAIN_INITS:
        raise NotStreamableError(f"init_lora_weights {config.init_lora_weights} changes the base weights")
    if config.layer_replication:
        raise NotStreamableError("layer_replication copies layers")
    config.init_lora_weights = False  # the meta device has no numbers to draw
    return config


def homes(model: PreTrainedModel, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, Home]:
    """Say for each tensor of a checkpoint which parameter it becomes.

    Args:
        model: Empty model, before adapters are put on it.
        tensors: Names and shapes in the checkpoint.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    # a renaming moves a tensor as it is; a converter builds one parameter out of several tensors
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    state = model.state_dict()
    shapes = dict(tensors)
    renamed = {name: rename_source_key(name, renamings, converters, model.base_model_prefix, state) for name in shapes}
    home_of = {name: Home(target) for name, (target, pattern) in renamed.items() if pattern is None}
    fused: dict[str, dict[str, list[str]]] = {}
    for name, (target, pattern) in renamed.items():
        if pattern is not None:
            fused.setdefault(target, {}).setdefault(pattern, []).append(name)
    for target, parts in fused.items():
        home_of |= _experts(target, parts, by_pattern, shapes)
    return {name: home_of[name] for name in shapes}


def _experts(
    target: str, parts: dict[str, list[str]], converters: dict[str, WeightConverter], shapes: dict[str, tuple[int, ...]]
) -> dict[str, Home]:
    """Place the tensors that are stacked to `target`: experts along dimension 0, their parts along dimension 1."""
    converter = converters[next(iter(parts))]
    kinds = [(type(step), step.dim) for step in converter.operations if hasattr(step, "dim")]
    simple = [(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]
    order = [pattern for pattern in converter.source_patterns if pattern in parts]
    if kinds not in simple or len(kinds) != len(converter.operations) or len(order) != len(converter.source_patterns):
        return {name: Home(target, opaque=True) for names in parts.values() for name in names}
    placed: dict[str, Home] = {}
    first_row = 0
    for pattern in order:
        names = sorted(parts[pattern], key=_natural)
        placed |= {name: Home(target, expert, first_row) for expert, name in enumerate(names)}
        first_row += shapes[names[0]][0]
    return placed


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by value.

    Example:
        >>> sorted(["layers.10", "layers.9"], key=_natural)
        ['layers.9', 'layers.10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def quantised_parameters(base: Path, four_bit: FourBit) -> set[str]:
    """Return the parameters that bitsandbytes quantises when transformers loads this model in 4 bits."""
    model = empty_model(base)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=four_bit.quant_type,
        bnb_4bit_use_double_quant=four_bit.double_quant,
        llm_int8_skip_modules=list(four_bit.skipped) or None,
    )
    return quantised_names(model, config)
