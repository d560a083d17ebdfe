"""Log-probabilities of the trained tokens, without a tensor of logits.

Only positions that predict a trained token go through the output head, a chunk at a time. With a frozen head the
gradient is computed in the forward pass: for z = W h, the derivative of log softmax(z)[y] to h is W[y] - W^T p, so
that the backward pass is one product of each row with a number, for any loss of the log-probabilities. That is 4VH
flops a token where recomputing logits takes 6VH, and [tokens, V] is never stored.

A trained head (full fine-tuning, LoRA on it, tied embeddings) recomputes each chunk in the backward pass.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Size of one chunk of float32 logits: it stays in the cache of a CPU, and fills a card."""
MIN_CHUNK_ROWS = 64


@dataclass(frozen=True)
class Targets:
    """Which hidden states are asked for which token, and whose token that is. N trained tokens."""

    positions: torch.Tensor
    """(N,) int64: place in the flattened batch of the hidden state that predicts the token."""
    ids: torch.Tensor
    """(N,) int64: the token."""
    owner: torch.Tensor
    """(N,) int64: number of the sequence that the token belongs to."""
    lengths: torch.Tensor
    """(sequences,) int64: trained tokens of each sequence."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """Return the targets on a device."""
        return Targets(*(getattr(self, name).to(device, non_blocking=non_blocking) for name in self.__annotations__))

    def pin_memory(self) -> Targets:
        """Return the targets in page-locked memory."""
        return Targets(*(getattr(self, name).pin_memory() for name in self.__annotations__))

    def with_more(self, others: Targets) -> Targets:
        """Return these and the others, whose sequences are numbered behind these."""
        return Targets(
            torch.cat([self.positions, others.positions]),
            torch.cat([self.ids, others.ids]),
            torch.cat([self.owner, others.owner + len(self.lengths)]),
            torch.cat([self.lengths, others.lengths]),
        )

    def sums(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Add up the (N,) values of each sequence: (sequences,)."""
        return log_probs.new_zeros(len(self.lengths)).index_add(0, self.owner, log_probs)


@dataclass(frozen=True)
class Logits:
    """What a model does to the output of its head."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def candidates(cls, config: Any) -> list[Logits]:
        """Return what the names in a configuration may mean, the likeliest first; the probe tells which is right.

        Most models that name a scale apply it to the logits, some to the hidden states before the head.
        """
        text = config.get_text_config()
        named = [float(value) for name in SCALES if (value := getattr(text, name, None)) is not None]
        named += [1 / float(value) for name in DIVISORS if (value := getattr(text, name, None))]
        caps = [float(value) for name in SOFT_CAPS if (value := getattr(text, name, None))]
        return [cls(scale, cap) for cap in dict.fromkeys([*caps, None]) for scale in dict.fromkeys([*named, 1.0])]


SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")


class FrozenHead(torch.autograd.Function):
    """Log-probabilities whose gradient is ready when they are."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        ids: torch.Tensor,
        logits: Logits,
    ) -> torch.Tensor:
        """Return log-probabilities, (N,), in at least float32.

        Args:
            ctx: Of autograd.
            hidden: (N, H).
            weight: (V, H), without gradient, in the type of the matrix products.
            bias: (V,), without gradient.
            ids: (N,).
            logits: Scale and soft cap.
        """
        found = hidden.new_empty(len(ids), dtype=torch.promote_types(weight.dtype, torch.float32))
        gradients = hidden.new_empty(hidden.shape, dtype=weight.dtype) if ctx.needs_input_grad[0] else None
        for rows in _chunks(len(ids), len(weight), hidden.device):
            z = torch.nn.functional.linear(hidden[rows].to(weight.dtype), weight, bias).to(found.dtype)
            scores, slope = _processed(z, logits)
            target, most = ids[rows, None], scores.amax(-1, keepdim=True)
            picked = scores.gather(1, target) - most
            total = scores.sub_(most).exp_().sum(-1, keepdim=True)  # in place: the largest tensor of a training
            found[rows] = (picked - total.log())[:, 0]
            if gradients is not None:
                gradients[rows] = _gradient(scores.div_(total), target, slope, weight)
            del z, scores, slope  # before the next chunk is made
        if gradients is not None:
            ctx.save_for_backward(gradients)
            ctx.dtype = hidden.dtype
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the rows."""
        (saved,) = ctx.saved_tensors
        return (saved * gradient[:, None].to(saved.dtype)).to(ctx.dtype), None, None, None, None


def _gradient(
    probabilities: torch.Tensor, target: torch.Tensor, slope: torch.Tensor | float, weight: torch.Tensor
) -> torch.Tensor:
    """Return (one-hot - probabilities) times the slope of the scores, through the head; reuses their memory."""
    minus_p = probabilities.neg_()
    minus_p.scatter_add_(1, target, torch.ones_like(target, dtype=minus_p.dtype))
    if isinstance(slope, torch.Tensor) or slope != 1.0:
        minus_p.mul_(slope)
    return minus_p.to(weight.dtype) @ weight


def _processed(z: torch.Tensor, logits: Logits) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Return scores and their derivative to z."""
    if logits.scale != 1.0:
        z = z * logits.scale
    if not logits.softcap:
        return z, logits.scale
    bounded = torch.tanh(z / logits.softcap)
    return bounded * logits.softcap, (1 - bounded.square()) * logits.scale


