"""Compute log-likelihoods of token rows and of continuations.

Shapes: B rows, S tokens, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trainer.scoring.statistics.inference import Floats

LogProb = tuple[float, bool]
"""Summed log-probability in nats, and whether greedy decoding would write just this."""


@dataclass(frozen=True)
class RowScores:
    """How a model sees rows, one value per row."""

    losses: Floats
    """Summed cross-entropy of the trained tokens, in nats."""
    counts: Floats
    """Trained tokens."""
    is_likeliest: NDArray[np.bool_]
    """Each token of the last answer is the likeliest after those before it."""


def row_scores(
    model: PreTrainedModel,
    rows: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    batch_size: int,
    on_rows: Callable[[int], None] = lambda num_rows: None,
) -> RowScores:
    """Return the losses of rows, and whether greedy decoding would repeat the last answer of each.

    Args:
        model: Causal language model.
        rows: (ids, mask) of each row, each (S,); trained tokens have mask 1.
        batch_size: Rows in a forward pass.
        on_rows: Called with the number of rows of each batch.
    """
    lengths = [len(np.asarray(ids)) for ids, _ in rows]
    # rows of about one length in a batch: little padding
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    losses, counts, likeliest = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        ids = [torch.from_numpy(np.asarray(rows[index][0], dtype=np.int64)) for index in indices]
        logits = _logits(model, ids, padding=0)
        for row, index in enumerate(indices):
            is_trained = torch.from_numpy(np.asarray(rows[index][1], dtype=np.int64))[1:].bool()
            # position t is predicted from t - 1: (S - 1, V) logits for the tokens from the second on
            predicted = logits[row, : lengths[index] - 1][is_trained.to(logits.device)].float()
            targets = ids[row][1:][is_trained].to(logits.device)  # (trained tokens,)
            losses[index] = float(torch.nn.functional.cross_entropy(predicted, targets, reduction="sum"))
            counts[index] = int(is_trained.sum())
            answer = slice(-_last_run(is_trained), None)
            likeliest[index] = len(targets) > 0 and bool((predicted[answer].argmax(-1) == targets[answer]).all())
        on_rows(len(indices))
    return RowScores(losses, counts, likeliest)


def _last_run(is_trained: Tensor) -> int:
    """Return the number of trained tokens after the last untrained one between trained tokens.

    Example:
        >>> _last_run(torch.tensor([1, 1, 0, 1, 1, 1, 0]).bool())
        3
    """
    positions = is_trained.nonzero()[:, 0]
    breaks = (positions.diff() > 1).nonzero()[:, 0]  # the last trained token of each run but the last one
    return len(positions) - (int(breaks[-1]) + 1 if len(breaks) else 0)


def choice_log_probs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[list[int]],
    continuations: Sequence[Sequence[list[int]]],
    batch_size: int,
) -> list[list[LogProb]]:
    """Return the log-probability of each continuation of each context, and whether it is the greedy one.

    Args:
        model: Causal language model.
        tokenizer: Its padding token fills up shorter rows, on the right and masked.
        contexts: Token ids before each group of continuations; at least one.
        continuations: Token ids of the continuations of each context; at least one each.
        batch_size: Rows in a forward pass; those of about one length share it.

    Raises:
        ValueError: A context or a continuation is empty.
    """
    rows = [
        (context, continuation)
        for context, group in zip(contexts, continuations, strict=True)
        for continuation in group
    ]
    if not all(context and continuation for context, continuation in rows):
        raise ValueError("a context or a continuation has no token")
    # longest first, so that memory runs out at once or never
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]) - len(rows[index][1]))
    log_probs: dict[int, LogProb] = {}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        # the last token predicts nothing
        inputs = [torch.tensor([*rows[index][0], *rows[index][1]][:-1]) for index in indices]
        logits = _logits(model, inputs, padding=tokenizer.pad_token_id or 0)
        log_probs |= {index: _log_prob(logits[row], *rows[index]) for row, index in enumerate(indices)}
    scores = iter(log_probs[index] for index in range(len(rows)))
    return [[next(scores) for _ in group] for group in continuations]


def _log_prob(logits: Tensor, context: list[int], continuation: list[int]) -> LogProb:
    """Score one row of (S, V) logits: position t predicts token t + 1."""
    # (continuation, V): from the context's last token on, each predicts the next token of the continuation
    predicted = logits[len(context) - 1 : len(context) - 1 + len(continuation)].float()
    targets = torch.tensor(continuation, device=predicted.device)
    log_probs = predicted.log_softmax(-1).gather(-1, targets[:, None])
    # sum in float64: a long continuation adds hundreds of numbers
    return float(log_probs.double().sum()), bool((predicted.argmax(-1) == targets).all())


def _logits(model: PreTrainedModel, rows: Sequence[Tensor], *, padding: int) -> Tensor:
    """Return (B, S, V) logits of rows that are padded on the right and masked there."""
    ids = pad_sequence(list(rows), batch_first=True, padding_value=padding)  # (B, S)
    lengths = torch.tensor([len(row) for row in rows])
    attention = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()  # (B, S): 1 for tokens
    device = next(model.parameters()).device
    with torch.no_grad():
        return model(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False).logits
