"""Compare the predicted memory of a training step with what torch's profiler sees, for a tiny model of any type."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypedDict

import numpy as np
from torch.profiler import ProfilerActivity, profile

from tests import tiny
from tests.zoo import models
from trainer.engine.batch import Layout, of_rows
from trainer.engine.prepare import prepare, release
from trainer.engine.traced import traced_memory
from trainer.model.adapter import attach
from trainer.model.planning.traced import predicted_step
from trainer.recipe.model import LoraAdapter

ITEMS, TOKENS = 4, 128


def allocated(step: Callable[[], None]) -> int:
    """Return the most bytes allocated at a time in a call, less those that were there before."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())


class Comparison(TypedDict):
    """Bytes that a step holds besides the weights."""

    rows: Layout
    predicted: int
    measured: int


def compare(model_type: str) -> Comparison:
    """Return predicted and measured bytes of a step with LoRA on a tiny model of a type."""
    base = models.make(model_type, tiny.make_tokenizer())
    model = attach(base, LoraAdapter(kind="lora", r=4, alpha=8.0)).train()
    ids = np.arange(TOKENS) % 500 + 1
    engine = prepare(model, [ids[:32], ids[5:30]], attention="auto", say=lambda _: None)
    rows = [(ids, np.ones(TOKENS, dtype=np.uint8))] * ITEMS
    is_flat = engine.layout == "flat"
    batch = of_rows([rows] if is_flat else [[row] for row in rows], engine.layout, 0)

    def step() -> None:
        log_probs, router_loss = engine.score(model, batch)
        (-log_probs.mean() if router_loss is None else router_loss - log_probs.mean()).backward()

    step()  # what is made once
    model.zero_grad(set_to_none=True)
    measured = allocated(step)
    model.zero_grad(set_to_none=True)
    release(base)
    for module in base.modules():  # the trace makes blocks of its own
        vars(module).pop("_lora_block", None)
    traced = traced_memory(model, is_flat=is_flat, tokens=TOKENS, recomputes=False, autocast=None)
    predicted = predicted_step(traced, ITEMS * TOKENS)
    return {"rows": engine.layout, "predicted": predicted, "measured": measured}
