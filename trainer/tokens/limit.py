"""Rows over the longest length: dropped, or their oldest prompt tokens are; a target is never cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.tokens.encode import Piece
from trainer.tokens.store import TokenStore, TokenWriter

ROWS_AT_ONCE = 512


def write_shortened(store: TokenStore, target: Path, *, max_length: int, truncate_prompt: bool) -> None:
    """Write the rows of a store that fit in `max_length` tokens, or can be made to.

    Args:
        store: Rows of any length.
        target: The new token file.
        max_length: Tokens of the longest sequence; of a pair, of the prompt and its longer answer.
        truncate_prompt: Drop the oldest tokens before the first trained one instead of the row, one at least is kept.
    """
    excess = np.maximum(store.sequence_lengths() - max_length, 0).tolist()
    with TokenWriter(target, segments=store.segments) as writer:
        for first in range(0, len(store), ROWS_AT_ONCE):
            lines: list[int] = []
            pieces: list[Piece] = []
            for row in range(first, min(first + ROWS_AT_ONCE, len(store))):
                kept = store.pieces(row)
                if excess[row]:
                    kept = _without_oldest(kept, excess[row]) if truncate_prompt else []
                if kept:
                    lines.append(int(store.row_index[row]))
                    pieces += kept
            writer.add(lines, pieces)


def _without_oldest(pieces: list[Piece], excess: int) -> list[Piece]:
    """Drop the oldest tokens; nothing is left where the target alone is too long."""
    (ids, mask), *answers = pieces
    num_untrained = int(mask.argmax()) if mask.any() else len(mask)
    return [(ids[excess:], mask[excess:]), *answers] if excess < num_untrained else []
