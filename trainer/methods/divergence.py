"""Explain a training that diverged: its rows, its last good checkpoint, and whose fault it is."""

from __future__ import annotations

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from trainer.errors import DivergedError
from trainer.methods import checkpoints
from trainer.methods.context import Inputs, TrainingContext
from trainer.methods.loop import RecipeLoop

MAX_ROWS_NAMED = 8


def explained(error: DivergedError, context: TrainingContext, loop: RecipeLoop, step_size: int) -> DivergedError:
    """Return the error with the rows of its steps, the last whole checkpoint, and damaged base weights by name."""
    step = loop.state.global_step
    # only what was logged lies before: a loss is the mean of all steps since the last line
    logged = [int(line["step"]) for line in loop.state.log_history if "loss" in line and line["step"] < step]
    first = max(logged, default=0)
    rows = rows_of(context.inputs, loop.stream.items[first * step_size : max(step, 1) * step_size])
    names = ", ".join(map(str, rows[:MAX_ROWS_NAMED])) + (
        f" and {len(rows) - MAX_ROWS_NAMED} more" if len(rows) > MAX_ROWS_NAMED else ""
    )
    checkpoint = checkpoints.newest(context.job.out_dir / "checkpoints", context.say)
    message = f"{error}; rows of steps {first + 1} to {max(step, 1)}: {names} (of data/train.jsonl, from 0); " + (
        f"last good checkpoint: {checkpoint.name}" if checkpoint else "no checkpoint was saved"
    )
    if broken := not_finite(context.model):
        return DivergedError(
            f"{message}; {len(broken)} weights of the base model are not finite, the first is {broken[0]}",
            hint=f"get {context.job.recipe.model.name_or_path} again: a lower learning rate does not mend it",
        )
    return DivergedError(message, hint=error.hint)


def rows_of(inputs: Inputs, items: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    """Return the lines, from 0, of data/train.jsonl that these items were made of."""
    return sorted({int(inputs.train.row_index[row]) for item in items.tolist() for row in inputs.plan[item]})


def not_finite(model: torch.nn.Module) -> list[str]:
    """Return names of weights that were not trained and hold NaN or infinity."""
    names = []
    for name, weight in model.named_parameters():
        # 4-bit weights are bytes, without a NaN; of a weight in shards each process reads its own part
        if weight.requires_grad or not weight.is_floating_point() or weight.is_meta:
            continue
        part = weight.to_local() if isinstance(weight, DTensor) else weight
        # in float32: torch has no such test of 8-bit floats
        if not bool(torch.isfinite(part.detach().float()).all()):
            names.append(name)
    return names
