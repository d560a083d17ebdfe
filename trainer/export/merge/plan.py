"""Declare the settings and the report of a merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from trainer.errors import StageError

SURVIVAL_LIMIT = 0.9
"""Below this median share of the update, rounding to nearest cost answers (0.75: 5 of 16 in a short run)."""

Adapters = list[tuple[Path, float]]


@dataclass(frozen=True)
class FourBit:
    """How bitsandbytes quantised the base during training.

    `dtype` is the type that the weights were loaded in; `skipped` are names of modules that the recipe left alone.
    """

    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True
    dtype: torch.dtype = torch.bfloat16
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergePlan:
    """How to merge.

    Attributes:
        dtype: Type of the file; `auto` keeps that of the base.
        rounding: `auto` rounds to nearest, and stochastically where less than 0.9 of the update would survive.
        seed: Of stochastic rounding.
        max_shard_gb: Upper limit of a shard in 1e9 bytes; a single larger tensor gets a shard of its own.
        base: `plain`, or `dequantised`: what `four_bit` training really saw.
        four_bit: Settings of the quantisation, for `dequantised`.
        base_sha256: Hashes of the base's weight files as they were when the adapter was trained, by file name.
        stop_id: Token that ends an answer; added to the generation settings.
        device: Where the arithmetic runs.
    """

    # a merge in bfloat16 rounds W + sBA once: 8 bits of mantissa, so updates below |W| / 512 may vanish
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    rounding: Literal["nearest", "stochastic", "auto"] = "auto"
    seed: int = 0
    max_shard_gb: float = 5.0
    base: Literal["plain", "dequantised"] = "plain"
    four_bit: FourBit | None = None
    base_sha256: Mapping[str, str] | None = None
    stop_id: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.base == "dequantised" and self.four_bit is None:
            raise ValueError("base='dequantised' needs four_bit")
        if not self.max_shard_gb > 0:
            raise ValueError(f"max_shard_gb must be above 0, not {self.max_shard_gb}")


@dataclass(frozen=True, kw_only=True)
class MergedWeights:
    """The weights that a merge wrote, and how."""

    dtype: str
    """Of the file, such as bfloat16."""
    vocabulary: int | None
    """New number of token rows; None where it stays."""
    rounding: str
    changed: int
    """Tensors that the adapters changed."""
    copied: int
    """Tensors taken over."""
    untied: bool
    """The head and the embeddings were one tensor and are two now."""
    streamed: bool
    """False where the whole model had to be in memory."""
    survival: dict[str, float] = field(default_factory=dict)
    """median, mean and lowest share of the update left in the file, over the adapted tensors; empty if not streamed."""
    nearest_survival: float | None = None
    """Median that rounding to nearest would leave, on sampled blocks; None where not measured."""
    resumed_shards: int = 0
    """Shards that were there from an earlier attempt."""


@dataclass(frozen=True, kw_only=True)
class MergeReport(MergedWeights):
    """A finished merge."""

    seconds: float
    """Wall clock."""
    peak_rss_gib: float
    """Peak memory of this process since it started."""
    shards: dict[str, int]
    """Size in bytes of every shard, by file name."""


@dataclass(frozen=True)
class Replay:
    """A second computation of every tensor compared with the file, bit by bit.

    Attributes:
        equal: Nothing differs, nothing is unused, nothing was found.
        tensors: How many were compared.
        differing: Names that differ, are missing or are too many.
        unused_adapter_tensors: Tensors of the adapters that no weight took.
        findings: Sentences: not finite, all-zero B, adapted weight left as in the base.
    """

    equal: bool
    tensors: int
    differing: list[str]
    unused_adapter_tensors: list[str]
    findings: list[str]


class NotStreamableError(Exception):
    """This model or adapter can only be merged in memory; the message says why."""


def wrong_adapter(message: str) -> StageError:
    """Return the error for an adapter that does not fit this base."""
    return StageError(f"the adapter does not fit this base model: {message}", hint="check model.name_or_path")
