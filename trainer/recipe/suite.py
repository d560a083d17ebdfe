"""Define a regression suite: items with graders, kept apart from any one recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.recipe.base import Section
from trainer.recipe.metrics import Grader


class Item(Section):
    """One question of a suite."""

    id: str = Field(min_length=1)
    """Name of the item, unique in its suite."""
    prompt: str | None = None
    """What the user asks."""
    messages: list[dict[str, Any]] | None = Field(default=None, min_length=1)
    """The conversation before the answer, instead of `prompt`."""
    reference: str | None = None
    """The right answer, for graders that compare."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """What graders read beside the reference: choices, instruction_id_list, kwargs, expected, ..."""
    graders: list[Grader] = Field(default_factory=list)
    """Graders of this item; by default those of the suite."""

    @model_validator(mode="after")
    def prompt_or_messages(self) -> Item:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of `prompt` and `messages`")
        return self


class ItemFile(Section):
    """Items in a JSONL file: the keys of an item, every other key is one of its `fields`."""

    path: str
    """The file, relative to the suite."""
    graders: list[Grader] = Field(default_factory=list)
    """Graders of these items; by default those of the suite."""
    max_items: PositiveInt | None = None
    """Only so many, from the first on."""


class LmEvalTasks(Section):
    """Tasks of lm-evaluation-harness, from local task files: the extra `lm-eval`."""

    lm_eval: list[str] = Field(min_length=1)
    """Names of the tasks."""
    include_path: str
    """Folder of task files (YAML), relative to the suite."""
    limit: PositiveInt | None = None
    """Items of each task."""


class Suite(Section):
    """Questions that must still be answered after tuning."""

    suite_version: Literal[1]
    """Version of this format."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)
    """Its name in tables and gates."""
    description: str = ""
    """What it is for."""
    must_pass: bool = False
    """Every item must be right."""
    system_prompt: str | None = None
    """System turn of every item that has none."""
    max_new_tokens: PositiveInt = 128
    """Longest answer."""
    graders: list[Grader] = Field(default_factory=list)
    """Graders of items that name none."""
    items: list[Item] = Field(default_factory=list)
    """Items written here."""
    sources: list[Annotated[ItemFile | LmEvalTasks, Field(union_mode="smart")]] = Field(default_factory=list)
    """Files of items, and tasks of lm-evaluation-harness."""

    @model_validator(mode="after")
    def has_items(self) -> Suite:
        if not self.items and not self.sources:
            raise ValueError("a suite needs `items` or `sources`")
        return self
