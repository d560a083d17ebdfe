"""Where an answer ends: the same in eval, in an export's proof and where the tuned model is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def longest_answer(limit: int | Literal["auto"], reference_tokens: Iterable[int]) -> int:
    """Return `eval.max_new_tokens`; auto is twice the longest reference answer.

    Args:
        limit: Of the recipe.
        reference_tokens: Tokens of the right answers as the template writes them, with their reasoning.
    """
    return limit if limit != "auto" else max(MIN_NEW_TOKENS, 2 * max(reference_tokens, default=0))


def tokens_of(predictions: Iterable[Mapping[str, Any]], tokenizer: Any) -> list[int]:
    """Return the tokens of the right answers in eval/predictions.jsonl; older runs did not count them."""
    lines = list(predictions)
    texts = [line["reference"] or "" for line in lines if not line.get("reference_tokens")]
    counted = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
    return [line["reference_tokens"] for line in lines if line.get("reference_tokens")] + counted
