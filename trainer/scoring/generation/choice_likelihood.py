"""Log-probabilities of continuations, exactly.

Shapes: B rows, S tokens, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

LogProb = tuple[float, bool]
"""Summed log-probability in nats, and whether greedy decoding would write just this."""


def choice_log_probs(
    model: Any,
    tokenizer: Any,
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
    padding = tokenizer.pad_token_id or 0
    # longest first, so that memory runs out at once or never
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place][0]) - len(rows[place][1]))
    found: dict[int, LogProb] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        found |= zip(chosen, _batch(model, [rows[place] for place in chosen], padding), strict=True)
    scores = iter(found[place] for place in range(len(rows)))
    return [[next(scores) for _ in group] for group in continuations]


def _batch(model: Any, rows: Sequence[tuple[list[int], list[int]]], padding: int) -> list[LogProb]:
    inputs = [
        torch.tensor([*context, *continuation][:-1]) for context, continuation in rows
    ]  # the last predicts nothing
    ids = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True, padding_value=padding)  # (B, S)
    lengths = torch.tensor([len(tokens) for tokens in inputs])
    attention = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model(input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False).logits
    return [_row(logits[row], context, continuation) for row, (context, continuation) in enumerate(rows)]


def _row(logits: torch.Tensor, context: list[int], continuation: list[int]) -> LogProb:
    """Return the score of one row of (S, V) logits: position t predicts token t + 1."""
    own = logits[len(context) - 1 : len(context) - 1 + len(continuation)].float()
    wanted = torch.tensor(continuation, device=own.device)
    picked = own.log_softmax(-1).gather(-1, wanted[:, None])
    return float(picked.double().sum()), bool((own.argmax(-1) == wanted).all())
