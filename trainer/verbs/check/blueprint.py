"""Draw the blueprint of a recipe: its model on the meta device, its adapter, its path, and what cannot work."""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from trainer.engine.attention import NotCovered
from trainer.engine.expected import ExpectedPath, carries_state, expected_path
from trainer.engine.traced import traced_memory
from trainer.errors import RecipeError
from trainer.model.adapter import attach
from trainer.model.blueprint.adapted import adapted_weights, count_kinds
from trainer.model.blueprint.kinds import weights_of
from trainer.model.blueprint.meta import build, read_config
from trainer.model.classes import auto_class
from trainer.model.fake import NOT_FAKED
from trainer.model.four_bit import four_bit as four_bit_settings
from trainer.model.four_bit import quantised_names
from trainer.model.planning.activations import FLOAT32, Kinds
from trainer.model.planning.coverage import predictor_of
from trainer.model.planning.model_shape import NotPredictedError, read
from trainer.model.planning.traced import recomputes_all
from trainer.model.source import locate
from trainer.model.targets import text_decoder
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter, four_bit_of, low_rank
from trainer.shapes.blueprint import Blueprint, TracedMemory
from trainer.verbs.check.obstacles import obstacles_of

SCANNED_TOKENS = 256
"""Layers with a state may go through a row token by token where their kernels are missing: short rows are traced."""


def blueprint(recipe: Recipe, *, is_cuda: bool = False) -> Blueprint:
    """Return what a recipe makes of its model.

    Args:
        recipe: What is asked for.
        is_cuda: It will train on a card.

    Raises:
        HardwareError: The model cannot be built, or the adapter does not fit it.
    """
    config = read_config(recipe.model)
    dtype, autocast = _types(recipe, is_cuda=is_cuda)
    model = build(config, recipe.model, dtype)
    weights = list(weights_of(model))
    qlora = four_bit_of(recipe.adapter)
    # on a copy: the layers are replaced as the loading would do it
    copy = build(read_config(recipe.model), recipe.model, torch.bfloat16) if qlora else None
    four_bit = quantised_names(copy, four_bit_settings(qlora, torch.bfloat16)) if qlora and copy else set()
    towers, model_class, notes = _towers(model), type(model).__name__, []
    adapter = low_rank(recipe.adapter)
    excluded = ""
    adapted = {id(weight.parameter) for weight in weights if weight.kind != "tower"}
    trained = sum(weight.parameter.numel() for weight in weights if weight.kind != "tower")
    layers = 0
    opened: PreTrainedModel | PeftModel = model
    if adapter is not None:
        lines: list[str] = []
        opened = attach(model, _fresh(adapter), lines.append)
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


def _types(recipe: Recipe, *, is_cuda: bool) -> tuple[torch.dtype, torch.dtype | None]:
    """Return the types of weights and of products under autocast, as training chooses them; float16 as bfloat16."""
    kinds = Kinds.of(recipe, is_cuda=is_cuda)
    is_set = recipe.model.dtype != "auto" and not (recipe.model.dtype == "float16" and is_cuda)
    autocast = torch.bfloat16 if is_cuda and not is_set else None
    return torch.float32 if kinds.weights == FLOAT32 else torch.bfloat16, autocast


def _traced(
    recipe: Recipe,
    model: PreTrainedModel | PeftModel,
    path: ExpectedPath,
    autocast: torch.dtype | None,
    four_bit: set[str],
    notes: list[str],
    *,
    is_cuda: bool,
) -> TracedMemory | None:
    """Return the memory of a traced step; None, with a note, where it cannot be traced or the formulas know it."""
    try:
        outline = read(locate(recipe.model.name_or_path, revision=recipe.model.revision))
        predictor_of(recipe, outline, is_cuda=is_cuda)
        return None
    except (NotPredictedError, RecipeError):
        pass  # the trace needs no formula
    if recipe.launch.strategy in ("fsdp2", "zero3") or recipe.train.float8_base:
        return None
    recomputes = recomputes_all(recipe, is_cuda=is_cuda)
    if recomputes is None:
        notes.append(f"memory is not predicted at train.gradient_checkpointing={recipe.train.gradient_checkpointing}")
        return None
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    longest = SCANNED_TOKENS if carries_state(base) else recipe.pack.max_length
    try:
        return traced_memory(
            model,
            is_flat=path.padded is None,
            tokens=min(recipe.pack.max_length, longest),
            recomputes=recomputes,
            autocast=autocast,
            four_bit=four_bit,
        )
    except (*NOT_FAKED, NotCovered) as error:
        notes.append(f"memory is not predicted: the model cannot run without numbers: {str(error).splitlines()[0]}")
        return None


def _fresh(adapter: LoraAdapter) -> LoraAdapter:
    """Return the settings without an adapter to continue: its weights are not read here."""
    alpha = float(2 * adapter.r) if adapter.alpha == "auto" else adapter.alpha
    return adapter.model_copy(update={"init_from": None, "alpha": alpha})


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
