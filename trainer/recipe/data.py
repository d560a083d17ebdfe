"""Which rows, and how they are cleaned and split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.recipe.base import Section

Format = Literal["auto", "messages", "prompt_completion", "alpaca", "sharegpt", "preference", "text"]


class Source(Section):
    """One file of rows."""

    path: str
    """`.jsonl`, `.json`, `.csv` or `.parquet` file."""
    format: Format = "auto"
    """Layout of the rows; auto: told from each row's keys."""
    mapping: dict[str, str] = Field(default_factory=dict)
    """Other column names, as `our name: column in the file`, for example `prompt: question`."""
    repeat: float = Field(default=1.0, gt=0.0, le=100.0)
    """Passes over this source in one epoch; 0.5 is a seeded half. Training rows only."""


class SystemPrompt(Section):
    """One system prompt for all rows."""

    text: str | None = None
    """The prompt itself."""
    path: str | None = None
    """Text file that holds the prompt."""
    when: Literal["missing", "replace"] = "missing"
    """Add it where a row has none, or put it in place of what the row has."""

    @model_validator(mode="after")
    def text_or_path(self) -> SystemPrompt:
        if (self.text is None) == (self.path is None):
            raise ValueError("give exactly one of `text` and `path`")
        return self


class Dedupe(Section):
    """Removal of repeated rows."""

    exact: bool = True
    """Drop rows whose normalised content (Unicode, case and space) is the same."""


class Split(Section):
    """How rows are divided; the same prompt is never on two sides."""

    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the rows for validation loss, best checkpoint and early stopping."""
    heldout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Share of the rows kept for the final evaluation; training never sees them."""
    validation_path: str | None = None
    """File of validation rows, instead of a share."""
    heldout_path: str | None = None
    """File of held-out rows, instead of a share."""
    by: str | None = None
    """Field of the row (customer, document, category) whose values stay on one side."""
    seed: int = 0
    """Seed of the split alone, so that seed sweeps keep the same held-out rows."""

    @model_validator(mode="after")
    def leaves_training_rows(self) -> Split:
        if self.validation + self.heldout >= 1.0:
            raise ValueError(f"validation {self.validation} + heldout {self.heldout} leave no training rows")
        return self


class DataSection(Section):
    """Rows in, three clean files out."""

    sources: list[Source] = Field(min_length=1)
    """Files that are read, in this order."""
    system_prompt: SystemPrompt | None = None
    """One system prompt for all rows, so that training and serving agree."""
    dedupe: Dedupe = Dedupe()
    """Removal of repeated rows."""
    split: Split = Split()
    """How rows are divided."""
    max_rejected: float = Field(default=0.05, ge=0.0, le=1.0)
    """Largest share of rows that may be unreadable or malformed before the stage fails; duplicates do not count."""


class PackSection(Section):
    """From rows to token ids and loss masks."""

    max_length: int = Field(default=2048, ge=8)
    """Longest row, and length of a pack, in tokens."""
    loss_on: Literal["assistant", "last_turn", "completion", "all"] = "assistant"
    """Which tokens are trained: every assistant turn with its end token, the last one only, or everything."""
    overlong: Literal["error", "drop", "truncate_prompt"] = "error"
    """What happens to rows over `max_length`; a target is never cut."""
    packing: bool | Literal["auto"] = "auto"
    """Put several rows into one sequence, without attention between them; auto: from 1,000 rows on."""
