"""Define the metrics that run something in a process of its own: algebra, queries, programs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.recipe.metric import Keyed, Metric


class MathAnswer(Keyed):
    """The answer is mathematically the expected one: numbers, LaTeX, expressions, sets, intervals, matrices."""

    kind: Literal["math"] = "math"
    timeout_s: float = Field(default=5.0, gt=0, le=60)
    """Processor time of a comparison; an answer that takes longer is wrong."""


class Sql(Keyed):
    """The answer's query gives the rows of the expected one, both run on SQLite, read-only."""

    kind: Literal["sql"] = "sql"
    database: str | None = None
    """SQLite file, or file of SQL statements, that the queries of all rows run on."""
    tables: str = "tables"
    """Field of the row with SQL statements, or with the path of a file as in `database`, where that is not given."""
    order: Literal["auto", "strict", "ignore"] = "auto"
    """Whether rows must come in the expected order; auto: where the expected query sorts them."""
    columns: Literal["ordered", "any"] = "ordered"
    """any: the columns may come in another order. Their names never count."""
    rel_tolerance: float = Field(default=1e-9, ge=0)
    """Largest relative difference of numbers."""
    timeout_s: float = Field(default=5.0, gt=0, le=300)
    """Processor time of a query; one that takes longer is wrong."""


class Code(Metric):
    """The answer's Python passes the row's tests, run in a confined process."""

    kind: Literal["code"] = "code"
    run_answers: bool = False
    """Consent to running what a model wrote: must be true."""
    tests: str = "tests"
    """Field of the row with the tests: Python text, or a list of statements such as asserts."""
    prefix: str | None = None
    """Field of the row with code that stands before the answer, such as a signature that it continues."""
    entry_point: str = "entry_point"
    """Field of the row that names the function for tests which define `check(candidate)`; other tests need none."""
    timeout_s: float = Field(default=10.0, gt=0, le=600)
    """Processor time of an answer with its tests; on the clock it may take four times as long."""
    memory_mib: int = Field(default=1024, ge=64, le=65536)
    """Address space of the process, the interpreter included."""

    @model_validator(mode="after")
    def has_consent(self) -> Code:
        if not self.run_answers:
            raise ValueError("`code` runs what the model wrote: set `run_answers: true`, and read docs/eval.md first")
        return self
