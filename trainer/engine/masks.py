"""Tell transformers whether rows are packed, which it would otherwise read back from the device in every pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from transformers import masking_utils

FINDER = "find_packed_sequence_indices"


@contextlib.contextmanager
def packing_known(inputs: Mapping[str, object]) -> Iterator[None]:
    """Replace transformers' search for packed rows: position ids that start again mark a new row.

    It searches only where it builds a mask: not for flat batches, and not with an attention mask in `inputs`.
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
    """Return the index of each token's row in its pack, (B, T) int64.

    Example:
        >>> _rows_of_packs(torch.tensor([[0, 1, 2, 0, 1]])).tolist()
        [[0, 0, 0, 1, 1]]
    """
    first = position_ids[:, :1] - 1  # before the first token: difference 1, so that it starts no row
    return (torch.diff(position_ids, prepend=first, dim=-1) != 1).cumsum(-1)  # one more at each step that is not +1
