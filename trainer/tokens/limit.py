"""Shorten or drop rows over the longest length; a trained token is never cut.

max_length 5, mask 0 0 0 0 1 1 (six tokens)     truncate_prompt: the first token goes       else: the row goes
"""

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
        truncate_prompt: Drop the oldest tokens before the first trained one, all but one at most, instead of the row.
    """
    # (rows,) tokens over the limit
    excess = np.maximum(store.sequence_lengths() - max_length, 0).tolist()
    with TokenWriter(target, segments=store.segments) as writer:
        writer.ways.update(store.ways)
        for first in range(0, len(store), ROWS_AT_ONCE):
            lines: list[int] = []
            pieces: list[Piece] = []
            for row in range(first, min(first + ROWS_AT_ONCE, len(store))):
                row_pieces = store.pieces(row)
                if excess[row]:
                    row_pieces = _without_oldest(row_pieces, excess[row]) if truncate_prompt else []
                if row_pieces:
                    lines.append(int(store.row_index[row]))
                    pieces += row_pieces
            writer.add(lines, pieces)


def _without_oldest(pieces: list[Piece], excess: int) -> list[Piece]:
    """Drop the oldest tokens; return no pieces where the trained part alone is too long.

    Example:
        >>> [(ids, mask)] = _without_oldest([(np.arange(6), np.array([0, 0, 0, 0, 1, 1]))], excess=1)
        >>> ids.tolist(), mask.tolist()
        ([1, 2, 3, 4, 5], [0, 0, 0, 1, 1])
        >>> _without_oldest([(np.arange(6), np.array([0, 0, 0, 0, 1, 1]))], excess=4)
        []
    """
    (ids, mask), *answers = pieces
    # argmax of a mask: index of the first trained token
    num_untrained = int(mask.argmax()) if mask.any() else len(mask)
    return [(ids[excess:], mask[excess:]), *answers] if excess < num_untrained else []
