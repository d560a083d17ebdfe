"""Tell where an answer ends, for eval, the proof of an export, and the tuned model in use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainer.shapes.predictions import Prediction

MIN_NEW_TOKENS = 32
"""Least limit of `auto`: an answer that is too long must show."""


def stop_ids(pack_report: Mapping[str, object], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: those that were trained, and the tokenizer's own."""
    eos = tokenizer.eos_token_id
    trained = pack_report["stop_token_id"]
    assert isinstance(trained, int), "pack always writes it"
    others = pack_report.get("stop_token_ids", [])  # absent in older runs
    assert isinstance(others, list)
    return sorted({trained, *others} | ({int(eos)} if eos is not None else set()))


def longest_answer(limit: int | Literal["auto"], reference_tokens: Iterable[int]) -> int:
    """Return `eval.max_new_tokens`; auto is twice the longest reference answer.

    Example:
        >>> longest_answer("auto", [10, 40]), longest_answer("auto", []), longest_answer(5, [10])
        (80, 32, 5)


    Args:
        limit: Of the recipe.
        reference_tokens: Tokens of the right answers as the template writes them, with their reasoning.
    """
    return limit if limit != "auto" else max(MIN_NEW_TOKENS, 2 * max(reference_tokens, default=0))


def tokens_of(predictions: Iterable[Prediction], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens of the right answers in eval/predictions.jsonl; older runs did not count them."""
    lines = list(predictions)
    texts = [line["reference"] or "" for line in lines if not line.get("reference_tokens")]
    counted = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
    return [line["reference_tokens"] for line in lines if line.get("reference_tokens")] + counted
