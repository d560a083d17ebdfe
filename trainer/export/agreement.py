"""Compare the outputs of two models on the same rows.

Shapes: S tokens of a row, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from trainer.shapes.proof import ModelAgreement

Logits = list[torch.Tensor]
MAX_LOGIT_BYTES = 512 << 20
"""Most memory that the logits of one model may take; of long rows the last positions are compared, the answers."""


@dataclass(frozen=True)
class Agreement:
    """How near two models' outputs are."""

    max_logit_diff: float
    mean_kl: float
    """Nats a token, from the first model to the second."""
    max_kl: float
    top1_agreement: float
    num_positions: int

    def figures(self) -> ModelAgreement:
        """Return them as JSON."""
        return {
            "max_logit_diff": self.max_logit_diff,
            "mean_kl": self.mean_kl,
            "max_kl": self.max_kl,
            "top1_agreement": self.top1_agreement,
            "num_positions": self.num_positions,
        }


def logits_of(model: PreTrainedModel, rows: Sequence[Sequence[int]], *, max_bytes: int = MAX_LOGIT_BYTES) -> Logits:
    """Return logits of at least float32, one (S, V) tensor a row, on the CPU; of long rows the end."""
    device = next(model.parameters()).device
    row_logits: Logits = []
    for tokens in rows:
        ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64))[None].to(device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        row_logits.append(logits[-longest(logits, len(rows), max_bytes) :].cpu())
    return row_logits


def longest(logits: torch.Tensor, num_rows: int, max_bytes: int) -> int:
    """Return how many positions of a row are kept.

    Example:
        >>> longest(torch.zeros(9, 100), num_rows=2, max_bytes=2400)  # 2 rows of 3 positions, 400 bytes each
        3
    """
    return max(1, max_bytes // (num_rows * logits.shape[1] * logits.element_size()))


def agreement(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> Agreement:
    """Compare two models' logits on the same rows; NaN anywhere makes every figure NaN.

    Args:
        expected: (S, V) of each row, of the first model.
        actual: The same of the second; its vocabulary may be padded.

    Example:
        One position, two words: probabilities 0.5 and 0.5 against 0.8 and 0.2.

        >>> even, uneven = torch.zeros(1, 2), torch.tensor([[4.0, 1.0]]).log()
        >>> round(agreement([even], [uneven]).mean_kl, 3)  # 0.5 ln(0.5 / 0.8) + 0.5 ln(0.5 / 0.2)
        0.223
    """
    return _compare(expected, actual, lambda first, second: (first - second).abs().max())


def agreement_of_log_probs(expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> Agreement:
    """Compare logits with another runtime's log-probabilities; their largest difference is one of log-probabilities."""
    return _compare(
        [logits.double().log_softmax(-1) for logits in expected],
        [log_probs[-len(logits) :] for logits, log_probs in zip(expected, actual, strict=True)],
        # unlikely words are left out: their log-probabilities differ much, and are never generated
        lambda first, second: (first - second)[first > first.max(-1, keepdim=True).values - 20].abs().max(),
    )


def _compare(
    expected: Sequence[torch.Tensor],
    actual: Sequence[torch.Tensor],
    difference: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Agreement:
    differences, divergences, same = [], [], []
    for first, second in zip(expected, actual, strict=True):
        width = min(first.shape[-1], second.shape[-1])  # a padded vocabulary
        p, q = first[:, :width].double(), second[:, :width].double()
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        differences.append(difference(p, q))
        # KL(p || q) = sum p (log p - log q), in nats, for each position
        divergences.append((log_p.exp() * (log_p - log_q)).sum(-1))
        same.append(p.argmax(-1) == q.argmax(-1))
    kl = torch.cat(divergences)
    return Agreement(
        max_logit_diff=float(torch.stack(differences).max()),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        top1_agreement=float(torch.cat(same).double().mean()),
        num_positions=len(kl),
    )
