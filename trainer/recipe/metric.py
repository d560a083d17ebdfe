"""Define what every metric has."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from trainer.recipe.arms import NAME_PATTERN
from trainer.recipe.base import Section

Scalar = str | int | float | bool | None


def compiled(pattern: str) -> str:
    """Return a pattern that is a regular expression.

    Raises:
        ValueError: It is none.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


class Metric(Section):
    """What every metric has."""

    higher_is_better: ClassVar[bool] = True
    is_share: ClassVar[bool] = True
    is_format: ClassVar[bool] = False

    kind: str
    """Which metric."""
    name: str | None = Field(default=None, pattern=NAME_PATTERN, max_length=60)
    """Its name in tables and gates; by default its kind."""
    when: dict[str, Scalar] | None = Field(default=None, min_length=1)
    """Only rows whose fields have these values are marked."""

    @property
    def title(self) -> str:
        """Name in tables and gates."""
        return self.name or self.kind


class Keyed(Metric):
    """A metric that compares with an expected value."""

    key: str | None = None
    """Field of the row that holds the expected value, or a list of them; otherwise the reference answer."""
