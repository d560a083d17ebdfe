"""Which loss is minimised."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.recipe.base import Section

DpoLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "discopop",
    "apo_zero",
    "sft",
]


class SftMethod(Section):
    """Supervised fine-tuning: cross-entropy of the trained tokens, each token weighing the same."""

    kind: Literal["sft"]
    """Supervised fine-tuning."""


class DpoMethod(Section):
    """Direct preference optimisation (https://arxiv.org/abs/2305.18290); the reference is the policy at step 0."""

    kind: Literal["dpo"]
    """Direct preference optimisation."""
    beta: float = Field(default=0.1, gt=0.0)
    """How strongly the policy is held to the reference."""
    loss_type: list[DpoLoss] = Field(default=["sigmoid"], min_length=1)
    """Loss, or several that are added; TRL's names."""
    loss_weights: list[float] | None = None
    """Weight of each loss in `loss_type`."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Assumed share of flipped labels."""

    @model_validator(mode="after")
    def a_weight_for_each_loss(self) -> DpoMethod:
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(f"{len(self.loss_weights)} loss_weights for {len(self.loss_type)} losses in loss_type")
        return self


Method = Annotated[SftMethod | DpoMethod, Field(discriminator="kind")]
