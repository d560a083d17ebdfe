"""Log-likelihoods of token rows.

Shapes: B rows, S tokens, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class RowScores:
    """How a model sees rows, one value a row."""

    losses: Floats
    """Summed cross-entropy of the trained tokens, in nats."""
    counts: Floats
    """Trained tokens."""
    known: np.ndarray[Any, np.dtype[np.bool_]]
    """Each token of the last answer is the likeliest after those before it."""


def row_losses(
    model: Any, rows: Sequence[tuple[Any, Any]], *, batch_size: int, progress: Callable[[int], None]
) -> tuple[Floats, Floats]:
    """Return the summed cross-entropy (nats) and the number of trained tokens of each row.

    Args:
        model: Causal language model.
        rows: (ids, mask) of each row.
        batch_size: Rows in a forward pass.
        progress: Told the rows done.
    """
    scores = row_scores(model, rows, batch_size=batch_size, progress=progress)
    return scores.losses, scores.counts


def row_scores(
    model: Any, rows: Sequence[tuple[Any, Any]], *, batch_size: int, progress: Callable[[int], None]
) -> RowScores:
    """Return losses as `row_losses`, and whether greedy decoding would repeat the last answer of each row."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    losses, counts, known = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
    device = next(model.parameters()).device
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids, attention, mask = _padded([rows[index] for index in chosen])
        with torch.no_grad():
            logits = model(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False).logits
        for row, index in enumerate(chosen):
            trained = mask[row, 1:].bool()  # position t is predicted from t - 1
            picked = logits[row, :-1][trained.to(device)].float()
            targets = ids[row, 1:][trained].to(device)
            losses[index] = float(torch.nn.functional.cross_entropy(picked, targets, reduction="sum"))
            counts[index] = int(trained.sum())
            of_last_answer = picked[-_last_run(trained) :].argmax(-1) == targets[-_last_run(trained) :]
            known[index] = bool(len(targets)) and bool(of_last_answer.all())
        progress(len(chosen))
    return RowScores(losses, counts, known)


def _last_run(trained: torch.Tensor) -> int:
    """Return the number of trained tokens from the last untrained one before them on."""
    places = trained.nonzero()[:, 0]
    breaks = (places.diff() > 1).nonzero()[:, 0]
    return len(places) - (int(breaks[-1]) + 1 if len(breaks) else 0)


def _padded(rows: Sequence[tuple[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, attention and loss mask, each (B, S), padded on the right."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    attention, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (tokens, flags) in enumerate(rows):
        ids[row, : len(tokens)] = torch.from_numpy(np.asarray(tokens, dtype=np.int64))
        mask[row, : len(tokens)] = torch.from_numpy(np.asarray(flags, dtype=np.int64))
        attention[row, : len(tokens)] = 1
    return ids, attention, mask
