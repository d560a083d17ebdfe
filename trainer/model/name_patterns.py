"""Follow a recipe's names of layers and parameters as PEFT does; a name that fits nothing is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable

from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import PreTrainedModel

from trainer.errors import HardwareError
from trainer.recipe.model import LoraAdapter

LAYER = re.compile(r"\.(\d+)(?:\.|$)")


def layer_number(name: str) -> int | None:
    """Return the number of the decoder layer in a name.

    Example:
        >>> layer_number("model.layers.12.mlp.experts.3.up_proj"), layer_number("lm_head")
        (12, None)
    """
    match = LAYER.search(name)
    return int(match.group(1)) if match else None


def parameters_named(model: PreTrainedModel, ends: Iterable[str]) -> list[str]:
    """Return the whole names of the parameters that end so.

    Raises:
        HardwareError: An end fits no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen: list[str] = []
    for end in ends:
        matches = [name for name in names if name == end or name.endswith(f".{end}")]
        if not matches:
            raise _nothing("target_parameters", end, names)
        chosen += [name for name in matches if name not in chosen]
    return chosen


def modules_in_layers(model: PreTrainedModel, targets: str | list[str], numbers: list[int]) -> list[str]:
    """Return the whole names of the target modules in the decoder layers with these numbers."""
    config = LoraConfig(target_modules=targets)
    names = (name for name, _ in model.named_modules() if name and check_target_module_exists(config, name))
    return [name for name in names if layer_number(name) in numbers]


def check_modules_to_save(model: PreTrainedModel, adapter: LoraAdapter) -> None:
    """Compare `modules_to_save` with the model.

    Raises:
        HardwareError: A name fits no module.
    """
    names = [name for name, _ in model.named_modules()]
    for end in adapter.modules_to_save:
        if not any(name == end or name.endswith(f".{end}") for name in names):
            raise _nothing("modules_to_save", end, names)


def check_patterns(peft: PeftModel, adapter: LoraAdapter) -> None:
    """Compare the patterns of a recipe with the adapted layers.

    Raises:
        HardwareError: A pattern fits no adapted layer.
    """
    names = sorted(_adapted(peft))
    for key, pattern in (("rank_pattern", adapter.rank_pattern), ("alpha_pattern", adapter.alpha_pattern)):
        for part in pattern:
            # as peft.utils.other.get_pattern_key
            if not any(re.match(rf"(.*\.)?({part})$", name) for name in names):
                raise _nothing(key, part, names)
    present = {layer_number(name) for name in names}
    for number in adapter.layers_to_transform:
        if number not in present:
            raise _nothing("layers_to_transform", str(number), names)


def _adapted(peft: PeftModel) -> Iterable[str]:
    for path, module in peft.get_base_model().named_modules():
        if isinstance(module, ParamWrapper):
            yield f"{path.replace('.base_layer', '')}.{module.parameter_name}"
        elif isinstance(module, LoraLayer):
            yield path


def _nothing(key: str, part: str, names: list[str]) -> HardwareError:
    ends = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    numbers = [number for number in map(layer_number, names) if number is not None]
    layers = f"; layers 0 to {max(numbers)}" if numbers else ""
    return HardwareError(
        f"adapter.{key}: {part!r} fits nothing in this model", hint=f"names end in {', '.join(ends[:12])}{layers}"
    )
