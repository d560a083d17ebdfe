"""Where an answer ends: the same in eval, in an export's proof and where the tuned model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

MIN_NEW_TOKENS = 32
"""Longest answer at least, where references tell it: a model that says too much must be seen to do so."""


def stop_ids(pack_report: Mapping[str, Any], tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the one that was trained, and the tokenizer's own.

    Args:
        pack_report: pack/report.json.
        tokenizer: Of the run.
    """
    eos = tokenizer.eos_token_id
    return sorted({int(pack_report["stop_token_id"])} | ({int(eos)} if eos is not None else set()))


def longest_answer(limit: int | Literal["auto"], references: Sequence[str], tokenizer: Any) -> int:
    """Return `eval.max_new_tokens`; auto is twice the longest reference answer.

    Args:
        limit: Of the recipe.
        references: Right answers of the held-out rows.
        tokenizer: Of the run.
    """
    if limit != "auto":
        return limit
    ids = tokenizer(list(references), add_special_tokens=False)["input_ids"] if references else []
    return max(MIN_NEW_TOKENS, 2 * max(map(len, ids), default=0))
