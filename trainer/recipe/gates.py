"""Define the conditions that a result must meet before it is exported."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.recipe.base import Section
from trainer.shapes.gates import Layer

BEST_PROMPTED = "best_prompted"


class Gate(Section):
    """A condition that an arm must meet before the model is exported.

    It passes when the rows prove it, not when the value happens to lie on the right side.
    """

    metric: str = Field(min_length=1)
    """Name of the metric, as in eval/scores.json."""
    arm: str = "tuned"
    """Arm that is judged."""
    vs: str = "base"
    """Arm that `min_gain` and `max_drop` compare with; best_prompted: the best of the prompted arms."""
    min: float | None = None
    """Smallest allowed value."""
    max: float | None = None
    """Largest allowed value."""
    min_gain: float | None = None
    """Smallest allowed improvement over `vs`."""
    max_drop: float | None = Field(default=None, ge=0)
    """Largest allowed loss against `vs`."""
    confidence: float | None = Field(default=0.95, gt=0.5, lt=1)
    """How sure the rows must make it, one-sided; null: compare the value itself."""
    suite: str | None = None
    """Suite whose items are looked at in place of the held-out rows."""
    slice: dict[str, str] | None = Field(default=None, min_length=1, max_length=1)
    """Field and value of the rows that are looked at, for example {topic: refunds}."""
    layer: Layer | Literal["auto"] = "auto"
    """must_pass: every item right, whatever the limits; auto: told by the suite and the metric."""

    @model_validator(mode="after")
    def states_a_limit(self) -> Gate:
        if self.layer != "must_pass" and self.min is self.max is self.min_gain is self.max_drop is None:
            raise ValueError("give at least one of `min`, `max`, `min_gain` and `max_drop`")
        return self

    @model_validator(mode="after")
    def compares_two_arms(self) -> Gate:
        if self.compares and self.vs == self.arm:
            raise ValueError(f"`vs` is the arm that is judged, {self.arm}: it is never better than itself")
        return self

    @model_validator(mode="after")
    def looks_at_one_place(self) -> Gate:
        if self.suite is not None and self.slice is not None:
            raise ValueError("give `suite` or `slice`, not both: slices are of the held-out rows")
        return self

    @property
    def compares(self) -> bool:
        """Tell whether it needs a second arm."""
        return self.min_gain is not None or self.max_drop is not None
