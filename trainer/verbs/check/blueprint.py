"""Draw the blueprint of a recipe: its model on the meta device, its adapter, its path, and what cannot work."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from trainer.engine.expected import expected_path
from trainer.model.adapter import attach
from trainer.model.blueprint.adapted import adapted_weights, count_kinds
from trainer.model.blueprint.kinds import weights_of
from trainer.model.blueprint.meta import build, read_config
from trainer.model.classes import auto_class
from trainer.model.four_bit import four_bit as four_bit_settings
from trainer.model.four_bit import quantised_names
from trainer.model.targets import text_decoder
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter, four_bit_of, low_rank
from trainer.shapes.blueprint import Blueprint
from trainer.verbs.check.obstacles import obstacles_of


def blueprint(recipe: Recipe) -> Blueprint:
    """Return what a recipe makes of its model.

    Raises:
        HardwareError: The model cannot be built, or the adapter does not fit it.
    """
    config = read_config(recipe.model)
    model = build(config, recipe.model, torch.bfloat16)
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
    opened: torch.nn.Module = model
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
        obstacles=obstacles_of(recipe, config, model_class, weights),
        notes=notes,
    )


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
