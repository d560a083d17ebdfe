"""Define `data.lint`: thresholds of the checks, and rules that are silenced or weighed otherwise."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from trainer.recipe.base import Section
from trainer.shapes.report import Severity

RuleId = Annotated[str, StringConstraints(pattern=r"^[FSQBPT]\d{3}$")]


class Lint(Section):
    """Checks of the rows; a finding of severity `error` ends `trainer data`, or `trainer pack`, with exit code 3."""

    ignore: list[RuleId] = Field(default_factory=list)
    """Rules that are not reported, such as `[Q007]`."""
    severity: dict[RuleId, Severity] = Field(default_factory=dict)
    """Other severities, such as `{B001: error}`."""
    serving_system_prompt: str | None = None
    """The system prompt that the served model will be given; rows with another one are reported."""
    min_rows: int = Field(default=50, ge=0)
    """Fewest training rows without a finding."""
    min_heldout_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Smallest share of held-out rows without a finding."""
    min_heldout_rows: int = Field(default=10, ge=0)
    """Fewest held-out rows without a finding."""
    max_refusal_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Largest share of answers that decline or ask back; more of them teach over-refusal."""
    max_class_ratio: float = Field(default=10.0, ge=1.0)
    """Largest ratio of the rows of the largest class to those of the smallest."""
    min_class_rows: int = Field(default=5, ge=0)
    """Fewest rows of a class without a finding."""
    max_same_answer: float = Field(default=0.5, ge=0.0, le=1.0)
    """Largest share of rows with the very same answer."""
    max_repeated_answer: float = Field(default=0.2, ge=0.0, le=1.0)
    """From this share of rows with the very same answer on they are reported, where the rows are no classification."""
    max_stock_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Largest share of longer answers that the same sentence opens or ends."""
    max_same_opening: float = Field(default=0.5, ge=0.0, le=1.0)
    """Largest share of answers that begin, or end, with the same words."""
    max_chosen_longer: float = Field(default=0.75, ge=0.5, le=1.0)
    """Largest share of preference pairs whose chosen (or whose rejected) answer is the longer one."""
    min_label_share: float = Field(default=0.2, ge=0.0, le=0.5)
    """Smallest share of good, or of bad, answers in rows with a true/false label."""
    min_language_share: float = Field(default=0.05, ge=0.0, le=0.5)
    """A language with a smaller share of the rows is reported as a minority."""
    max_mismatch_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Up to this share, answers in another language than their prompt are reported; more of them are a translation."""
    max_unfinished_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Up to this share, prose that ends in mid-sentence is reported; more of it is the style of the data."""
    min_json_share: float = Field(default=0.8, ge=0.0, le=1.0)
    """From this share of JSON answers on, the others are reported; the same share makes keys and types usual."""
    max_overlong_share: float = Field(default=0.02, ge=0.0, le=1.0)
    """Largest share of training rows that `pack.overlong` drops or cuts without a warning."""
    min_pack_fill: float = Field(default=0.85, ge=0.0, le=1.0)
    """Smallest share of the packs that holds tokens without a warning."""
    min_steps: int = Field(default=20, ge=0)
    """Fewest optimizer steps of the training without a warning."""
    max_rows_listed: int = Field(default=5, ge=0, le=100)
    """Rows named beside each finding."""
