"""Draw the blueprint of a recipe: its model on the meta device, its adapter, its path, and what cannot work."""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from trainer.engine.attention import NotCovered
from trainer.engine.expected import ExpectedPath, expected_path
from trainer.engine.traced import traced_memory
from trainer.errors import RecipeError
from trainer.model.adapter import attach
from trainer.model.blueprint.adapted import adapted_weights, count_kinds
from trainer.model.blueprint.kinds import weights_of
from trainer.model.blueprint.meta import build, four_bit_names, read_config, traced_types
from trainer.model.classes import auto_class
from trainer.model.fake import NOT_FAKED
from trainer.model.planning.coverage import predictor_of
from trainer.model.planning.model_shape import NotPredictedError, read
from trainer.model.planning.traced import fresh, traced_levels
from trainer.model.source import locate
from trainer.model.targets import text_decoder
from trainer.recipe import Recipe
from trainer.recipe.model import low_rank
from trainer.shapes.blueprint import Blueprint, TracedMemory
from trainer.verbs.check.obstacles import obstacles_of


def blueprint(recipe: Recipe, *, is_cuda: bool = False) -> Blueprint:
    """Return what a recipe makes of its model.

    Args:
        recipe: What is asked for.
        is_cuda: It will train on a card.

    Raises:
        HardwareError: The model cannot be built, or the adapter does not fit it.
    """
    config = read_config(recipe.model)
    dtype, autocast = traced_types(recipe, is_cuda=is_cuda)
    model = build(config, recipe.model, dtype)
    weights = list(weights_of(model))
    four_bit = four_bit_names(recipe.model, recipe.adapter)
    towers, model_class, notes = _towers(model), type(model).__name__, []
    adapter = low_rank(recipe.adapter)
    excluded = ""
    adapted = {id(weight.parameter) for weight in weights if weight.kind != "tower"}
    trained = sum(weight.parameter.numel() for weight in weights if weight.kind != "tower")
    layers = 0
    opened: PreTrainedModel | PeftModel = model
    if adapter is not None:
        lines: list[str] = []
        opened = attach(model, fresh(adapter), lines.append)
        adapted = adapted_weights(opened)
        trained = sum(weight.numel() for weight in opened.parameters() if weight.requires_grad)
        layers = sum(hasattr(module, "lora_A") for module in opened.modules())
        excluded = "; ".join(line.rpartition("layers: ")[2] for line in lines if "no adapter on" in line)
        notes += [line for line in lines if "no adapter on" not in line]
    path = expected_path(opened, attention=recipe.model.attn_implementation)
    return Blueprint(
        model_type=config.model_type,
        loader=auto_class(config).__name__,
        model_class=model_class,
        towers=towers,
        counts=count_kinds(weights, adapted, four_bit),
        trained=trained,
        adapted_layers=layers,
        excluded=excluded,
        padded=path.padded,
        unpacked=path.unpacked,
        memory=_traced(recipe, opened, path, autocast, four_bit, notes, is_cuda=is_cuda),
        obstacles=obstacles_of(recipe, config, model_class, weights),
        notes=notes,
    )


def _traced(
    recipe: Recipe,
    model: PreTrainedModel | PeftModel,
    path: ExpectedPath,
    autocast: torch.dtype | None,
    four_bit: set[str],
    notes: list[str],
    *,
    is_cuda: bool,
) -> list[TracedMemory]:
    """Return the memory of traced steps; none, with a note, where they cannot be traced or the formulas know it."""
    try:
        outline = read(locate(recipe.model.name_or_path, revision=recipe.model.revision))
        predictor_of(recipe, outline, is_cuda=is_cuda)
        return []
    except (NotPredictedError, RecipeError):
        pass  # the trace needs no formula
    if recipe.launch.strategy in ("fsdp2", "zero3"):
        return []
    levels = traced_levels(recipe, is_cuda=is_cuda)
    if not levels:
        notes.append(f"memory is not predicted at train.gradient_checkpointing={recipe.train.gradient_checkpointing}")
        return []
    try:
        return [
            traced_memory(
                model,
                is_flat=path.padded is None,
                tokens=recipe.pack.max_length,
                recomputes=recomputes,
                autocast=autocast,
                four_bit=four_bit,
            )
            for recomputes in levels
        ]
    except (*NOT_FAKED, NotCovered) as error:
        notes.append(f"memory is not predicted: the model cannot run without numbers: {str(error).splitlines()[0]}")
        return []


def _towers(model: PreTrainedModel) -> list[str]:
    """Return the outermost modules with weights that the text decoder does not hold, the head left out."""
    decoder = text_decoder(model)
    if not decoder:
        return []
    head = model.get_output_embeddings()
    parent = decoder.rpartition(".")[0]
    names = [name for name, _ in model.get_submodule(parent).named_children()]
    beside = [f"{parent}.{name}".strip(".") for name in names if f"{parent}.{name}".strip(".") != decoder]
    return [
        name
        for name in beside
        if (module := model.get_submodule(name)) is not head and any(True for _ in module.parameters())
    ]
