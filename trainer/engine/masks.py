"""Tells transformers whether rows are packed, which it would otherwise read back from the device in every pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import masking_utils

FINDER = "find_packed_sequence_indices"


@contextlib.contextmanager
def packing_known(inputs: Mapping[str, Any]) -> Iterator[None]:
    """Answer for transformers what these inputs of a model say: positions that begin anew are packs.

    Flat batches build no mask, and one that is given says it all: neither is asked about packing.
    """
    before = getattr(masking_utils, FINDER)
    setattr(masking_utils, FINDER, _rows_of_packs if "position_ids" in inputs else _no_packs)
    try:
        yield
    finally:
        setattr(masking_utils, FINDER, before)


def _no_packs(position_ids: torch.Tensor) -> None:
    return None


def _rows_of_packs(position_ids: torch.Tensor) -> torch.Tensor:
    """Return the number of each token's row in its pack, (B, T) int64."""
    first = position_ids[:, :1] - 1
    return (torch.diff(position_ids, prepend=first, dim=-1) != 1).cumsum(-1)
