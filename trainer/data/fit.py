"""Check that the rows fit the method and the split of the recipe, before any time is spent on training."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from trainer.data.dataset import Rows, RowSet
from trainer.data.records.kinds import KTO, PAIR, TEXT, Side
from trainer.data.rejections import no_usable_rows
from trainer.errors import DataError
from trainer.recipe.method import Method

ONE_ANSWER = "to train a conversation beside its rejected answer, set data.sources[].format: messages"
"""What to do about rows that are read as pairs and meant as single ones."""


def check_kinds(row_set: RowSet, method: Method, *, has_system_prompt: bool) -> None:
    """Check that there are rows, all of one kind, and that they fit the method.

    Raises:
        DataError: naming the first row that does not fit.
    """
    kinds = row_set.table.columns["kind"][row_set.table.columns["side"] != Side.BENCHMARK]
    first = {kind: row_set.table.ref(int(np.argmax(kinds == kind))) for kind in np.unique(kinds).tolist()}
    if not first:
        listed = {reason: refs[0] for reason, refs in row_set.counts.listed.items()}
        raise no_usable_rows(row_set.counts.reasons, listed, f"; {row_set.counts.path} says why of each row")
    check_fit(first, method, has_system_prompt=has_system_prompt)


def check_fit(first: dict[int, str], method: Method, *, has_system_prompt: bool) -> None:
    """Check that the kinds of rows fit together, fit the method and fit `data.system_prompt`.

    Args:
        first: Kind of row to the position of its first row.
        method: The recipe's.
        has_system_prompt: The recipe sets `data.system_prompt`.

    Raises:
        DataError: They do not; the message names the first row that does not fit.
    """
    if judged := first.get(KTO):
        raise DataError(
            f"{judged}: an answer with a true/false label (KTO), and no method.kind uses such labels",
            hint="to train on every answer, set data.sources[].format: prompt_completion or messages; to learn from "
            "the labels, join good and bad answers of one prompt to pairs (chosen, rejected) and set method.kind: dpo",
        )
    pair = first.get(PAIR)
    single = next((ref for kind, ref in sorted(first.items()) if kind != PAIR), None)
    if pair and single:
        raise DataError(
            f"{pair} is a preference pair, {single} is not",
            hint=f"use one kind of rows in a run: split data.sources; {ONE_ANSWER}",
        )
    match method.shape:
        case "single":
            if pair:
                raise DataError(
                    f"{pair}: a preference pair, but method.kind is {method.kind}",
                    hint=f"set method.kind: dpo; {ONE_ANSWER}",
                )
        case "pair":
            if single:
                raise DataError(
                    f"{single}: no preference pair, but method.kind is {method.kind}",
                    hint="give rows with prompt, chosen and rejected (where `output` holds two texts, the better one "
                    "first, set data.sources[].format: preference), or set method.kind: sft",
                )
        case _:
            assert_never(method.shape)
    if TEXT in first and has_system_prompt:
        raise DataError(
            f"{first[TEXT]}: a text row has no place for data.system_prompt", hint="remove data.system_prompt"
        )


def check_split(row_set: RowSet, sides: dict[str, Rows], num_groups: int) -> None:
    """Refuse a split whose share was asked for and came out empty: evaluation would find out after the training.

    Raises:
        DataError: A side is empty.
    """
    split = row_set.data.split
    if not sides["train"].size:
        raise DataError(
            "no training rows are left", hint="see data.sources and data.split; every row was dropped or set aside"
        )
    for side, share in (("heldout", split.heldout), ("validation", split.validation)):
        if share and not sides[side].size:
            raise DataError(
                f"data.split.{side} is {share:g} and no row could be set aside: {_why_undivided(row_set, num_groups)}",
                hint=f"bring more rows, give data.split.{side}_path, or set data.split.{side}: 0",
            )


def _why_undivided(row_set: RowSet, num_groups: int) -> str:
    """Say what is left of the rows, and what ties these together."""
    rows = row_set.rows[Side.SOURCE]
    num_copies = row_set.counts.reasons["exact_duplicate"] + row_set.counts.reasons["near_duplicate"]
    left = f"{rows.size} rows are left after {num_copies} copies were removed" if num_copies else f"{rows.size} rows"
    if rows.size == 1:
        return left.replace("rows are", "row is", 1).replace("1 rows", "1 row", 1)
    if np.unique(row_set.table.columns["prompt"][rows]).size == 1:
        return f"{left}, and all of them ask the same prompt (system turns do not count)"
    if num_groups == 1:
        by_values = f"values of data.split.by {row_set.data.split.by!r} or " if row_set.data.split.by else ""
        return f"{left}, and shared {by_values}prompts and near copies tie all of them together"
    return f"{left} in {num_groups} groups that stay on one side each"
