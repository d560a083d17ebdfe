"""Compute log-probabilities of the trained tokens, without a tensor of all logits.

N trained tokens, H hidden size, V vocabulary. Only hidden states that predict a trained token go through the output
head, a chunk of rows at a time, so that (N, V) logits never exist together.

With a frozen head W (V, H), the forward pass already computes the gradient. For z = W h, p = softmax(z), token y:

    log p[y]           = z[y] - log sum exp z
    d log p[y] / d h   = W[y] - W^T p

The backward pass then only multiplies each row by a number, for any loss of the log-probabilities: 4VH operations a
token, where computing logits again takes 6VH.

A trained head (full fine-tuning, LoRA on it, tied embeddings) computes each chunk again in the backward pass.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Bytes of a chunk of float32 logits: it stays in the cache of a CPU, and fills a card."""
MIN_CHUNK_ROWS = 64


@dataclass(frozen=True)
class Targets:
    """The N trained tokens of a batch: the hidden states that predict them, and the sequences that they belong to.

    Example:
        Two sequences with two and one trained tokens; `sums` adds up the log-probabilities of each.

        >>> targets = Targets(*map(torch.tensor, ([0, 1, 3], [7, 8, 9], [0, 0, 1], [2, 1])))
        >>> targets.sums(torch.tensor([-1.0, -2.0, -4.0])).tolist()
        [-3.0, -4.0]
    """

    positions: torch.Tensor
    """(N,) int64: index into the flattened batch of the hidden state that predicts the token."""
    ids: torch.Tensor
    """(N,) int64: the token."""
    owner: torch.Tensor
    """(N,) int64: index of the token's sequence."""
    lengths: torch.Tensor
    """(sequences,) int64: trained tokens of each sequence."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """Return the targets on a device."""
        return Targets(*(getattr(self, name).to(device, non_blocking=non_blocking) for name in self.__annotations__))

    def pin_memory(self) -> Targets:
        """Return the targets in page-locked memory."""
        return Targets(*(getattr(self, name).pin_memory() for name in self.__annotations__))

    def with_more(self, more: Targets) -> Targets:
        """Return both; sequences of `more` are numbered after these."""
        return Targets(
            torch.cat([self.positions, more.positions]),
            torch.cat([self.ids, more.ids]),
            torch.cat([self.owner, more.owner + len(self.lengths)]),
            torch.cat([self.lengths, more.lengths]),
        )

    def sums(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Add up the (N,) values of each sequence: (sequences,)."""
        return log_probs.new_zeros(len(self.lengths)).index_add(0, self.owner, log_probs)


@dataclass(frozen=True)
class Logits:
    """Operations of a model on the output of its head."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def candidates(cls, config: PretrainedConfig) -> list[Logits]:
        """Return possible operations by the keys of a configuration, the likeliest first; the start-up test decides.

        Most models with a scale apply it to the logits, some to the hidden states before the head.
        """
        text = config.get_text_config()
        scales = [float(value) for name in SCALES if (value := getattr(text, name, None)) is not None]
        scales += [1 / float(value) for name in DIVISORS if (value := getattr(text, name, None))]
        caps = [float(value) for name in SOFT_CAPS if (value := getattr(text, name, None))]
        return [cls(scale, cap) for cap in dict.fromkeys([*caps, None]) for scale in dict.fromkeys([*scales, 1.0])]


SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")


Projection = Callable[[torch.Tensor], torch.Tensor]
"""Hidden states (rows, H) to logits (rows, V)."""


class HeadScores(TypedDict):
    """Output of a scored model."""

    log_probs: torch.Tensor
    """(N,)."""
    aux_loss: torch.Tensor | None
    """A router's auxiliary loss."""


class FrozenHead(torch.autograd.Function):
    """Log-probabilities whose gradient is computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
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
        log_probs = hidden.new_empty(len(ids), dtype=torch.promote_types(weight.dtype, torch.float32))
        gradients = hidden.new_empty(hidden.shape, dtype=weight.dtype) if ctx.needs_input_grad[0] else None
        for rows in _chunks(len(ids), len(weight), hidden.device):
            z = torch.nn.functional.linear(hidden[rows].to(weight.dtype), weight, bias).to(log_probs.dtype)
            scores, slope = _processed(z, logits)
            target, most = ids[rows, None], scores.amax(-1, keepdim=True)  # (rows, 1) each
            picked = scores.gather(1, target) - most  # log p = z[y] - max - log sum exp(z - max): no overflow
            total = scores.sub_(most).exp_().sum(-1, keepdim=True)  # in place: the largest tensor of a training
            log_probs[rows] = (picked - total.log())[:, 0]
            if gradients is not None:
                gradients[rows] = _gradient(scores.div_(total), target, slope, weight)  # scores / total = p
            del z, scores, slope  # before the next chunk is made
        if gradients is not None:
            ctx.save_for_backward(gradients)
            ctx.dtype = hidden.dtype
        return log_probs

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Multiply each row of the saved gradient by its number."""
        # dL/dh = dL/dlogp (N, 1) * dlogp/dh (N, H)
        (saved,) = ctx.saved_tensors
        return (saved * gradient[:, None].to(saved.dtype)).to(ctx.dtype), None, None, None, None


