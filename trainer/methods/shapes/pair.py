"""Train on preference pairs: losses of the log-probabilities of both answers, by the policy and by its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from trainer.engine.batch import Batch, Layout, Pair, of_pairs
from trainer.methods.collate import Collator
from trainer.methods.context import TrainingContext
from trainer.methods.loop import VALIDATION_LOSS, RecipeLoop
from trainer.methods.losses import PairScores, Totals, loss_of, rewards
from trainer.methods.reference_log_probs import reference_of
from trainer.methods.shapes.shape import LoopSettings, RowShape
from trainer.recipe.method import PairedMethod, has_reference, trains_prompts
from trainer.tokens.arrays import Ints
from trainer.tokens.store import TokenStore

LOGGED = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
"""TRL's names; means over the pairs since the last line."""


class PairRows(RowShape):
    """Items are pairs, each on its own."""

    def __init__(self, method: PairedMethod) -> None:
        self.method = method

    def probe_ids(self, store: TokenStore, row: int) -> Ints:
        """Return the tokens of prompt, chosen and rejected answer, one after another."""
        ids: Ints = np.concatenate(store.pair(row))
        return ids

    def train_data(self, context: TrainingContext) -> tuple[PairDataset, PairCollator]:
        """Return the pairs to train on, and the collator that batches them."""
        inputs, with_prompts = context.inputs, trains_prompts(self.method)
        collate = PairCollator(layout=context.engine.layout, pad_id=context.pad_id, with_prompts=with_prompts)
        return PairDataset(inputs.train, inputs.plan.rows.tolist()), collate

    def build_loop(self, context: TrainingContext, common: LoopSettings) -> PreferenceLoop:
        """Build the loop; the pairs get the reference's log-probabilities, where the method has a reference."""
        held_out = context.inputs.validation
        dataset, collate = self.train_data(context)
        validation = None if held_out is None else PairDataset(held_out, range(len(held_out)))
        loop = PreferenceLoop(
            method=self.method, train_dataset=dataset, eval_dataset=validation, data_collator=collate, **common
        )
        if has_reference(self.method):
            for pairs in (dataset, validation):
                if pairs is not None:
                    pairs.reference = reference_of(context, pairs.store, loop.accelerator)
        return loop


class PairItem(NamedTuple):
    """A preference pair and the reference's log-probabilities."""

    pair: Pair
    reference: torch.Tensor
    """(2,): summed log-probabilities of the chosen and the rejected answer."""


class PairDataset(Dataset[PairItem]):
    """Preference items, one pair each."""

    def __init__(self, store: TokenStore, rows: Sequence[int], reference: torch.Tensor | None = None) -> None:
        """Keep the pairs `rows` of the store; `reference` is (rows of the store, 2), None stands for zeros."""
        self.store = store
        self.rows = rows
        self.reference = torch.zeros(len(store), 2) if reference is None else reference

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    def __getitem__(self, index: int) -> PairItem:
        """Return one pair."""
        row = self.rows[index]
        return PairItem(self.store.pair(row), self.reference[row])


class PairCollator(Collator[PairItem]):
    """Batch pairs; `counts` is (3,): pairs, tokens of chosen answers, those and their prompts' tokens."""

    def __init__(self, *, layout: Layout, pad_id: int, with_prompts: bool = False) -> None:
        super().__init__(layout=layout, pad_id=pad_id)
        self.with_prompts = with_prompts

    def collate(self, items: Sequence[PairItem]) -> Batch:
        """Return inputs, targets, reference (pairs, 2) and counts."""
        batch = of_pairs([item.pair for item in items], self.layout, self.pad_id, with_prompts=self.with_prompts)
        lengths = batch["targets"].lengths
        # c0 j0 c1 j1 .. p0 p1 ..
        chosen, prompts = lengths[: 2 * len(items) : 2].sum(), lengths[2 * len(items) :].sum()
        counts = torch.stack([torch.tensor(len(items)), chosen, chosen + prompts])
        return batch | Batch(reference=torch.stack([item.reference for item in items]), counts=counts)


class PreferenceLoop(RecipeLoop):
    """Train one loss for each global batch; the reference's log-probabilities come with the rows."""

    def __init__(self, *, method: PairedMethod, **settings: Any) -> None:
        super().__init__(**settings)
        self.method = method
        self.sums = torch.zeros(len(LOGGED) + 1, dtype=torch.float64, device=self.args.device)
        """Of LOGGED over the pairs since the last line, and the number of those pairs."""

    def loss(self, batch: Batch, log_probs: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Return the batch's share of the mean over the step's pairs."""
        scores = pair_scores(batch, log_probs)
        with torch.no_grad():
            self.sums += _facts(self.method, scores).sum(1)
        return loss_of(self.method, scores, Totals(*totals))

    def measure(self, batch: Batch, log_probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the sums of LOGGED, the number of pairs, and the sum of their losses, (LOGGED + 2,)."""
        scores = pair_scores(batch, log_probs)
        # one by one: a loss that sorts pairs (aot) or divides by tokens would depend on the batch of validation
        losses = torch.stack([self._alone(scores, index) for index in range(len(weights))])
        return (torch.cat([_facts(self.method, scores), losses[None]]) * weights).sum(1)  # (LOGGED + 2, pairs)

    def validation(self, sums: torch.Tensor) -> dict[str, float]:
        """Return the mean loss of a pair, and the means of LOGGED."""
        means = (sums / sums[len(LOGGED)].clamp(min=1)).tolist()  # sums: LOGGED.., pairs, losses
        return {VALIDATION_LOSS: means[-1]} | {f"eval_{name}": means[index] for index, name in enumerate(LOGGED)}

    def _alone(self, scores: PairScores, index: int) -> torch.Tensor:
        """Return the loss of one pair, as if it were the whole batch."""
        pair = PairScores(*(getattr(scores, name)[index : index + 1] for name in PairScores.__annotations__))
        tokens = pair.chosen_tokens.sum()
        prompt = pair.prompt_tokens.sum()
        return loss_of(self.method, pair, Totals(torch.ones_like(tokens), tokens, tokens + prompt)).double()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the pairs trained since the last line."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self.sums, "sum")
            means = (sums / sums[-1].clamp(min=1)).tolist()
            logs = logs | dict(zip(LOGGED, means, strict=False))
            self.sums.zero_()
        super().log(logs, start_time)


def pair_scores(batch: Batch, log_probs: torch.Tensor) -> PairScores:
    """Add up the log-probabilities of each answer of n pairs.

    Sequences of the targets alternate, chosen 0, rejected 0, chosen 1, ...; prompts, where they are trained, follow.
    """
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
    """Return the logged numbers of each pair, and a one to count it: (LOGGED + 1, pairs) float64."""
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
