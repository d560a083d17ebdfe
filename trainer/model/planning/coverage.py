"""Refuse recipes whose memory cannot be predicted, and layer names that the model does not have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from trainer.errors import Problem, RecipeError
from trainer.model.planning.model_shape import NotPredictedError, Outline
from trainer.model.planning.predictor import Predictor
from trainer.recipe import Recipe
from trainer.recipe.model import four_bit_of, low_rank

MODULES_OUTSIDE_LAYERS = ("model.embed_tokens", "lm_head")


def predictor_of(
    recipe: Recipe, outline: Outline, *, is_cuda: bool, is_dequantised: bool = False, processes: int = 1
) -> Predictor:
    """Return the predictor of a recipe on a model.

    Raises:
        NotPredictedError: The memory of a setting is not known.
        RecipeError: `adapter.target_modules` matches no layer.
    """
    _check_target_modules(recipe, outline)
    setting = _uncovered_setting(recipe, outline, is_cuda=is_cuda)
    if setting:
        raise NotPredictedError(f"{setting}: not predicted")
    return Predictor(outline, recipe, is_cuda=is_cuda, is_dequantised=is_dequantised, processes=processes)


def _uncovered_setting(recipe: Recipe, outline: Outline, *, is_cuda: bool) -> str | None:
    """Return the first setting for which the bytes of a layer are not known."""
    if recipe.launch.strategy in ("fsdp2", "zero3"):
        return f"launch.strategy {recipe.launch.strategy} spreads weights over cards"
    adapter = low_rank(recipe.adapter)
    if adapter is None:
        return None
    if adapter.init_from is not None:
        return "adapter.init_from brings its own rank and layers"
    for key in ("modules_to_save", "use_dora", "dropout"):
        if getattr(adapter, key):
            return f"adapter.{key}"
    if not is_cuda and four_bit_of(adapter):
        return "4-bit weights on a CPU"
    names = outline.adapted(adapter.target_modules)
    if names is None:
        return "adapter.target_modules with other layers adapted in some blocks than in others"
    # embed_tokens and lm_head, for example: PEFT can adapt them, the counts know no such adapter
    missing = set(names) - {linear.name for linear in outline.linears}
    return f"adapter.target_modules {', '.join(sorted(missing))}" if missing else None


def _check_target_modules(recipe: Recipe, outline: Outline) -> None:
    adapter = low_rank(recipe.adapter)
    pattern = adapter.target_modules if adapter and not adapter.init_from else "all-linear"
    if pattern == "all-linear":
        return
    if not isinstance(pattern, str):
        _check_names(pattern, outline)
    elif not any(outline.matched(pattern)) and not any(re.fullmatch(pattern, name) for name in MODULES_OUTSIDE_LAYERS):
        example = r".*\.(q_proj|v_proj)"
        problem = Problem("recipe", None, "adapter.target_modules", f"the pattern {pattern!r} matches no layer")
        names = ", ".join(linear.name for linear in outline.linears)
        raise RecipeError([problem], hint=f"it must match whole names, such as {example!r}; this model has {names}")


def _check_names(names: Sequence[str], outline: Outline) -> None:
    """Refuse a misspelt layer; a name unlike any layer may be a part that the outline does not cover."""
    layers = [linear.name for linear in outline.linears]
    layers += [name.rpartition(".")[2] for name in MODULES_OUTSIDE_LAYERS]
    for name in names:
        last = name.rpartition(".")[2]
        near = [] if last in layers or last.isdecimal() else get_close_matches(last, layers, n=1, cutoff=0.75)
        if near:
            message = f"no layer is called {last!r}; did you mean `{near[0]}`?"
            raise RecipeError([Problem("recipe", None, "adapter.target_modules", message)])