def _gradient(
    probabilities: torch.Tensor, target: torch.Tensor, slope: torch.Tensor | float, weight: torch.Tensor
) -> torch.Tensor:
    """Return ((one-hot - probabilities) * slope) W, (rows, H); overwrites the probabilities."""
    minus_p = probabilities.neg_()
    minus_p.scatter_add_(1, target, torch.ones_like(target, dtype=minus_p.dtype))  # onehot(y) - p, (rows, V)
    if isinstance(slope, torch.Tensor) or slope != 1.0:
        minus_p.mul_(slope)
    return minus_p.to(weight.dtype) @ weight  # (rows, V) (V, H)


def _processed(z: torch.Tensor, logits: Logits) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Return scores, (rows, V), and their derivative with respect to z."""
    if logits.scale != 1.0:
        z = z * logits.scale
    if not logits.softcap:
        return z, logits.scale
    bounded = torch.tanh(z / logits.softcap)
    # d/dz c tanh(s z / c) = s (1 - tanh^2)
    return bounded * logits.softcap, (1 - bounded.square()) * logits.scale


def _chunks(num_rows: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    # 4 bytes a logit; at V = 128k a card takes 512 rows at a time
    size = max(MIN_CHUNK_ROWS, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"]) // (4 * vocabulary))
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def _trained_chunk(project: Projection, logits: Logits, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    z = project(rows)
    scores, _ = _processed(z.to(torch.promote_types(z.dtype, torch.float32)), logits)
    return scores.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def log_probs(
    head: torch.nn.Module, project: Projection, hidden: torch.Tensor, ids: torch.Tensor, logits: Logits, vocabulary: int
) -> torch.Tensor:
    """Return the log-probability of each token, (N,), in at least float32.

    Args:
        head: The output head, frozen or trained.
        project: Its forward function.
        hidden: (N, H), N may be 0.
        ids: (N,).
        logits: Operations of the model on the head's output.
        vocabulary: Outputs of the head.
    """
    if type(head) is torch.nn.Linear and not any(weight.requires_grad for weight in head.parameters()):
        dtype = _product_type(hidden.device, head.weight.dtype)
        bias = None if head.bias is None else head.bias.to(dtype)
        result: torch.Tensor = FrozenHead.apply(hidden, head.weight.to(dtype), bias, ids, logits)
        return result
    chunk = functools.partial(_trained_chunk, project, logits)
    if torch.is_grad_enabled():
        # an adapter on the head may have dropout: the second forward pass must drop the same numbers
        drops = any(isinstance(part, torch.nn.Dropout) and part.training and part.p for part in head.modules())
        chunk = functools.partial(checkpoint, chunk, use_reentrant=False, preserve_rng_state=drops)
    # an empty row connects hidden states to the loss: without trained tokens, weights get gradients of zero
    pieces = [hidden[:0].sum(-1).to(torch.promote_types(hidden.dtype, torch.float32))]
    pieces += [chunk(hidden[rows], ids[rows]) for rows in _chunks(len(ids), vocabulary, hidden.device)]
    return torch.cat(pieces)


def _product_type(device: torch.device, weights: torch.dtype) -> torch.dtype:
    """Return the type in which autocast multiplies, to convert the weight once and not for each chunk."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else weights


class Scorer:
    """Let a causal language model return log-probabilities for `model(..., targets=)`.

    The model's own forward runs, with all steps before the head and a router's auxiliary loss. Only the head is
    replaced, and only in calls with targets.
    """

    def __init__(self, model: PreTrainedModel, logits: Logits | None = None) -> None:
        self.model = model
        self.logits = logits or Logits.candidates(model.config)[0]
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.targets: Targets | None = None
        self.log_probs: torch.Tensor | None = None
        """Of the call in progress, once its head has run."""
        self.forward = model.forward
        self.head = model.get_output_embeddings()
        self.project = self.head.forward
        self.head.forward = self._head_forward
        model.forward = types.MethodType(_scoring_forward, model)
        model._scorer = self

    def remove(self) -> None:
        """Restore the model."""
        del self.head.forward, self.model.forward, self.model._scorer

    def score(self, targets: Targets, arguments: dict[str, object]) -> HeadScores:
        """Run the model with targets."""
        self.targets = targets
        try:
            output = self.forward(**arguments)
            assert self.log_probs is not None, "the model's forward calls its head"
            return HeadScores(log_probs=self.log_probs, aux_loss=getattr(output, "aux_loss", None))
        finally:
            self.targets = self.log_probs = None

    def _head_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.targets is None:
            result: torch.Tensor = self.project(hidden)
            return result
        rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.targets.positions)  # (B, T, H) -> (N, H)
        self.log_probs = log_probs(self.head, self.project, rows, self.targets.ids, self.logits, self.vocabulary)
        return hidden.new_zeros(1, 1, 1)  # stands for logits, which the model's forward returns and nobody reads


def _scoring_forward(
    model: PreTrainedModel, *arguments: object, targets: Targets | None = None, **keywords: object
) -> ModelOutput | HeadScores:
    scorer: Scorer = model._scorer
    return scorer.forward(*arguments, **keywords) if targets is None else scorer.score(targets, keywords)
