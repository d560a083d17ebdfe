"""Findings that need token counts: `trainer pack` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.lint.finding import Finding, Seen
from trainer.recipe.lint import Lint, Severity

NUM_TOKENS = 3
"""Tokens named in a message."""


@dataclass(frozen=True)
class LongRows:
    """Training rows over `pack.max_length`, and what `pack.overlong` did to them."""

    rows: Seen
    num_dropped: int
    """The others were cut."""
    tokens_lost: int
    prompts: Seen
    """Rows among them whose tokens before the first trained one fill the length alone."""


@dataclass(frozen=True)
class TokenFacts:
    """What `trainer pack` knows of the training rows.

    Args:
        max_length: `pack.max_length`.
        lengths: (rows,) tokens of each row that is left.
        num_trained: trained tokens of all of them.
        long: rows over `max_length`.
        num_packs: packs of one epoch; 0 where rows are not packed.
        fill: share of the packs that holds tokens.
        num_items: packs, rows or pairs of one epoch.
        batch_size: items of a step.
        num_steps: steps of the whole training.
        limit: key of the recipe that ends the training.
    """

    max_length: int
    lengths: NDArray[np.integer[Any]]
    num_trained: int
    long: LongRows
    num_packs: int
    fill: float
    num_items: int
    batch_size: int
    num_steps: int
    limit: Literal["train.num_train_epochs", "train.max_steps"] = "train.num_train_epochs"


def token_findings(facts: TokenFacts, section: Lint) -> Iterator[Finding]:
    """Yield the findings Q010, Q011 and T."""
    yield from _long(facts, section)
    yield _totals(facts)
    if facts.num_packs:
        said = f"{facts.num_packs:,} packs of {facts.max_length:,} tokens, {facts.fill:.1%} full"
        # What one pack leaves empty cannot be packed any better.
        yield _figure("T002", said, facts.num_packs, facts.fill < section.min_pack_fill and facts.num_packs > 1)
    few = facts.num_steps < section.min_steps
    said = f"{facts.num_steps:,} of {facts.batch_size} items, an epoch has {facts.num_items:,} items"
    least = f" (at least {section.min_steps} steps)" if few else ""
    lower = "lower train.global_batch_size, or " if facts.batch_size > 1 else ""
    fix = f"{lower}raise {facts.limit}: the schedule needs steps"
    yield _figure("T003", said + least, facts.num_steps, few, fix)


def _figure(rule: str, said: str, count: int, is_fault: bool, fix: str | None = None) -> Finding:
    """Return a figure that is always told, and is a finding with a fix where it is out of bounds."""
    if not is_fault:
        return Finding(rule, said, count, fix="", is_fault=False)
    return Finding(rule, said, count, severity="warning", fix=fix)


def quote_findings(
    places: Sequence[str], tokens: Mapping[str, int], ends: Sequence[str], total: int
) -> Iterator[Finding]:
    """Yield F019 for special tokens of the model that rows quote.

    Args:
        places: rows that do.
        tokens: token -> rows.
        ends: rows among them in which an answer ends with an end token of its own.
        total: rows.
    """
    if places:
        most = sorted(tokens, key=lambda token: (-tokens[token], token))
        said = (
            f"{len(places)} rows quote {', '.join(most[:NUM_TOKENS])}: trained as plain text, and read as plain text "
            "by trainer chat, predict and eval; other servers may take them for tokens"
        )
        yield Finding("F019", said, len(places), len(places) / total, tuple(places), "info", "")
    if ends:
        said = f"{len(ends)} rows have answers that end with an end token of their own, which is trained as plain text"
        fix = "name it in data.clean.extra_special_tokens, if it is left over from a rendering"
        yield Finding("F019", said, len(ends), len(ends) / total, tuple(ends), "warning", fix)


def _long(facts: TokenFacts, section: Lint) -> Iterator[Finding]:
    long = facts.long
    total = len(facts.lengths) + long.num_dropped
    if long.rows.count:
        share = long.rows.count / total
        cut = long.rows.count - long.num_dropped
        done = " and ".join(f"{count} {what}" for count, what in ((long.num_dropped, "dropped"), (cut, "cut")) if count)
        said = f"over {facts.max_length:,} tokens: {done}, {long.tokens_lost:,} tokens lost"
        severity: Severity | None = "warning" if share > section.max_overlong_share else None
        yield Finding("Q010", said, long.rows.count, share, long.rows.rows, severity)
    if long.prompts.count:
        said = f"{long.prompts.count} prompts of {facts.max_length:,} tokens or more before the first trained token"
        yield Finding("Q011", said, long.prompts.count, long.prompts.count / total, long.prompts.rows)


def _totals(facts: TokenFacts) -> Finding:
    total = int(facts.lengths.sum())
    low, median, high = np.quantile(facts.lengths, [0.05, 0.5, 0.95], method="nearest").tolist()
    said = (
        f"{total:,}, of them {facts.num_trained:,} trained ({facts.num_trained / max(total, 1):.1%}); 90% of the rows "
        f"have {low:,} to {high:,}, median {median:,}, longest {int(facts.lengths.max()):,}"
    )
    return Finding("T001", said, len(facts.lengths), is_fault=False)
