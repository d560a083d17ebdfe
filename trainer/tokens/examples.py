"""Report rows that are split into several texts, and why."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainer.shapes.pack import SplitRows
from trainer.tokens.store import TokenStore


def split_rows(store: TokenStore) -> SplitRows:
    """Count rows with several texts, and their tokens."""
    _, first, counts = np.unique(store.row_index, return_index=True, return_counts=True)
    lengths = store.lengths()
    is_split = counts > 1
    tokens = np.add.reduceat(lengths, first)[is_split] if len(first) else lengths
    longest = np.maximum.reduceat(lengths, first)[is_split] if len(first) else lengths
    return {
        "rows": int(is_split.sum()),
        "examples": int(counts[is_split].sum()),
        "tokens": int(tokens.sum()),
        "tokens_whole": int(longest.sum()),
        "answers": dict(store.ways),
    }


def split_lines(split: SplitRows) -> Iterator[str]:
    """Yield what a user should know."""
    if split["rows"]:
        yield (
            f"{split['rows']} rows are split into {split['examples']} examples, one for each answer whose prompt as "
            "served is not in the text of the whole conversation (the chat template writes earlier turns differently, "
            f"such as without their reasoning); they have {split['tokens']} tokens, their last examples alone "
            f"{split['tokens_whole']}"
        )
    if num := split["answers"].get("tags", 0):
        yield f"the chat template drops the reasoning of {num} answers: it is trained in <think> tags"
    if num := split["answers"].get("closed", 0):
        yield (
            f"the prompt opens reasoning that the chat template does not write in {num} answers: they begin with their "
            "reasoning, or none, and close it (a template may have a variable against that, such as "
            "model.chat_template_kwargs: {enable_thinking: false})"
        )
