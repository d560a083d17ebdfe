"""Report token counts of the training rows, for `trainer pack`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.lint.finding import CountedRows, Finding
from trainer.recipe.lint import Lint
from trainer.shapes.report import Severity

NUM_TOKENS = 3
"""Tokens in a message."""


@dataclass(frozen=True)
class LongRows:
    """Training rows over `pack.max_length`, cut or dropped by `pack.overlong`."""

    rows: CountedRows
    num_dropped: int
    """The others are cut."""
    tokens_lost: int
    prompts: CountedRows
    """Those of them with `max_length` tokens or more before the first trained one."""


@dataclass(frozen=True)
class TokenFacts:
    """Token counts of the training rows.

    Args:
        max_length: `pack.max_length`.
        lengths: (rows,) tokens of each row left.
        num_trained: trained tokens of all rows.
        long: rows over `max_length`.
        num_packs: packs of one epoch; 0 without packing.
        fill: share of the packs with tokens, 0 to 1.
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
        detail = f"{facts.num_packs:,} packs of {facts.max_length:,} tokens, {facts.fill:.1%} full"
        # A single pack cannot be any fuller.
        yield _figure("T002", detail, facts.num_packs, facts.fill < section.min_pack_fill and facts.num_packs > 1)
    few = facts.num_steps < section.min_steps
    detail = f"{facts.num_steps:,} of {facts.batch_size} items, an epoch has {facts.num_items:,} items"
    detail += f" (at least {section.min_steps} steps)" if few else ""
    lower = "lower train.global_batch_size, or " if facts.batch_size > 1 else ""
    fix = f"{lower}raise {facts.limit}: the schedule needs steps"
    yield _figure("T003", detail, facts.num_steps, few, fix)


def _figure(rule: str, detail: str, count: int, is_fault: bool, fix: str | None = None) -> Finding:
    """Return a figure, which is a fault with a fix only if it is out of bounds."""
    if not is_fault:
        return Finding(rule, detail, count, fix="", is_fault=False)
    return Finding(rule, detail, count, severity="warning", fix=fix)


def quote_findings(
    refs: Sequence[str], tokens: Mapping[str, int], ends: Sequence[str], total: int
) -> Iterator[Finding]:
    """Yield F019 for special tokens of the model inside of rows.

    Args:
        refs: rows with such tokens.
        tokens: token -> rows.
        ends: those of them with an end token at the end of an answer.
        total: number of all rows.
    """
    if refs:
        most = sorted(tokens, key=lambda token: (-tokens[token], token))
        detail = (
            f"{len(refs)} rows quote {', '.join(most[:NUM_TOKENS])}: trained as plain text, and read as plain text "
            "by trainer chat, predict and eval; other servers may take them for tokens"
        )
        yield Finding("F019", detail, len(refs), len(refs) / total, tuple(refs), "info", "")
    if ends:
        detail = (
            f"{len(ends)} rows have answers that end with an end token of their own, which is trained as plain text"
        )
        fix = "name it in data.clean.extra_special_tokens, if it is left over from a rendering"
        yield Finding("F019", detail, len(ends), len(ends) / total, tuple(ends), "warning", fix)


def _long(facts: TokenFacts, section: Lint) -> Iterator[Finding]:
    long = facts.long
    total = len(facts.lengths) + long.num_dropped
    if long.rows.count:
        share = long.rows.count / total
        cut = long.rows.count - long.num_dropped
        actions = ((long.num_dropped, "dropped"), (cut, "cut"))
        summary = " and ".join(f"{count} {action}" for count, action in actions if count)
        detail = f"over {facts.max_length:,} tokens: {summary}, {long.tokens_lost:,} tokens lost"
        severity: Severity | None = "warning" if share > section.max_overlong_share else None
        yield Finding("Q010", detail, long.rows.count, share, long.rows.rows, severity)
    if long.prompts.count:
        detail = f"{long.prompts.count} prompts of {facts.max_length:,} tokens or more before the first trained token"
        yield Finding("Q011", detail, long.prompts.count, long.prompts.count / total, long.prompts.rows)


def _totals(facts: TokenFacts) -> Finding:
    total = int(facts.lengths.sum())
    low, median, high = np.quantile(facts.lengths, [0.05, 0.5, 0.95], method="nearest").tolist()
    detail = (
        f"{total:,}, of them {facts.num_trained:,} trained ({facts.num_trained / max(total, 1):.1%}); 90% of the rows "
        f"have {low:,} to {high:,}, median {median:,}, longest {int(facts.lengths.max()):,}"
    )
    return Finding("T001", detail, len(facts.lengths), is_fault=False)
