"""Types of eval/gates.json: a list of gates, each with its verdict."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

Layer = Literal["must_pass", "task", "retention", "operations"]
GateVerdict = Literal["pass", "fail", "insufficient_evidence", "not_run"]


class GateCondition(TypedDict):
    """The gate of the recipe; what it leaves out is missing."""

    metric: str
    arm: str
    vs: NotRequired[str]
    """Arm that `min_gain` and `max_drop` compare with."""
    min: NotRequired[float]
    max: NotRequired[float]
    min_gain: NotRequired[float]
    max_drop: NotRequired[float]
    confidence: float | None
    """One-sided, 0 to 1; None: the value itself is compared."""
    suite: NotRequired[str]
    slice: NotRequired[dict[str, str]]
    """Field to value of the rows that count."""
    layer: Layer | Literal["auto"]


class GateItem(TypedDict):
    """One item of a gate that every item must pass."""

    id: str
    passed: bool


class GateResult(TypedDict):
    """One gate as judged."""

    gate: GateCondition
    layer: Layer
    verdict: GateVerdict
    passed: bool
    sentence: str
    """Value, limit and what the rows prove."""
    items: NotRequired[list[GateItem]]
    """Of layer must_pass, where marks are by item."""
