"""Define what the decision between prompting and tuning rests on: target, volume, limits and prices.

No price is built in: what the recipe does not state is not counted, and the page says so.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from trainer.recipe.base import Section

Money = float
Provider = Literal["openai", "bedrock-claude", "gemini"]


class TokenPrice(Section):
    """What an endpoint charges for a million tokens."""

    input_per_million: Money = Field(ge=0)
    """Prompt tokens."""
    output_per_million: Money = Field(ge=0)
    """Answer tokens."""
    cached_input_per_million: Money | None = Field(default=None, ge=0)
    """Prompt tokens that the endpoint has seen before; without it they cost as much as the others."""


class Prices(Section):
    """Prices with the day on which they held."""

    as_of: str
    """Day on which these prices were looked up, YYYY-MM-DD."""
    currency: str = Field(default="USD", min_length=1, max_length=8)
    """Currency of all of them."""
    gpu_hour: Money | None = Field(default=None, ge=0)
    """One GPU for one hour, for training and for hosting."""
    endpoints: dict[str, TokenPrice] = Field(default_factory=dict)
    """Token prices by the name of an arm, or by the name of the endpoint's model."""
    labelling: Money = Field(default=0.0, ge=0)
    """Paid once for labelled rows."""
    development_hours: float = Field(default=0.0, ge=0)
    """Hours of work that tuning costs once, beyond those of a prompt."""
    development_hourly: Money = Field(default=0.0, ge=0)
    """One hour of that work."""

    @field_validator("as_of")
    @classmethod
    def as_of_is_a_day(cls, value: str) -> str:
        try:
            date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is no day; write it as 2026-01-31") from error
        return value


class Hosting(Section):
    """How local models are served."""

    gpus_per_replica: PositiveInt = 1
    """GPUs that one copy of the model takes."""
    utilisation: float = Field(default=0.6, gt=0, le=1)
    """Share of the measured throughput that can be used: requests do not come evenly."""
    hours_per_day: float = Field(default=24.0, gt=0, le=24)
    """Hours a day that the replicas run, are paid for, and take requests."""
    requests_per_second: PositiveFloat | dict[str, PositiveFloat] | Literal["auto"] = "auto"
    """Throughput of one replica, one number or one by arm; auto: as eval measured it on its own machine."""


class DecideSection(Section):
    """Prompting against tuning, on the answers that eval has graded."""

    metric: str = "auto"
    """Quality metric that decides; auto: `primary` of eval/scores.json."""
    target: float = Field(default=0.95, gt=0, lt=1)
    """Quality at which a prompt is enough, shown by the lower bound of its interval."""
    requests_per_day: PositiveFloat | None = None
    """Volume expected."""
    latency_limit_s: PositiveFloat | None = None
    """Longest allowed latency of 95% of the requests, in seconds."""
    lifetime_days: PositiveFloat = 90.0
    """Days until the model is tuned again: what is paid once is spread over them."""
    prices: Prices | None = None
    """Without prices the verdict rests on quality and latency."""
    hosting: Hosting = Hosting()
    """How local models are served."""
    training_hours: float | Literal["auto"] = Field(default="auto")
    """GPU hours of one tuning; auto: those of the run."""
    fallback: str | float | None = None
    """Who answers where an answer is invalid: the name of an arm, or the cost of one such answer."""
    cache_prompts: bool = True
    """The endpoint keeps the prefix that all prompts share, at its cached price."""
    batch_discount: float = Field(default=0.0, ge=0, lt=1)
    """Share taken off token prices for requests that can wait."""
    providers: list[Provider] | Literal["auto"] = "auto"
    """Hosted tuning services that the data is checked against; auto: all that are known."""
    export_providers: list[Provider] = Field(default_factory=list)
    """Services for which decide/providers/ gets files in their format."""

    @field_validator("training_hours")
    @classmethod
    def training_takes_time(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and value < 0:
            raise ValueError(f"{value} hours; give 0 or more, or auto")
        return value

    @field_validator("fallback")
    @classmethod
    def fallback_costs(cls, value: str | float | None) -> str | float | None:
        if isinstance(value, float) and value < 0:
            raise ValueError(f"{value} is less than nothing; give the cost of one answer, or the name of an arm")
        return value
