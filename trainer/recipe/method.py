"""Define `method`: which loss is minimised."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, assert_never

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
    "aot_unpaired",
    "discopop",
    "apo_zero",
    "apo_down",
    "sigmoid_norm",
    "sft",
]

RowShape = Literal["single", "pair", "labelled", "prompt"]
"""What one row of training holds: one text, a prompt with a better and a worse answer, an answer with a verdict, or a
prompt alone."""


class MethodSection(Section):
    """Settings of one loss. Code asks for its `shape`, so that mypy names every place that a new shape must reach."""

    shape: ClassVar[RowShape]


class SftMethod(MethodSection):
    """Supervised fine-tuning: cross-entropy of the trained tokens, each token weighing the same."""

    shape: ClassVar[Literal["single"]] = "single"
    kind: Literal["sft"]
    """Supervised fine-tuning."""


class DpoMethod(MethodSection):
    """Direct preference optimisation (https://arxiv.org/abs/2305.18290); the reference is the policy at step 0."""

    shape: ClassVar[Literal["pair"]] = "pair"
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

    @model_validator(mode="after")
    def exo_needs_smoothing(self) -> DpoMethod:
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            raise ValueError("loss_type exo_pair takes the logarithm of label_smoothing; set it above 0, such as 0.001")
        return self


class CpoMethod(MethodSection):
    """Contrastive preference optimisation (https://arxiv.org/abs/2401.08417); no reference."""

    shape: ClassVar[Literal["pair"]] = "pair"
    kind: Literal["cpo"]
    """Contrastive preference optimisation."""
    beta: float = Field(default=0.1, gt=0.0)
    """Scale of the difference of log-probabilities."""
    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """Loss of the difference; TRL's names."""
    cpo_alpha: float = Field(default=1.0, ge=0.0)
    """Weight of the likelihood of the chosen answers."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Assumed share of flipped labels."""


class SimpoMethod(MethodSection):
    """Simple preference optimisation (https://arxiv.org/abs/2405.14734): log-probabilities a token, no reference."""

    shape: ClassVar[Literal["pair"]] = "pair"
    kind: Literal["simpo"]
    """Simple preference optimisation."""
    beta: float = Field(default=2.0, gt=0.0)
    """Scale of the difference of mean log-probabilities."""
    simpo_gamma: float = Field(default=1.0, ge=0.0)
    """Margin that the chosen answer must lead by."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Assumed share of flipped labels."""


class OrpoMethod(MethodSection):
    """Odds ratio preference optimisation (https://arxiv.org/abs/2403.07691): likelihood and odds, no reference."""

    shape: ClassVar[Literal["pair"]] = "pair"
    kind: Literal["orpo"]
    """Odds ratio preference optimisation."""
    beta: float = Field(default=0.1, gt=0.0)
    """Weight of the odds ratio; lambda in the paper."""


PairedMethod = DpoMethod | CpoMethod | SimpoMethod | OrpoMethod
Method = Annotated[SftMethod | PairedMethod, Field(discriminator="kind")]


def has_reference(method: Method) -> bool:
    """Tell whether the loss compares the policy with the policy at step 0."""
    match method:
        case DpoMethod():
            return True
        case SftMethod() | CpoMethod() | SimpoMethod() | OrpoMethod():
            return False
        case _:
            assert_never(method)


def trains_prompts(method: PairedMethod) -> bool:
    """Tell whether the loss looks at the prompt's tokens too."""
    match method:
        case OrpoMethod():
            return True
        case DpoMethod() | CpoMethod() | SimpoMethod():
            return False
        case _:
            assert_never(method)


class ShapeFacts(NamedTuple):
    """What follows from the shape of a method's rows."""

    title: str
    """What messages call them."""
    sequences: int
    """Sequences of an item, each of `pack.max_length` tokens at most."""
    are_packed: bool
    """Several of them may share a sequence."""
    keeps_dropout: bool
    """False where all sequences of an item must see the same policy."""
    rate_divisor: int
    """The usual learning rate is that of single rows over this."""
    has_preference: bool
    """One of two answers is better: preference_accuracy and preference_margin can be measured."""


def row_facts(method: Method) -> ShapeFacts:
    """Return what follows from the shape of a method's rows."""
    match method.shape:
        case "single":
            return ShapeFacts(
                title="single rows",
                sequences=1,
                are_packed=True,
                keeps_dropout=True,
                rate_divisor=1,
                has_preference=False,
            )
        case "pair":
            return ShapeFacts(
                title="preference pairs",
                sequences=2,
                are_packed=False,
                keeps_dropout=False,
                rate_divisor=20,
                has_preference=True,
            )
        case _:
            assert_never(method.shape)
