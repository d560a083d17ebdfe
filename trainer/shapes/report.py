"""Types of data/report.json: what became of the rows, and what was found in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired

from typing_extensions import TypedDict

Severity = Literal["error", "warning", "info"]
Action = Literal["error", "drop", "report"]


class SourceUsage(TypedDict):
    """Layouts and columns of one source."""

    rows: int
    read_as: list[str]
    """How files are read whose names do not say it."""
    formats: dict[str, int]
    """Layout to rows."""
    used: dict[str, int]
    """Column that rows are made of to rows."""
    unused: dict[str, int]
    """Column that is left out to rows."""
    notes: dict[str, int]
    """What was done to values, as an id, to rows."""


class FrequentAnswer(TypedDict):
    """The final answer that most training rows share."""

    text: NotRequired[str]
    """Missing where it is long."""
    share: float
    """Of the training rows with an answer, 0 to 1."""


class CleanedRows(TypedDict):
    """What one rule of cleaning changed."""

    count: int
    """Rows."""
    strings: int
    samples: list[list[str]]
    """[before, after] of the first texts."""


class PersonalDataFound(TypedDict):
    """Personal data of one type."""

    count: int
    """Values."""
    rows: int
    action: str
    """report, redact, pseudonymise, mask, drop or error."""
    samples: list[str]
    """The first values, masked."""


class RowPair(TypedDict):
    """Two rows beside each other, with excerpts of both in which personal data is masked."""

    row: str
    """`source:line`."""
    of: str
    """`source:line` of the row that it is compared with."""
    text: str
    of_text: str
    similarity: NotRequired[float]
    """0 to 1."""
    reason: NotRequired[str]
    """In words or as an id."""
    runs: NotRequired[int]
    """Shared runs of words."""


class Duplicates(TypedDict):
    """Copies among the rows."""

    exact: int
    """Rows left out because another one is the same."""
    near: int
    """Rows that say nearly the same as another one."""
    near_action: str
    """off, report or drop."""
    samples: list[RowPair]


class Conflicts(TypedDict):
    """Rows with one prompt and several answers."""

    groups: int
    rows: int
    places: list[list[str]]
    """`source:line` of the rows of each group."""
    samples: list[RowPair]


class Patterns(TypedDict):
    """Rows that differ in a few slots only."""

    patterns: int
    rows: int
    sizes: list[int]
    """Rows of the largest patterns."""
    samples: list[RowPair]


class SplitSummary(TypedDict):
    """How the rows were split into sides."""

    groups: int
    """Groups that stay on one side each."""
    largest_group: int
    """Rows."""
    near_pairs_cut: int
    """Pairs of similar rows that came to stand on different sides."""


class HeldoutRuns(TypedDict):
    """Training rows that share runs of words with held-out rows."""

    rows: int
    """Training rows."""
    heldout_rows_compared: int
    samples: list[RowPair]


class ContaminationSummary(TypedDict):
    """Training rows that give away rows of benchmarks or of given held-out files."""

    action: Action
    hits: dict[str, int]
    """exact, near or ngram to training rows."""
    samples: list[RowPair]
    heldout_ngram: NotRequired[HeldoutRuns]
    """Missing where nothing was compared."""


class SemanticPairs(TypedDict):
    """Rows that an embedding model finds alike and no other step did."""

    rows_compared: int
    threshold: float
    """Least cosine."""
    pairs: int
    pairs_across_sides: int
    places: list[list[str]]
    """[`source:line`, `source:line`] of the most similar pairs."""
    samples: list[RowPair]


class LintFinding(TypedDict):
    """A rule that the rows break."""

    rule: str
    severity: Severity
    title: str
    detail: str
    count: int
    """Rows concerned; 0 where the finding is about something missing."""
    share: float | None
    """`count` over the rows that could be concerned, 0 to 1."""
    rows: Sequence[str]
    """`source:line` of the first rows; of pairs `a = b`."""
    fix: str
    """Empty where nothing is left to do."""


class LengthHistogram(TypedDict, total=False):
    """Lengths in bins whose edges double; an empty object where there are no rows."""

    edges: list[int]
    """(bins + 1,); a bin holds its lower edge and not its upper one."""
    counts: list[int]
    """(bins,) rows."""
    quantiles: list[int]
    """At 0, 5, 50, 95 and 100 %."""


class PromptUse(TypedDict):
    """A system prompt and its rows."""

    text: str
    rows: int


class FaultyRow(TypedDict):
    """A row that breaks many rules."""

    row: str
    """`source:line`."""
    rules: list[str]


class RowStatistics(TypedDict):
    """Distributions over the training rows."""

    prompt_chars: LengthHistogram
    answer_chars: LengthHistogram
    turns: dict[str, int]
    """Turns, as digits, to rows."""
    languages: dict[str, int]
    classes: dict[str, int]
    """Answer to rows, where the answers are few different ones."""
    system_prompts: list[PromptUse]
    worst_rows: list[FaultyRow]
    traits: dict[str, int]
    """refusal, clarification or tools to rows."""


class Arrangement(TypedDict):
    """How rows were compared and split."""

    split: SplitSummary
    contamination: ContaminationSummary
    semantic: NotRequired[SemanticPairs]
    """Where `data.dedupe.semantic` is set."""


class DataReport(Arrangement):
    """data/report.json; data/previous.json is the same of the data's previous version."""

    rows_read: int
    rows_train: int
    rows_validation: int
    rows_heldout: int
    rejected: dict[str, int]
    """Reason to rows left out."""
    rejected_rows: dict[str, list[str]]
    """Reason to `source:line` of the first rows."""
    formats: dict[str, dict[str, int]]
    """File to layout to rows."""
    sources: dict[str, SourceUsage]
    turns: dict[str, int]
    """Turns, as digits, to rows of all sides."""
    most_frequent_answer: FrequentAnswer | None
    clean: dict[str, CleanedRows]
    """By rule of cleaning."""
    pii: dict[str, PersonalDataFound]
    """By type of personal data."""
    duplicates: Duplicates
    conflicts: Conflicts
    patterns: Patterns
    lint: list[LintFinding]
    """The worst first."""
    stats: RowStatistics
