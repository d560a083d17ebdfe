"""Run `trainer check`: rows, stages, the model opened without weights, memory; then say whether the recipe works."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.errors import HardwareError, TrainerError
from trainer.model.planning import advice
from trainer.pipeline import Pipeline
from trainer.verbs.check.lines import lines
from trainer.verbs.check.open_model import NotOpenedError, open_model


def check(pipeline: Pipeline, *, quick: bool) -> Iterator[str]:
    """Yield what can be known before spending time.

    Args:
        pipeline: Of the recipe.
        quick: Leave the model closed.

    Raises:
        DataError: `data` would refuse the rows.
        HardwareError: The model or an export cannot work.
    """
    recipe = pipeline.recipe
    refusals: list[TrainerError] = []
    yield from pipeline.check(refusals)
    try:
        blueprint = None if quick else open_model(recipe, is_cuda=advice.cards_of(recipe)[0].is_cuda)
        if blueprint is not None:
            yield from lines(recipe, blueprint)
            refusals += [HardwareError(each["message"], hint=each["hint"]) for each in blueprint["obstacles"]]
        yield from advice.lines(recipe, blueprint)
    except NotOpenedError as error:
        yield f"{'model':7} not opened: {error}"
        yield from advice.lines(recipe)
    except HardwareError as error:  # rows that were refused come first
        refusals.append(error)
    for refusal in refusals[1:]:
        yield f"error: {refusal.message}"
    if refusals:
        raise refusals[0]
    task = f"{recipe.adapter.kind} {recipe.method.kind} of {recipe.model.name_or_path}"
    items = f"{recipe.train.global_batch_size} items a step"
    yield f"recipe ok: {recipe.name}, {task}, {items}; run folder {pipeline.run.path}"
