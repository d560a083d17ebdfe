"""Types of decide/decision.json: the verdict between prompting and tuning, its reasons, and every number."""

from __future__ import annotations

from typing import Literal, final

from typing_extensions import TypedDict

from trainer.shapes.scores import FailureKind

Verdict = Literal[
    "insufficient_evidence",
    "prompt",
    "smaller_tuned_model",
    "nothing_fits",
    "tune",
    "rag_first",
    "do_not_tune",
    "refine_prompt_or_data",
]
Readiness = Literal["ready", "usable", "not_ready"]


class TuningDamage(TypedDict):
    """Something outside the task that is shown worse than in base."""

    metric: str
    suite: str | None
    """None: of the forgetting meter."""
    before: float
    """Share of base, 0 to 1."""
    after: float
    low: float | None
    """Bound of `after` for the meter, of the difference for a suite."""
    high: float | None
    n: int
    """Prompts or items."""
    sentence: str


class IntervalValues(TypedDict):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@final
class CostValues(TypedDict):
    """What an arm costs, in the currency of the prices; None without a volume."""

    per_1000: float
    """1,000 requests."""
    per_accepted: float | None
    """A right answer."""
    per_day: float | None
    per_month: float | None
    replicas: int | None
    per_request: float
    """At an endpoint; 0 for a local arm."""
    per_replica_day: float
    """0 for an endpoint."""
    capacity_per_day: float | None
    """Requests a day that one replica takes; None: an endpoint, which takes any number."""
    one_off: float


@final
class MissingCost(TypedDict):
    """Why an arm has no cost."""

    missing: str


class ArmDecision(TypedDict):
    """Every number of one arm; None where it was not measured."""

    model: str
    """base, start, tuned or endpoint."""
    quality: IntervalValues | None
    against_best_prompted: IntervalValues | None
    """Quality less that of the best prompted arm, on the same rows."""
    latency_p50_s: float | None
    latency_p95_s: float | None
    ttft_p50_s: float | None
    """Seconds to the first token."""
    throughput_rps: float | None
    """Requests per second."""
    prompt_tokens: float | None
    """Mean."""
    answer_tokens: float | None
    peak_memory_gib: float | None
    clean_stop: float | None
    """Share of answers that the model ended by itself, 0 to 1."""
    shots: int | None
    documents: bool | None
    retriever: str | None
    stronger_retriever: str | None
    concurrency: int | None
    valid: float | None
    """Share of answers that every grader of form accepts, 0 to 1."""
    repairs: int | None
    failures: dict[FailureKind, int] | None
    shared_prefix_tokens: int | None
    cost: CostValues | MissingCost | None


class BreakEvenValues(TypedDict):
    """From which volume the tuned arm is cheaper than another."""

    requests_per_day: float | None
    """From here it stays cheaper; None: never."""
    first: float | None
    """From here it is cheaper for the first time."""
    replicas: int | None
    """Of the tuned arm, at `requests_per_day`."""


Sensitivity = TypedDict("Sensitivity", {"price": str, "x0.5": float | None, "x2": float | None, "x10": float | None})
"""Requests a day at the break-even with one price multiplied by a factor; None: never."""


class CostCurve(TypedDict):
    """The cost of a day over volume."""

    volumes: list[float]
    """(V,) requests a day, ascending."""
    arms: dict[str, list[float]]
    """Arm to (V,) cost of a day."""


class TokenPriceValues(TypedDict):
    """Price of a million tokens at an endpoint."""

    input_per_million: float
    output_per_million: float
    cached_input_per_million: float | None


class PriceValues(TypedDict):
    """`decide.prices` of the recipe."""

    as_of: str
    """YYYY-MM-DD."""
    currency: str
    gpu_hour: float | None
    endpoints: dict[str, TokenPriceValues]
    labelling: float
    development_hours: float
    development_hourly: float


class HostingValues(TypedDict):
    """`decide.hosting` of the recipe."""

    gpus_per_replica: int
    utilisation: float
    """Share of the throughput that can be used, 0 to 1."""
    hours_per_day: float
    requests_per_second: float | dict[str, float] | Literal["auto"]


class Assumptions(TypedDict):
    """What the costs rest on beside the measurements."""

    prices: PriceValues | None
    hosting: HostingValues
    requests_per_day: float | None
    latency_limit_s: float | None
    lifetime_days: float
    cache_prompts: bool
    batch_discount: float
    """Share taken off token prices, 0 to 1."""
    fallback: str | float | None
    """Arm, or cost of an answer."""
    training_hours: float
    """GPU hours."""


class ServiceRequirements(TypedDict):
    """What a hosted tuning service asks for, with the source and its day."""

    title: str
    closed_to_new_users: bool
    ends: str | None
    """YYYY-MM-DD."""
    as_of: str
    source: str
    note: str
    format: str
    min_rows: int
    recommended_rows: list[int]
    """[least, most]."""
    max_rows: int | None
    max_file_mib: float | None
    max_row_tokens: int
    alternating: bool
    tools: bool
    untrained_turns: bool


class ServiceReadiness(TypedDict):
    """How the training rows fit a hosted tuning service."""

    verdict: Readiness
    sentence: str
    rows: int
    """Rows that the service would take."""
    file_mib: float
    failing: dict[str, int]
    """Reason to rows."""
    first: dict[str, list[str]]
    """Reason to `source:line` of the first rows."""
    requirements: ServiceRequirements


class Decision(TypedDict):
    """decide/decision.json."""

    verdict: Verdict
    branch: str
    """Row of the table of verdicts."""
    headline: str
    because: list[str]
    would_change: list[str]
    price: list[TuningDamage]
    """The largest first."""
    price_measured: bool
    """Something outside the task was measured."""
    confidence: float | None
    """Share of resamples of the rows with the same verdict, 0 to 1; None: no rows to draw."""
    confidence_by_verdict: dict[Verdict, float]
    confidence_covers: str
    metric: str
    target: float
    heldout_rows: int
    best_prompted: str | None
    best_tuned: str | None
    arms: dict[str, ArmDecision]
    assumed_tuned: CostValues | MissingCost | None
    """Cost of the stand-in for a tuned arm before training."""
    break_even_requests_per_day: float | None
    """Of the best tuned against the best prompted arm."""
    break_even_by_arm: dict[str, BreakEvenValues]
    sensitivity: list[Sensitivity]
    curve: CostCurve
    assumptions: Assumptions
    providers: dict[str, ServiceReadiness]
