"""Tell from a model without weights how its batches will be laid out; `prepare` proves it on the loaded model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from trainer.engine.attention import NotCovered, switch_off, switch_on
from trainer.engine.batch import Batch, of_rows
from trainer.engine.prepare import Engine, without_segments
from trainer.model.fake import NOT_FAKED, fake_tensors

ROW = np.arange(1, 9, dtype=np.int64)
STATES = "rows of a pack would go on with the state of the row before"


@dataclass(frozen=True)
class ExpectedPath:
    """How batches will reach a model."""

    padded: str | None
    """Why rows are padded; None: they follow each other in flat batches, without padding."""
    unpacked: str | None
    """Why rows will probably not be packed; None: they will be."""


def expected_path(model: PreTrainedModel | PeftModel, *, attention: str = "auto") -> ExpectedPath:
    """Return the layout that `prepare` will probably choose.

    Args:
        model: On the meta device, with or without an adapter.
        attention: `model.attn_implementation` of the recipe.
    """
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    if attention != "auto":
        return ExpectedPath(f"model.attn_implementation is {attention}", None)
    reason = without_segments(base) or _flat_problem(base)
    return ExpectedPath(reason, f"{STATES} ({reason})" if reason and carries_state(base) else None)


def carries_state(base: PreTrainedModel) -> bool:
    """Tell whether a model has layers with a state or a convolution along the sequence."""
    types = getattr(base.config.get_text_config(), "layer_types", None) or ()
    names = {type(module).__name__.lower() for module in base.modules()}
    words = ("mamba", "deltanet", "rwkv", "lstm", "recurrent", "shortconv", "lightning")
    return any("linear" in each or "conv" in each for each in types) or any(
        word in name for name in names for word in words
    )


def _flat_problem(base: PreTrainedModel) -> str | None:
    """Return what a pass of two rows in a flat batch raises, as far as shapes can show it."""
    batch: Batch = of_rows([[(ROW, np.ones(len(ROW), dtype=np.uint8)) for _ in range(2)]], "flat", 0)
    switch_on(base)
    try:
        # shapes are enough: what attention cannot take is refused before any number is read
        with fake_tensors(base), torch.no_grad():
            Engine("flat", "flat", None, None).call(base, batch)
    except NotCovered as error:
        return str(error)
    except NOT_FAKED:
        return None  # numbers are missing: found out when training starts
    finally:
        switch_off(base)
    return None
