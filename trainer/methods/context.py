"""Hold the parts of one training: its job, its packed rows, its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trainer.engine.prepare import Engine
from trainer.model.load import Precision
from trainer.recipe import Recipe
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
    """Rows and packs that `pack` wrote."""

    train: TokenStore
    validation: TokenStore | None
    plan: PackPlan
    is_packed: bool
    go_alone: bool = False
    """Position encodings of a row depend on the other rows of its batch: each item is a batch of its own."""


@dataclass(frozen=True)
class TrainingContext:
    """The parts that a loop is built from."""

    job: Job
    model: torch.nn.Module
    engine: Engine
    inputs: Inputs
    types: Precision
    tokenizer: PreTrainedTokenizerBase
    say: Callable[[str], None]

    @property
    def pad_id(self) -> int:
        """Return the token that fills lines up; no loss depends on it."""
        # padding has no targets, and segments or masks keep it from being attended to
        pad = self.tokenizer.pad_token_id
        return int((pad if pad is not None else self.tokenizer.eos_token_id) or 0)


def read_inputs(job: Job) -> Inputs:
    """Open the files of `pack`."""
    train_rows = TokenStore.load(job.pack_dir / "train.safetensors")
    validation = TokenStore.load(job.pack_dir / "validation.safetensors")
    plan = PackPlan.load(job.pack_dir / "packs.safetensors")
    # rows of each item; a plan of single rows trains in the layouts for single rows
    is_packed = bool(np.diff(plan.offsets).max() > 1)
    return Inputs(train_rows, validation if len(validation) else None, plan, is_packed)
