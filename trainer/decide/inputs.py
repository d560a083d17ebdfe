"""Hold what a decision rests on: quality of the arms, their differences, kinds of failures, costs and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer.shapes.scores import FailureKind


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    def moved_by(self, shift: float) -> Interval:
        """Return the interval elsewhere, as wide as it is."""
        return Interval(self.value + shift, self.low + shift, self.high + shift)

    @property
    def turned(self) -> Interval:
        """Return the difference the other way round."""
        return Interval(-self.value, -self.high, -self.low)

    def shrunk(self, factor: float) -> Interval:
        """Return the interval with both arms shorter by a factor, as more rows would make it."""
        return Interval(
            self.value, self.value - (self.value - self.low) / factor, self.value + (self.high - self.value) / factor
        )


@dataclass(frozen=True)
class ArmInputs:
    """One arm as measured."""

    name: str
    model: str
    """base, start, tuned or endpoint."""
    quality: Interval
    failures: Mapping[FailureKind, float]
    """Number of failed answers by kind."""
    documents: bool = False
    shots: int = 0
    latency_p95_s: float | None = None
    stronger_retriever: str | None = None
    """How to install a better retriever than the one that chose its examples or passages; None where it had that."""


@dataclass(frozen=True)
class DecisionInputs:
    """All that the verdict looks at."""

    metric: str
    target: float
    num_rows: int
    arms: Mapping[str, ArmInputs]
    differences: Mapping[tuple[str, str], Interval] = field(default_factory=dict)
    """Quality of the first arm less that of the second, on the same rows."""
    requests_per_day: float | None = None
    latency_limit_s: float | None = None
    cost_per_day: Mapping[str, float] = field(default_factory=dict)
    """At the stated volume; empty without prices or volume."""
    cost_per_1000: Mapping[str, float] = field(default_factory=dict)
    """Of 1,000 requests on fully used replicas, what is paid once left out; empty without prices."""
    cost_per_accepted: Mapping[str, float] = field(default_factory=dict)
    """Of an answer that is right, at the stated volume; empty without prices or volume."""
    closed_set: bool = False
    """The right answers are those of the training rows: labels, not facts."""
    documents_exist: bool = False
    """The recipe has an arm with documents, measured or not."""
