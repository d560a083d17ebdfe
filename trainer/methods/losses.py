"""Compute preference losses from summed log-probabilities.

Names and formulas are TRL's, whose trainers are the oracle of the tests. All tensors are (n,): one number a pair.

With policy p, reference r, prompt x, chosen answer c and rejected answer j:

    chosen_ratio    = log p(c | x) - log r(c | x)        rejected_ratio = log p(j | x) - log r(j | x)
    margin          = beta * (chosen_ratio - rejected_ratio)
    sigmoid (DPO)   = - log sigmoid(margin)              at the first step p = r, so it is ln 2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch
import torch.nn.functional as F

from trainer.recipe.method import CpoMethod, DpoLoss, DpoMethod, OrpoMethod, PairedMethod, SimpoMethod

DISCOPOP_TAU = 0.05
"""Temperature of the gate. Source: https://arxiv.org/abs/2406.08414, section 4."""
LOG_HALF = -0.6931471805599453


@dataclass(frozen=True)
class PairScores:
    """Inputs of a loss; log-probabilities in nats, summed over the tokens of an answer."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    reference_chosen: torch.Tensor
    """Of the policy at step 0; zero where the method has no reference."""
    reference_rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor
    prompt: torch.Tensor
    """Of the prompt's tokens but the first; zero where the method does not train on them."""
    prompt_tokens: torch.Tensor

    @property
    def chosen_ratio(self) -> torch.Tensor:
        """Log-ratio of policy to reference."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> torch.Tensor:
        """Log-ratio of policy to reference."""
        return self.rejected - self.reference_rejected

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean log-probability of a token of each answer."""
        return self.chosen / self.chosen_tokens, self.rejected / self.rejected_tokens  # (n,) / (n,)


@dataclass(frozen=True)
class Totals:
    """Counts over the whole global batch, which divide the sums; tensors of one number."""

    pairs: torch.Tensor
    chosen_tokens: torch.Tensor
    supervised_tokens: torch.Tensor
    """Of the chosen answers, and of their prompts where the method trains on them."""


def loss_of(method: PairedMethod, scores: PairScores, totals: Totals) -> torch.Tensor:
    """Return a micro-batch's share of the loss of the global batch.

    Example:
        DPO with the policy still equal to the reference: the loss is ln 2, whatever the answers.

        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> scores = PairScores(zero - 3, zero - 5, zero - 3, zero - 5, one * 4, one * 6, zero, zero)
        >>> round(float(loss_of(DpoMethod(kind="dpo"), scores, Totals(one, one * 4, one * 4))), 4)
        0.6931
    """
    match method:
        case DpoMethod():
            weights = method.loss_weights or [1.0] * len(method.loss_type)
            parts = [
                weight * _dpo(kind, method, scores, totals)
                for kind, weight in zip(method.loss_type, weights, strict=True)
            ]
            return torch.stack(parts).sum()
        case CpoMethod():
            delta = scores.chosen - scores.rejected
            if method.loss_type == "ipo":
                chosen, rejected = scores.means()
                delta = chosen - rejected
            # a mean over pairs, less a mean over tokens: the likelihood of the chosen answers (NLL of CPO)
            paired = _cpo(method, delta).sum() / totals.pairs
            return paired - method.cpo_alpha * scores.chosen.sum() / totals.chosen_tokens
        case SimpoMethod():
            chosen, rejected = scores.means()
            # SimPO: - log sigmoid(beta (mean log p(c) - mean log p(j)) - gamma), https://arxiv.org/abs/2405.14734
            delta = method.beta * (chosen - rejected) - method.simpo_gamma
            return _smoothed(delta, method.label_smoothing).sum() / totals.pairs
        case OrpoMethod():
            # ORPO: NLL of the chosen row - beta log sigmoid(log odds ratio)
            likelihood = (scores.chosen + scores.prompt).sum() / totals.supervised_tokens
            return -likelihood - method.beta * F.logsigmoid(_log_odds(scores)).sum() / totals.pairs
        case _:
            assert_never(method)


