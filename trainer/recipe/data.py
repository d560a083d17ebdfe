"""Define `data` and `pack`: which rows, and how they are cleaned and split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from trainer.recipe.base import Section
from trainer.recipe.clean import Clean
from trainer.recipe.lint import Lint
from trainer.recipe.pii import Pii

Format = Literal[
    "auto",
    "messages",
    "sharegpt",
    "dialog",
    "gemini",
    "openai_batch",
    "alpaca",
    "prompt_completion",
    "rag",
    "preference",
    "openai_preference",
    "two_answers",
    "ranked",
    "ranked_pairs",
    "kto",
    "text",
    "tokens",
]
"""Layouts of rows; `trainer.data.rows.layouts` says what each holds and what becomes of it."""

HUB_PREFIX = "hub:"


class Source(Section):
    """Rows of one file, folder or data set."""

    path: str
    """`.jsonl`, `.json`, `.csv`, `.tsv`, `.txt` or `.md` file (`.gz`, `.zst`, `.bz2` or `.xz` may follow), `.parquet`
    or `.arrow` file, a pattern (`parts/*.jsonl`), a folder of them, a folder written by `save_to_disk`, or
    `hub:OWNER/NAME`. A `.txt` or `.md` file is one document."""
    subset: str | None = None
    """Configuration of a data set of the hub."""
    split: str | None = None
    """Split of a data set of the hub, of a saved one or of a JSON file with several lists of rows; needed where there
    are several."""
    revision: str | None = None
    """Commit, tag or branch of a data set of the hub; a commit makes the run repeatable."""
    format: Format = "auto"
    """Layout of the rows; auto: told from each row's columns. docs/data.md lists them."""
    mapping: dict[str, str] = Field(default_factory=dict)
    """Other column names, as `our name: column in the file`, for example `prompt: question`; dots lead into objects
    and lists: `completion: answers.0.text`. An empty column name leaves a column out: `context: ""`."""
    repeat: float = Field(default=1.0, gt=0.0, le=100.0)
    """Passes over this source in one epoch; 0.5 is a seeded half. Training rows only."""

    @model_validator(mode="after")
    def data_set_keys_fit(self) -> Source:
        is_hub = self.path.startswith(HUB_PREFIX)
        for name in () if is_hub else ("subset", "revision"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is for data sets of the hub, and path does not begin with {HUB_PREFIX}")
        return self


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


class Semantic(Section):
    """Rows that say the same in other words, found by sentence embeddings; only reported."""

    model: str = "auto"
    """Folder of a sentence-transformers model; auto: the one that the extra `semantic` brings."""
    threshold: float = Field(default=0.9, ge=0.5, le=1.0)
    """Cosine similarity from which two rows are listed."""
    max_rows: int = Field(default=20_000, ge=2, le=200_000)
    """Rows that are compared; of more, evenly spaced ones."""


def _read_near(value: object) -> object:
    """Take `off` as YAML 1.1 readers write it."""
    return "off" if value is False else value


Near = Annotated[Literal["drop", "report", "off"], BeforeValidator(_read_near)]


class Dedupe(Section):
    """Removal of repeated rows."""

    exact: bool = True
    """Drop rows whose normalised content (Unicode, case and space) is the same."""
    near: Near = "drop"
    """Drop rows from which another row differs in nothing that decides, only report them, or do not look for similar
    rows at all: then similar rows are not kept on one side of the split either. Rows that differ in a number, code,
    name, negation or label stay, however alike they are."""
    threshold: float = Field(default=0.7, ge=0.5, le=1.0)
    """Jaccard similarity from which rows are compared word by word."""
    group_threshold: float = Field(default=0.5, ge=0.3, le=1.0)
    """Similarity from which rows stay on one side of the split."""
    semantic: Semantic | None = None
    """Also list pairs of rows that mean the same, `{}` for the defaults; needs the extra `semantic`."""

    @model_validator(mode="after")
    def groups_hold_duplicates(self) -> Dedupe:
        if self.group_threshold > self.threshold:
            raise ValueError(f"group_threshold {self.group_threshold} is above threshold {self.threshold}")
        return self


class Contamination(Section):
    """Training rows that give away what the model is tested on."""

    files: list[str] = Field(default_factory=list)
    """Files of benchmarks and suites that training rows must not repeat."""
    exact: bool = True
    """Look for the same prompt."""
    near: bool = True
    """Look for near duplicates (`data.dedupe.threshold`), in the held-out file too."""
    ngram: int = Field(default=13, ge=0, le=100)
    """Look for runs of so many words; 0 for not at all. Runs shared with held-out rows are reported only."""
    action: Literal["error", "drop", "report"] = "error"
    """Stop, leave the training row out, or only report."""


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
    stratify: str | None = None
    """Field of the row (label, class) whose shares are the same on every side, as far as groups allow."""
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
    clean: Clean = Clean()
    """Repairs of text and turns."""
    pii: Pii = Pii()
    """Personal data and secrets."""
    dedupe: Dedupe = Dedupe()
    """Removal of repeated rows."""
    split: Split = Split()
    """How rows are divided."""
    contamination: Contamination = Contamination()
    """Training rows against what the model is tested on."""
    lint: Lint = Lint()
    """Checks of the rows."""
    max_rejected: float = Field(default=0.05, ge=0.0, le=1.0)
    """Largest share of rows that may be unreadable or malformed before the stage fails; duplicates do not count."""


class PackSection(Section):
    """From rows to token ids and loss masks."""

    max_length: int = Field(default=2048, ge=8)
    """Longest row, and length of a pack, in tokens."""
    loss_on: Literal["assistant", "last_turn", "completion", "all"] = "assistant"
    """Which tokens are trained: every assistant turn with its end token, the last one only, or everything."""
    loss_on_reasoning: Literal["all", "written", "none"] = "all"
    """Which reasoning of these answers is trained: all with its tags, only where there is some (the empty
    `<think></think>` that a template writes is context), or none: only what follows the reasoning is trained."""
    overlong: Literal["error", "drop", "truncate_prompt"] = "error"
    """What happens to rows over `max_length`; a target is never cut."""
    packing: bool | Literal["auto"] = "auto"
    """Put several rows into one sequence, without attention between them; auto: from 1,000 rows on."""