def _chunks(num_rows: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    size = max(MIN_CHUNK_ROWS, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"]) // (4 * vocabulary))
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def _trained_chunk(project: Any, logits: Logits, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    z = project(rows)
    scores, _ = _processed(z.to(torch.promote_types(z.dtype, torch.float32)), logits)
    return scores.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def log_probs(
    head: torch.nn.Module, project: Any, hidden: torch.Tensor, ids: torch.Tensor, logits: Logits, vocabulary: int
) -> torch.Tensor:
    """Return the log-probability of each token, (N,), in at least float32.

    Args:
        head: The output head; whether its weights are trained decides how.
        project: Its forward function.
        hidden: (N, H), N may be 0.
        ids: (N,).
        logits: What the model does to the head's output.
        vocabulary: Outputs of the head.
    """
    if type(head) is torch.nn.Linear and not any(weight.requires_grad for weight in head.parameters()):
        dtype = _product_type(hidden.device, head.weight.dtype)
        bias = None if head.bias is None else head.bias.to(dtype)
        result: torch.Tensor = FrozenHead.apply(hidden, head.weight.to(dtype), bias, ids, logits)
        return result
    chunk = functools.partial(_trained_chunk, project, logits)
    if torch.is_grad_enabled():
        # an adapter on the head may have dropout: the second forward pass must drop what the first one did
        drops = any(isinstance(part, torch.nn.Dropout) and part.training and part.p for part in head.modules())
        chunk = functools.partial(checkpoint, chunk, use_reentrant=False, preserve_rng_state=drops)
    # Summed over no rows: a batch without trained tokens still reaches every weight, with gradient zero.
    pieces = [hidden[:0].sum(-1).to(torch.promote_types(hidden.dtype, torch.float32))]
    pieces += [chunk(hidden[rows], ids[rows]) for rows in _chunks(len(ids), vocabulary, hidden.device)]
    return torch.cat(pieces)


def _product_type(device: torch.device, weights: torch.dtype) -> torch.dtype:
    """Return the type in which autocast multiplies: converted once, not once a chunk."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weights


class Scorer:
    """Turns a causal language model into one that also answers `model(..., targets=)` with log-probabilities.

    The model's own forward runs, so that what it does before its head, and a router's auxiliary loss, stay; only the
    head is replaced while targets are asked for.
    """

    def __init__(self, model: Any, logits: Logits | None = None) -> None:
        self.model = model
        self.logits = logits or Logits.candidates(model.config)[0]
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.targets: Targets | None = None
        self.found: torch.Tensor | None = None
        self.forward = model.forward
        self.head = model.get_output_embeddings()
        self.project = self.head.forward
        self.head.forward = self._head_forward
        model.forward = types.MethodType(_scoring_forward, model)
        model._scorer = self

    def remove(self) -> None:
        """Put the model back as it was."""
        del self.head.forward, self.model.forward, self.model._scorer

    def score(self, targets: Targets, arguments: dict[str, Any]) -> dict[str, torch.Tensor | None]:
        """Run the model and return `log_probs`, (N,), and `aux_loss`, a number or None."""
        self.targets = targets
        try:
            output = self.forward(**arguments)
            assert self.found is not None, "the model's forward calls its head"
            return {"log_probs": self.found, "aux_loss": getattr(output, "aux_loss", None)}
        finally:
            self.targets = self.found = None

    def _head_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.targets is None:
            result: torch.Tensor = self.project(hidden)
            return result
        rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.targets.positions)
        self.found = log_probs(self.head, self.project, rows, self.targets.ids, self.logits, self.vocabulary)
        return hidden.new_zeros(1, 1, 1)  # what the model's forward goes on with is thrown away


def _scoring_forward(model: Any, *arguments: Any, targets: Targets | None = None, **named: Any) -> Any:
    if targets is None:
        return model._scorer.forward(*arguments, **named)
    return model._scorer.score(targets, named)