def rewards(method: PairedMethod, scores: PairScores) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the implied rewards of chosen and rejected answers, for the log."""
    match method:
        case SimpoMethod() | OrpoMethod():
            chosen, rejected = scores.means()
        case DpoMethod() | CpoMethod():
            chosen, rejected = scores.chosen_ratio, scores.rejected_ratio
        case _:
            assert_never(method)
    return method.beta * chosen.detach(), method.beta * rejected.detach()


def _dpo(kind: DpoLoss, method: DpoMethod, scores: PairScores, totals: Totals) -> torch.Tensor:
    if kind == "sft":
        return -scores.chosen.sum() / totals.chosen_tokens
    return _dpo_pairs(kind, method, scores).sum() / totals.pairs


def _dpo_pairs(  # noqa: C901  one flat case a loss
    kind: DpoLoss, method: DpoMethod, scores: PairScores
) -> torch.Tensor:
    """Return the loss of each pair.

    Source: the papers that TRL's documentation names for each (https://huggingface.co/docs/trl/dpo_trainer).
    """
    beta, smoothing = method.beta, method.label_smoothing
    chosen, rejected = scores.chosen_ratio, scores.rejected_ratio
    margin = beta * (chosen - rejected)
    match kind:
        case "sigmoid":
            return -F.logsigmoid(margin)
        case "hinge":
            return torch.relu(1 - margin)
        case "ipo":
            # means over tokens, as TRL averages them for ipo
            delta = chosen / scores.chosen_tokens - rejected / scores.rejected_tokens
            return (delta - 1 / (2 * beta)) ** 2
        case "sigmoid_norm":
            return -F.logsigmoid(beta * (chosen / scores.chosen_tokens - rejected / scores.rejected_tokens))
        # EXO: KL divergences to labels of which a share is swapped, https://arxiv.org/abs/2402.00856
        case "exo_pair":
            return _divergence(margin, 1 - smoothing) + _divergence(-margin, smoothing)
        case "nca_pair":
            chosen_loss = -F.logsigmoid(beta * chosen)
            return chosen_loss - 0.5 * F.logsigmoid(-beta * chosen) - 0.5 * F.logsigmoid(-beta * rejected)
        case "robust":
            flipped = smoothing * F.logsigmoid(-margin)
            # unbiased where a share `smoothing` of the labels is swapped, https://arxiv.org/abs/2403.00409
            return (flipped - (1 - smoothing) * F.logsigmoid(margin)) / (1 - 2 * smoothing)
        case "bco_pair":
            return -F.logsigmoid(beta * chosen) - F.logsigmoid(-beta * rejected)
        # SPPO: log-ratios of +1/(2 beta) and -1/(2 beta), https://arxiv.org/abs/2405.00675
        case "sppo_hard":
            return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2
        case "aot":
            # optimal transport in one dimension pairs the k-th smallest margins of policy and reference
            policy = (scores.chosen - scores.rejected).sort().values
            reference = (scores.reference_chosen - scores.reference_rejected).sort().values
            return _smoothed(beta * (policy - reference), smoothing)
        case "aot_unpaired":
            return _smoothed(beta * (chosen.sort().values - rejected.sort().values), smoothing)
        # APO: chosen up and rejected down, each against the reference, https://arxiv.org/abs/2408.06266
        case "apo_zero":
            return 1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected)
        case "apo_down":
            return torch.sigmoid(beta * chosen) + 1 - torch.sigmoid(margin)
        case "discopop":
            gate = torch.sigmoid(margin / DISCOPOP_TAU)
            # exp(-margin) alone overflows where the gate is 0
            gated = torch.exp(F.logsigmoid(margin / DISCOPOP_TAU) - margin)
            return -F.logsigmoid(margin) * (1 - gate) + gated
        case "sft":
            raise AssertionError("a loss of tokens, not of pairs")
        case _:
            assert_never(kind)


def _divergence(margin: torch.Tensor, share: float) -> torch.Tensor:
    """Return q (log q - log share) for q = sigmoid(margin)."""
    return torch.sigmoid(margin) * (F.logsigmoid(margin) - torch.tensor(share, dtype=margin.dtype).log())


def _smoothed(margin: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the negative log-likelihood of labels of which a share `smoothing` is swapped."""
    return -F.logsigmoid(margin) * (1 - smoothing) - F.logsigmoid(-margin) * smoothing


def _cpo(method: CpoMethod, delta: torch.Tensor) -> torch.Tensor:
    """Return the loss of each pair. Source: https://arxiv.org/abs/2401.08417, equation 3."""
    match method.loss_type:
        case "sigmoid":
            return _smoothed(method.beta * delta, method.label_smoothing)
        case "hinge":
            return torch.relu(1 - method.beta * delta)
        case "ipo":
            return (delta - 1 / (2 * method.beta)) ** 2
        case _:
            assert_never(method.loss_type)


def _log_odds(scores: PairScores) -> torch.Tensor:
    """Return the log odds ratio of chosen to rejected.

    Source: https://arxiv.org/abs/2403.07691, equations 4 and 7.
    """
    chosen, rejected = scores.means()
    return (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 - exp(x)) for x <= 0, precisely on both sides of -log 2.

    A certain answer rounds to x = 0, where the odds are infinite: it counts as certain up to one rounding.

    Source: Maechler 2012, Accurately computing log(1 - exp(-|a|)), equation 7.
    """
    # both branches are computed, so each clamps x to its own side: no NaN enters the gradient
    near = torch.log(-torch.expm1(x.clamp(min=LOG_HALF, max=-torch.finfo(x.dtype).eps)))
    far = torch.log1p(-torch.exp(x.clamp(max=LOG_HALF)))
    return torch.where(x > LOG_HALF, near, far)
