"""Compile the decoder layers before the first step, where every process can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from trainer.engine import compile, current
from trainer.engine.batch import moved
from trainer.methods.loop import RecipeLoop
from trainer.model.load import Precision


def compile_layers(
    loop: RecipeLoop, items: Sequence[int], width: int | None, types: Precision, say: Callable[[str], None]
) -> None:
    """Compile the layers if the longest micro-batch gives the same gradients, and report it in one line.

    Args:
        loop: Ready to train, its levels of recompute set.
        items: Of the longest micro-batch.
        width: Its tokens, to which all micro-batches are filled up; None where lengths differ.
        types: Of weights and products.
        say: Takes the line.
    """
    collator = loop.data_collator
    collator.width = width
    # the longest one: if it fits in memory while both ways are compared, all fit
    batch = moved(collator([loop.train_dataset[item] for item in items]), loop.args.device)

    def loss() -> torch.Tensor:
        with loop.accelerator.autocast():
            return -loop.engine.score(loop.model, batch)[0].mean()

    problem, number = "another process does not compile", 0
    loop.model.train()
    if loop.args.gradient_checkpointing:  # as transformers does when training begins
        loop.model.gradient_checkpointing_enable(loop.args.gradient_checkpointing_kwargs)
    try:
        with current.of(batch["inputs"].get("segments")):  # as in a step of the training
            products = types.autocast or types.weights
            number = compile.try_on(loop.model, loss, dtype=products, is_static=width is not None)
    except compile.NotCompiled as error:
        problem = str(error)
    # all or none: compiled and uncompiled layers round differently, and processes average their gradients
    able = loop.accelerator.reduce(torch.tensor(min(number, 1), device=loop.args.device), "sum")
    if int(able) == loop.accelerator.num_processes:
        say(f"train: {number} decoder layers are compiled")
        return
    collator.width = None
    if number:
        compile.switch_off(loop.model)
    say(f"train: layers are not compiled: {problem}")
