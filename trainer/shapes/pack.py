"""Types of pack/report.json: the rows as tokens."""

from __future__ import annotations

from typing_extensions import TypedDict

from trainer.shapes.report import LintFinding


class TokenHistogram(TypedDict):
    """Lengths of the training rows in bins of equal width."""

    edges: list[int]
    """(bins + 1,) tokens; a bin holds its lower edge and not its upper one."""
    counts: list[int]
    """(bins,) rows."""


class SplitRows(TypedDict):
    """Rows of which the model, as served, never sees one text with all answers."""

    rows: int
    examples: int
    """Texts of these rows, one for each answer that no other text has behind its served prompt."""
    tokens: int
    """Tokens of these texts."""
    tokens_whole: int
    """Tokens of the longest text of each of these rows."""
    answers: dict[str, int]
    """How answers are written -> number: by the `template`, with their reasoning in `<think>` `tags`, or behind the end
    of reasoning that the prompt opens (`closed`)."""


class PackReport(TypedDict):
    """pack/report.json; counts are of the training rows where no side is named."""

    rows: int
    examples: int
    """Texts: more than rows where rows are split."""
    split: SplitRows
    rows_validation: int
    rows_heldout: int
    dropped: dict[str, list[str]]
    """Side to `source:line` of rows that are too long."""
    tokens: int
    trained_tokens: int
    """Tokens that the loss counts."""
    longest: int
    """Tokens of the longest row."""
    items: int
    """Packs, or rows where nothing is packed."""
    is_packed: bool
    fill: float | None
    """Share of the packs that holds tokens, 0 to 1; None where nothing is packed."""
    stop_token_id: int
    """Token that ends most answers."""
    stop_token_ids: list[int]
    """All tokens that end answers."""
    histogram: TokenHistogram
    quantiles: list[int]
    """Tokens at 0, 5, 50, 95 and 100 % of the rows."""
    steps: int
    """Optimizer steps of the training."""
    lint: list[LintFinding]
    """Findings that need tokens, the worst first."""
