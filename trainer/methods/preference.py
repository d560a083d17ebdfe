"""Preference methods: paired losses on log-probabilities of both answers and of the reference."""

from __future__ import annotations

from typing import Any

import torch

from trainer.engine.batch import Batch
from trainer.methods.loop import VALIDATION_LOSS, RecipeLoop
from trainer.methods.losses import PairScores, Totals, loss_of, rewards
from trainer.recipe.method import PairedMethod

LOGGED = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
"""TRL's names; means over the pairs since the last line."""


class PreferenceLoop(RecipeLoop):
    """Pairs in, one loss for each global batch; the reference's log-probabilities come with the rows."""

    def __init__(self, *, method: PairedMethod, **settings: Any) -> None:
        super().__init__(**settings)
        self.method = method
        self.seen = torch.zeros(len(LOGGED) + 1, dtype=torch.float64, device=self.args.device)  # the last one: pairs

    def loss(self, batch: Batch, log_probs: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Return the batch's share of the mean over the step's pairs."""
        scores = pair_scores(batch, log_probs)
        with torch.no_grad():
            self.seen += _facts(self.method, scores).sum(1)
        return loss_of(self.method, scores, Totals(*totals))

    def measure(self, batch: Batch, log_probs: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """Return the sums of what is logged, of the pairs, and of each pair's loss."""
        scores = pair_scores(batch, log_probs)
        losses = torch.stack([self._alone(scores, index) for index in range(len(counted))])
        return (torch.cat([_facts(self.method, scores), losses[None]]) * counted).sum(1)

    def validation(self, sums: torch.Tensor) -> dict[str, float]:
        """Return the mean loss a pair, and the means of what is logged."""
        means = (sums / sums[len(LOGGED)].clamp(min=1)).tolist()
        named = {f"eval_{name}": means[index] for index, name in enumerate(LOGGED)}
        return {VALIDATION_LOSS: means[-1]} | named

    def _alone(self, scores: PairScores, index: int) -> torch.Tensor:
        """Return the loss of one pair, as if it were the whole batch."""
        one = PairScores(*(getattr(scores, name)[index : index + 1] for name in PairScores.__annotations__))
        tokens = one.chosen_tokens.sum()
        prompt = one.prompt_tokens.sum()
        return loss_of(self.method, one, Totals(torch.ones_like(tokens), tokens, tokens + prompt)).double()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the pairs trained since the last line."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self.seen, "sum")
            means = (sums / sums[-1].clamp(min=1)).tolist()
            logs = logs | dict(zip(LOGGED, means, strict=False))
            self.seen.zero_()
        super().log(logs, start_time)


def pair_scores(batch: Batch, log_probs: torch.Tensor) -> PairScores:
    """Add up the log-probabilities of each answer of a batch of pairs."""
    targets, reference = batch["targets"], batch["reference"]
    pairs = len(reference)
    sums, lengths = targets.sums(log_probs), targets.lengths
    has_prompts = len(lengths) > 2 * pairs
    return PairScores(
        chosen=sums[: 2 * pairs : 2],
        rejected=sums[1 : 2 * pairs : 2],
        reference_chosen=reference[:, 0].to(sums.dtype),
        reference_rejected=reference[:, 1].to(sums.dtype),
        chosen_tokens=lengths[: 2 * pairs : 2],
        rejected_tokens=lengths[1 : 2 * pairs : 2],
        prompt=sums[2 * pairs :] if has_prompts else torch.zeros_like(sums[:pairs]),
        prompt_tokens=lengths[2 * pairs :] if has_prompts else torch.zeros_like(lengths[:pairs]),
    )


def _facts(method: PairedMethod, scores: PairScores) -> torch.Tensor:
    """Return what is logged of each pair, and a one to count it: (LOGGED + 1, pairs) float64."""
    chosen, rejected = rewards(method, scores)
    return torch.stack(
        [
            chosen,
            rejected,
            (chosen > rejected).to(chosen.dtype),
            chosen - rejected,
            scores.chosen.detach(),
            scores.rejected.detach(),
            torch.ones_like(chosen),
        ]
    ).double()
