"""Types of a line of eval/predictions.jsonl and eval/suites.jsonl: one question with the answers of all arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired

from typing_extensions import TypedDict

from trainer.shapes.scores import FailureKind


class AnswerCall(TypedDict):
    """A call of a tool."""

    name: str
    arguments: object
    """JSON value."""


class ArmAnswer(TypedDict):
    """What one arm answered, and its marks."""

    text: str
    num_tokens: int
    prompt_tokens: int
    finished: bool
    """The model ended the answer by itself."""
    grades: dict[str, float]
    """Metric to mark; 1 is right."""
    reasons: dict[str, str]
    """Metric to why the mark is what it is."""
    failure: FailureKind | None
    """None: right, or not marked."""
    calls: NotRequired[list[AnswerCall] | None]
    """Where calls are expected; None: the text is no call."""
    content: NotRequired[str]
    """The answer without its reasoning."""
    first_text: NotRequired[str]
    """The answer before it was asked for again."""


class Prediction(TypedDict):
    """One line."""

    id: str
    """`source:line` of a held-out row, `suite/item` of a suite."""
    source: str | None
    line: int | None
    group: str
    """Rows of a group are not independent."""
    messages: Sequence[Mapping[str, object]]
    """The conversation before the answer: {"role", "content", ...}."""
    reference: str | None
    """The right answer as text."""
    reference_calls: NotRequired[list[AnswerCall] | None]
    reference_tokens: int
    slices: dict[str, object]
    """Field to value of the row."""
    answers: dict[str, ArmAnswer]
    """By arm."""
