"""Build token stores in memory from lists of ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from trainer.tokens.encode import Piece
from trainer.tokens.store import TokenStore, TokenWriter

Ids = Sequence[int]


def row_store(rows: Sequence[tuple[Ids, Ids]], *, lines: Sequence[int] | None = None) -> TokenStore:
    """Build a store of supervised rows, (ids, mask) each; `lines` are those of their file."""
    return _store(1, [piece(ids, mask) for ids, mask in rows], lines)


def pair_store(pairs: Sequence[tuple[Ids, Ids, Ids]], *, lines: Sequence[int] | None = None) -> TokenStore:
    """Build a store of preference rows: ids of prompt, chosen and rejected answer."""
    pieces = [piece(ids, [int(index > 0)] * len(ids)) for pair in pairs for index, ids in enumerate(pair)]
    return _store(3, pieces, lines)


def piece(ids: Ids, mask: Ids) -> Piece:
    return np.array(ids, dtype=np.int32), np.array(mask, dtype=np.uint8)


def _store(segments: int, pieces: list[Piece], lines: Sequence[int] | None) -> TokenStore:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        with TokenWriter(path, segments=segments) as writer:
            writer.add(range(len(pieces) // segments) if lines is None else lines, pieces)
        return TokenStore.load(path)
