"""Mask keys and tokens that stand in a recipe or on the command line, before any of it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar, cast

from trainer.recipe import Recipe

LONG_WORD = re.compile(r"[A-Za-z0-9_.~-]{18,}")
"""Words that may be keys; most recipes have none, and then no pattern is compiled."""
UNMISTAKABLE = re.compile(
    r"(?<![A-Za-z0-9])(hf_|ghp_|gho_|ghs_|github_pat_|glpat-|sk-ant-|sk-proj-|xox[abpr]-|AKIA|ASIA)[A-Za-z0-9_-]{16,}"
)
"""Leads that nothing but a key has, however its body looks."""

Json = TypeVar("Json")


def without_secrets(value: Json) -> Json:
    """Return a JSON value or a text with every key and token of a known form masked.

    Example:
        >>> without_secrets({"run_name": "hf_QmZtVbNyXcKdLwRsTfGhJp", "seed": 42})
        {'run_name': 'hf_***', 'seed': 42}
    """
    match value:
        case str():
            return cast("Json", _masked(value))
        case dict():
            return cast("Json", {name: without_secrets(entry) for name, entry in value.items()})
        case list() | tuple():
            return cast("Json", type(value)(without_secrets(entry) for entry in value))
    return value


def recipe_without_secrets(recipe: Recipe) -> Recipe:
    """Return a recipe whose texts hold no keys: all that is written of a run comes from it."""
    values = recipe.model_dump()
    masked = without_secrets(values)
    return recipe if masked == values else Recipe.model_validate(masked)


def _masked(text: str) -> str:
    if not LONG_WORD.search(text):
        return text
    for start, end in reversed(list(_spans(text))):
        lead = re.match(r"[A-Za-z]{2,10}[-_]", text[start:end])
        text = f"{text[:start]}{lead[0] if lead else ''}***{text[end:]}"
    return text


def _spans(text: str) -> Iterator[tuple[int, int]]:
    from trainer.data.pii.detectors.secrets import KeyDetector  # noqa: PLC0415  compiles many patterns

    end = 0
    spans = [match.span() for match in UNMISTAKABLE.finditer(text)]
    spans += [(match.start, match.end) for match in KeyDetector().find(text)]
    for start, stop in sorted(spans):
        if start >= end:
            yield start, stop
            end = stop
