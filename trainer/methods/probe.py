"""Start-up test on the model itself: packed rows must not see each other."""

from __future__ import annotations

from typing import Any

import torch

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_TOLERANCE = 0.05


def packing_leak(model: Any, rows: list[Any]) -> str | None:
    """Compare logits of rows packed into one sequence with the rows alone.

    Args:
        model: Causal language model, with or without adapter.
        rows: Token ids of a few rows.

    Returns:
        None if they agree, else a sentence that says by how much they differ (relative to the largest logit).
    """
    device = next(model.parameters()).device
    ids = [torch.as_tensor(row[:256].astype("int64"), device=device) for row in rows]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        alone = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in ids]).float()
        positions = torch.cat([torch.arange(len(row), device=device) for row in ids])[None]
        packed = model(input_ids=torch.cat(ids)[None], position_ids=positions, use_cache=False).logits[0].float()
    model.train(was_training)
    difference = float((alone - packed).abs().max() / alone.abs().max())
    dtype = next(model.parameters()).dtype
    if difference <= TOLERANCE.get(dtype, HALF_TOLERANCE):
        return None
    return f"rows of a pack see each other in this model (logits differ by {difference:.1e} of the largest)"
