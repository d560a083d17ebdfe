"""Define `eval`: how the result is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.recipe.arms import Arm, ArmName, Endpoint, written_out
from trainer.recipe.base import Section
from trainer.recipe.gates import BEST_PROMPTED, Gate
from trainer.recipe.metrics import Grader, GraderName

MeasuredMetric = Literal["loss", "preference_accuracy", "preference_margin"]
"""Measured from likelihoods, not from answers."""


class Sampling(Section):
    """Answers drawn at random instead of the most likely ones."""

    temperature: float = Field(default=1.0, gt=0, le=5)
    """Above 1 more varied, below 1 less."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the most likely tokens that together have this probability."""
    seed: int = Field(default=0, ge=0)
    """Same seed, same answers, whatever the batch."""


class Retention(Section):
    """The forgetting meter: base against tuned on prompts that have nothing to do with the task."""

    prompts: str | None = None
    """Text file with one prompt a line; by default 40 that are shipped."""
    num_prompts: int = Field(default=32, ge=0, le=1000)
    """Prompts used; 0 for none."""
    max_new_tokens: int = Field(default=32, ge=1, le=512)
    """Tokens of the base's answers that are compared."""


class EvalSection(Section):
    """All arms on the same held-out rows, with the same template, decoding and graders."""

    arms: list[ArmName | Arm] | Literal["auto"] = "auto"
    """What is measured; auto: base, tuned, and start where `adapter.init_from` is set."""
    metrics: list[GraderName | MeasuredMetric | Grader] | Literal["auto"] = "auto"
    """Graders, the first one deciding; auto: what fits the reference answers."""
    turns: Literal["auto", "last", "all"] = "auto"
    """Answers of a conversation that are asked for, each after its true history; auto: the last, and all tool calls."""
    max_rows: int = Field(default=1000, ge=1)
    """Held-out rows used; above it a seeded sample."""
    max_new_tokens: PositiveInt | Literal["auto"] = "auto"
    """Longest answer; auto: twice the longest reference answer, at least 32."""
    sampling: Sampling | None = None
    """Random answers; by default the most likely one."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Rows generated together; auto: by memory on a card, up to 64 on a CPU."""
    engine: Literal["auto", "transformers", "continuous"] = "auto"
    """What generates: transformers in batches of ours, or in its continuous ones; auto: those on CUDA."""
    latency_rows: int = Field(default=10, ge=0)
    """Rows answered one by one for the latency figures."""
    concurrency: int = Field(default=8, ge=1, le=512)
    """Requests at a time, for throughput and for endpoints."""
    slices: list[str] = Field(default_factory=list)
    """Fields of the rows whose values are scored apart."""
    suites: list[str] = Field(default_factory=list)
    """Regression suites, files like recipes/suites/general.yaml."""
    retention: Retention = Retention()
    """The forgetting meter."""
    judge: Endpoint | None = None
    """Model that grades for `llm_judge`; never the model under test."""
    gates: list[Gate] = Field(default_factory=list)
    """Conditions for export."""

    @property
    def all_arms(self) -> list[Arm]:
        """Return the arms written out; `arms` must be settled."""
        assert self.arms != "auto", "solve() settles arms"
        return [written_out(arm) for arm in self.arms]

    @model_validator(mode="after")
    def arms_have_names_of_their_own(self) -> EvalSection:
        names = [] if self.arms == "auto" else [arm.name for arm in self.all_arms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or (self.arms != "auto" and not names):
            raise ValueError(f"two arms are called {twice!r}" if twice else "name at least one arm")
        return self

    @model_validator(mode="after")
    def metrics_have_names_of_their_own(self) -> EvalSection:
        names = [] if self.metrics == "auto" else [m if isinstance(m, str) else m.title for m in self.metrics]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two metrics are called {twice!r}: give each its own `name`")
        if self.metrics != "auto" and not names:
            raise ValueError("name at least one metric")
        return self

    @model_validator(mode="after")
    def gates_have_their_slices(self) -> EvalSection:
        for gate in self.gates:
            missing = set(gate.slice or ()) - set(self.slices)
            if missing:
                raise ValueError(f"a gate on {gate.metric} looks at {missing.pop()!r}, which `slices` leaves out")
        return self

    @model_validator(mode="after")
    def gates_leave_a_value(self) -> EvalSection:
        """Refuse gates of one place whose limits no value can keep together."""
        limits: dict[object, tuple[float, float]] = {}
        for gate in self.gates:
            subject = (gate.metric, gate.arm, gate.suite, str(gate.slice))
            low, high = limits.get(subject, (-math.inf, math.inf))
            low = low if gate.min is None else max(low, gate.min)
            high = high if gate.max is None else min(high, gate.max)
            if low > high:
                raise ValueError(f"gates on {gate.metric} of {gate.arm} ask for at least {low:g} and at most {high:g}")
            limits[subject] = low, high
        return self

    @model_validator(mode="after")
    def gates_have_their_arms(self) -> EvalSection:
        names = {"base", "tuned"} if self.arms == "auto" else {arm.name for arm in self.all_arms}
        prompted = self.arms != "auto" and any(arm.is_prompted for arm in self.all_arms)
        for gate in self.gates:
            missing = {gate.arm, *([gate.vs] if gate.compares else [])} - names - {BEST_PROMPTED, "start"}
            if missing:
                raise ValueError(f"a gate on {gate.metric} needs the arm {sorted(missing)[0]}, which `arms` leaves out")
            if gate.compares and gate.vs == BEST_PROMPTED and not prompted:
                raise ValueError(f"a gate on {gate.metric} compares with {BEST_PROMPTED}, and `arms` has no such arm")
        return self

    @model_validator(mode="after")
    def draws_can_be_repeated(self) -> EvalSection:
        if self.engine == "continuous" and self.sampling is not None:
            raise ValueError("continuous batching cannot repeat draws: leave out `sampling`, or `engine: transformers`")
        return self

    @model_validator(mode="after")
    def the_judge_is_named(self) -> EvalSection:
        graders: Sequence[object] = [] if self.metrics == "auto" else self.metrics
        if self.judge is None and any(getattr(grader, "kind", grader) == "llm_judge" for grader in graders):
            raise ValueError("llm_judge needs a model that grades: give eval.judge")
        return self
