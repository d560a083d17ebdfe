"""How the result is measured, and what is delivered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.recipe.base import Section
from trainer.recipe.gates import BEST_PROMPTED, Gate

Arm = Literal["base", "tuned"]
Metric = Literal["loss", "exact_match", "valid_json", "preference_accuracy", "latency_p50_s"]


class EvalSection(Section):
    """Base against tuned on the same held-out rows."""

    arms: list[Arm] = Field(default=["base", "tuned"], min_length=1)
    """What is measured."""
    metrics: list[Metric] | Literal["auto"] = "auto"
    """auto: all that fit the rows; valid_json where the reference answers are JSON."""
    max_rows: int = Field(default=1000, ge=1)
    """Held-out rows used; above it a seeded sample."""
    max_new_tokens: PositiveInt | Literal["auto"] = "auto"
    """Longest answer; auto: twice the longest reference answer, at least 32."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Rows generated together; auto: 32."""
    latency_rows: int = Field(default=10, ge=0)
    """Rows answered one by one for the latency figure."""
    gates: list[Gate] = Field(default_factory=list)
    """Conditions for export."""

    @model_validator(mode="after")
    def gates_have_their_arms(self) -> EvalSection:
        for gate in self.gates:
            missing = {gate.arm, *([gate.vs] if gate.compares else [])} - {*self.arms, BEST_PROMPTED}
            if missing:
                raise ValueError(f"a gate on {gate.metric} needs the arm {sorted(missing)[0]}, which `arms` leaves out")
        return self


class Verify(Section):
    """Limits of the proof that follows every export."""

    num_rows: int = Field(default=16, ge=1)
    """Held-out rows whose logits are compared."""
    max_logit_diff: float = Field(default=1e-4, gt=0)
    """Largest difference between the logits of the float32 merge and those of base plus adapter.

    Models over 500M weights are compared in float32 arithmetic, where a tenth of the largest logit multiplies it.
    """
    max_mean_kl: float = Field(default=0.01, gt=0)
    """Largest mean divergence, in nats a token, that rounding to a 16-bit type may add."""


class ExportSection(Section):
    """What is delivered."""

    formats: list[Literal["adapter", "merged"]] | Literal["auto"] = "auto"
    """auto: adapter, or merged for full fine-tuning."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the merged weights; auto: the one trained with."""
    max_shard_gb: float = Field(default=4.0, gt=0)
    """Largest file of merged weights, in GB."""
    verify: Verify = Verify()
    """Limits of the proof."""
