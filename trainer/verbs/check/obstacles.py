"""Name what of a recipe cannot work with a model, before anything is trained: exports, 4 bits, processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedConfig

from trainer.errors import HardwareError
from trainer.export.compress.compressor import find_python
from trainer.export.gguf.converter import find_converter
from trainer.model.blueprint.kinds import SortedWeight
from trainer.model.published import check_trainable
from trainer.recipe import Recipe
from trainer.recipe.export import Format
from trainer.shapes.blueprint import Obstacle


def obstacles_of(
    recipe: Recipe, config: PreTrainedConfig, model_class: str, weights: Sequence[SortedWeight]
) -> list[Obstacle]:
    """Return what stands in the way of training and of each export format.

    Args:
        recipe: What is asked for.
        config: Of the model.
        model_class: Name of the class that loads it.
        weights: Of the model.
    """
    formats: Sequence[Format] = [] if recipe.export.formats == "auto" else recipe.export.formats
    has_experts = any(weight.kind == "experts" for weight in weights)
    found = [*_quantised_base(recipe, config)]
    for name in formats:
        found += _of_format(name, recipe, model_class, has_experts)
    return found


def _quantised_base(recipe: Recipe, config: PreTrainedConfig) -> Iterator[Obstacle]:
    """Yield why a base with quantised weights cannot be trained on."""
    try:
        check_trainable(config.to_dict(), recipe.model.name_or_path)
    except HardwareError as error:
        yield Obstacle(message=error.message, hint=error.hint)


def _of_format(name: Format, recipe: Recipe, model_class: str, has_experts: bool) -> Iterator[Obstacle]:
    """Yield why a format cannot be written of this model on this machine."""
    try:
        if name == "gguf":
            script = find_converter(recipe.export.gguf.converter)
            sources = [script, *script.parent.glob("conversion/*.py")]
            if not any(f'"{model_class}"' in path.read_text(encoding="utf-8") for path in sources):
                yield Obstacle(
                    message=f"gguf: llama.cpp's converter does not know {model_class}",
                    hint="leave gguf out of export.formats, or name a newer converter in export.gguf.converter",
                )
        elif name in ("fp8", "awq", "gptq"):
            if has_experts:
                yield Obstacle(
                    message=f"{name}: a mixture of experts, which llm-compressor takes apart",
                    hint=f"leave {name} out of export.formats",
                )
            find_python(name, recipe.export.compress.python)
    except HardwareError as error:
        yield Obstacle(message=error.message, hint=error.hint)
