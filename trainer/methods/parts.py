"""What a training is built from: its job, its packed rows, its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainer.engine.prepare import Engine
from trainer.methods.collate import PairCollator, PairDataset, RowCollator, RowDataset
from trainer.model.load import Precision
from trainer.recipe import Recipe
from trainer.recipe.method import OrpoMethod, SftMethod
from trainer.tokens.pack import PackPlan
from trainer.tokens.store import TokenStore


@dataclass(frozen=True)
class Job:
    """Paths and settings of one training."""

    recipe: Recipe
    pack_dir: Path
    out_dir: Path
    cache: Path
    weights: dict[str, str]
    """Hashes of the base weights, and of the adapter that is continued."""
    say: Callable[[str], None]
    resume_from: str | None = None
    expected_world_size: int | None = None


@dataclass
class Inputs:
    """What `pack` wrote."""

    train: TokenStore
    validation: TokenStore | None
    plan: PackPlan
    is_packed: bool
    go_alone: bool = False
    """A row's positions depend on the other rows of its batch."""


@dataclass(frozen=True)
class Parts:
    """What a loop is built from."""

    job: Job
    model: Any
    engine: Engine
    inputs: Inputs
    types: Precision
    tokenizer: PreTrainedTokenizerBase
    say: Callable[[str], None]

    @property
    def pad_id(self) -> int:
        """Return the token that fills lines up; no label ever depends on it."""
        pad = self.tokenizer.pad_token_id
        return int((pad if pad is not None else self.tokenizer.eos_token_id) or 0)


def read_inputs(job: Job) -> Inputs:
    """Open what `pack` wrote."""
    train_rows = TokenStore.load(job.pack_dir / "train.safetensors")
    validation = TokenStore.load(job.pack_dir / "validation.safetensors")
    plan = PackPlan.load(job.pack_dir / "packs.safetensors")
    is_packed = bool(np.diff(plan.offsets).max() > 1)
    return Inputs(train_rows, validation if len(validation) else None, plan, is_packed)


def train_data(parts: Parts) -> tuple[Any, Any]:
    """Return the items to train on, and what makes batches of them."""
    inputs, engine, method = parts.inputs, parts.engine, parts.job.recipe.method
    if not isinstance(method, SftMethod):
        collate = PairCollator(layout=engine.layout, pad_id=parts.pad_id, with_prompts=isinstance(method, OrpoMethod))
        return PairDataset(inputs.train, inputs.plan.rows.tolist()), collate
    layout = engine.packed_layout if inputs.is_packed else engine.layout
    assert layout is not None, "rows that would see each other are not packed"
    return RowDataset(inputs.train, inputs.plan), RowCollator(layout=layout, pad_id=parts.pad_id)
