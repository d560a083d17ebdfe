"""Types of eval/scores.json: every metric of every arm, and the comparisons of arms."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

Rate = Literal["format_leak_rate", "refusal_rate", "other_language_rate", "same_answer_rate"]
"""A share of the general prompts, one value an arm."""
FailureKind = Literal["format", "style", "knowledge", "refusal", "other"]
FAILURE_KINDS: tuple[FailureKind, ...] = ("format", "style", "knowledge", "refusal", "other")
"""In the order of tables."""


class Score(TypedDict):
    """A metric with its 95 % interval."""

    value: float
    low: float | None
    """None: so few rows give no bound."""
    high: float | None
    n: int
    """Rows."""


class ScoreDifference(TypedDict):
    """A metric of one arm less that of another, on the same rows."""

    difference: float
    low: float | None
    """None: so few rows give no bound."""
    high: float | None
    n: int
    """Rows."""
    differing: int
    """Rows on which the arms differ."""
    wins: NotRequired[int]
    """Rows on which the first arm is better; of shares only."""
    losses: NotRequired[int]
    p_value: NotRequired[float]
    """Exact; of shares whose rows are independent."""
    holm_p_value: NotRequired[float]
    """Corrected for the comparisons that are shown together; missing where there is no interval."""


class ArmComparison(ScoreDifference):
    """A difference with the arms and the metric that it is about."""

    arm: str
    vs: str
    metric: str
    sentence: str
    """What the comparison shows, and what it could have shown."""


class MetricDescription(TypedDict):
    """How a metric is written and which way is good."""

    unit: Literal["share", "number"]
    better: Literal["higher", "lower"]


class FrequentText(TypedDict):
    """The answer that an arm gives most often."""

    text: str
    """First 200 characters."""
    share: float
    """Of the questions, 0 to 1."""


class FrequentReference(TypedDict):
    """The reference that most questions share."""

    text: str
    """First 200 characters."""
    exact_match: float
    """Score of answering nothing else, 0 to 1."""


class ArmFacts(TypedDict, total=False):
    """How an arm was asked; an empty object where it was asked nothing."""

    model: str
    """base, start, tuned or endpoint."""
    shots: int
    """Examples in a prompt."""
    documents: bool
    """Prompts have passages of documents."""
    retriever: str | None
    """What chose its examples or passages."""
    stronger_retriever: str | None
    """How to install a better retriever."""
    prompted: bool
    """Untuned weights, and a prompt of its own."""
    shared_prefix_tokens: int
    """Tokens that all its prompts begin with."""
    concurrency: int
    """Requests at a time, of the throughput."""
    repairs: int
    """Answers that were asked for again."""
    endless_reasoning: int
    """Answers that were cut off inside their reasoning."""
    valid: float
    """Share of answers that every grader of form accepts, 0 to 1."""
    failures: dict[FailureKind, int]
    """Wrong answers by kind."""
    most_frequent_answer: FrequentText | None
    """None: no answer is given twice."""


class SliceScores(TypedDict):
    """Scores of the rows that have one value in a field."""

    n: int
    """Rows."""
    arms: dict[str, dict[str, Score]]


class SuiteScores(TypedDict):
    """Scores of a regression suite."""

    must_pass: bool
    """Every item must be right."""
    n: int
    """Items."""
    metrics: dict[str, MetricDescription]
    arms: dict[str, dict[str, Score]]
    """Arm to metric to score."""
    comparisons: list[ArmComparison]


class RetentionScores(TypedDict):
    """How far tuning moved the model from its base on general prompts."""

    kl: NotRequired[Score]
    """Tuned from base, in nats a token."""
    loss_change: NotRequired[Score]
    """Of the base's own answers, in nats a token."""
    format_leak_rate: NotRequired[dict[str, Score]]
    """Arm to share of answers in the form of the task."""
    refusal_rate: NotRequired[dict[str, Score]]
    other_language_rate: NotRequired[dict[str, Score]]
    same_answer_rate: NotRequired[dict[str, Score]]
    """Arm to share of answers that are the answer to another prompt too."""
    comparisons: list[ArmComparison]


class Scores(TypedDict):
    """eval/scores.json."""

    primary: str
    """Metric that decides."""
    heldout_rows: int
    metrics: dict[str, MetricDescription]
    """The deciding one first."""
    arms: dict[str, dict[str, Score]]
    """Arm to metric to score."""
    facts: dict[str, ArmFacts]
    """By arm."""
    comparisons: list[ArmComparison]
    slices: dict[str, dict[str, SliceScores]]
    """Field to value to scores."""
    suites: dict[str, SuiteScores]
    retention: RetentionScores | None
    """None: not measured."""
    most_frequent_answer: FrequentReference | None
    """None: no reference repeats."""
