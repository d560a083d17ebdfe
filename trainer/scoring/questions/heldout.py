"""Read the held-out rows, as lines and as tokens, and measure how likely a model finds them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import numpy as np
from numpy.typing import NDArray

from trainer import exact_json
from trainer.data.pii.hide import Mask
from trainer.data.read.reader import read_rows
from trainer.data.records.kinds import Record
from trainer.data.records.reasons import RowError
from trainer.data.rows.parse import parse_row
from trainer.errors import DataError
from trainer.recipe.method import Method, row_facts
from trainer.recipe.pii import Pii
from trainer.scoring.generation.likelihood import RowScores, row_scores
from trainer.scoring.questions.from_rows import flat, group_of, question_id
from trainer.scoring.statistics.measurements import Evidence
from trainer.tokens.store import TokenStore

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

LOSS_BATCH = 8
"""Rows in a forward pass that needs all logits."""
Ids = NDArray[np.integer]
TokenRow = tuple[Ids, Ids]
"""(ids, mask), each (S,)."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows."""

    rows: list[Record]
    tokens: list[TokenRow]
    """Texts of all rows, row after row; of preference rows the chosen side."""
    rejected: list[TokenRow] | None
    """Of preference rows the rejected side."""
    by: str | None = None
    """Field whose rows belong together, as in `data.split.by`."""
    num_texts: Ids | None = None
    """(rows,) texts of each row; None: one each."""

    @property
    def firsts(self) -> Ids:
        """Return the number of each row's first text, (rows,)."""
        counts = np.ones(len(self.rows), np.int64) if self.num_texts is None else self.num_texts
        return np.cumsum(counts) - counts

    def scores(self, model: PreTrainedModel | PeftModel) -> RowScores:
        """Return how a model sees these rows, each with all its texts; of pairs the chosen side."""
        scores = row_scores(model, self.tokens, batch_size=LOSS_BATCH)
        if self.num_texts is None:
            return scores
        return RowScores(
            np.add.reduceat(scores.losses, self.firsts),
            np.add.reduceat(scores.counts, self.firsts),
            scores.is_likeliest[self.firsts + self.num_texts - 1],
        )

    def evidence(self, model: PreTrainedModel | PeftModel, scores: RowScores) -> dict[str, Evidence]:
        """Return the loss of a model on these rows, and of pairs the side that it finds more likely.

        Args:
            model: Causal language model.
            scores: As from `scores`.
        """
        groups = [group_of(flat(row), self.by) for row in self.rows]
        losses = scores.losses
        evidence = {"loss": Evidence("ratio", losses, scores.counts, groups=groups, bounded=False)}
        if self.rejected is not None:
            rejected = row_scores(model, self.rejected, batch_size=LOSS_BATCH).losses
            evidence["preference_accuracy"] = Evidence("share", (losses < rejected).astype(np.float64), groups=groups)
            evidence["preference_margin"] = Evidence("mean", rejected - losses, groups=groups, bounded=False)
        return evidence

    def last_answers(self, decode: Callable[[list[int]], str], chosen: Iterable[bool]) -> dict[str, str]:
        """Return the trained text of the last answer of some rows, by the id of its question."""
        ends = np.append(self.firsts[1:], len(self.tokens)) - 1
        return {
            question_id(row): decode(ids[_last_answer(mask)].tolist())
            for row, (ids, mask), is_chosen in zip(self.rows, (self.tokens[end] for end in ends), chosen, strict=True)
            if is_chosen
        }


def _last_answer(mask: Ids) -> slice:
    """Return the span of the last run of trained tokens.

    Example:
        >>> _last_answer(np.array([0, 1, 1, 0, 1, 1, 1, 0]))
        slice(4, 7, None)
    """
    trained = np.flatnonzero(mask)
    breaks = np.flatnonzero(np.diff(trained) > 1)
    return slice(int(trained[breaks[-1] + 1 if len(breaks) else 0]), int(trained[-1]) + 1)


def read_held_out(
    store: TokenStore, lines: Sequence[bytes], *, max_rows: int, seed: int, by: str | None = None
) -> HeldOut:
    """Return the held-out rows, above `max_rows` a seeded sample.

    Raises:
        DataError: There are none.
    """
    if not len(store):
        raise DataError("there are no held-out rows to evaluate on", hint="set data.split.heldout, for example 0.2")
    numbers, first, counts = np.unique(store.row_index, return_index=True, return_counts=True)
    chosen = list(range(len(numbers)))
    if len(chosen) > max_rows:
        chosen = sorted(random.Random(seed).sample(chosen, max_rows))
    rows = [exact_json.loads(lines[int(numbers[index])]) for index in chosen]
    match store.shape:
        case "single":
            texts = [store.row(first[index] + text) for index in chosen for text in range(counts[index])]
            return HeldOut(rows, texts, None, by, counts[chosen] if len(texts) > len(rows) else None)
        case "pair":
            pairs = [store.pair(index) for index in chosen]
            return HeldOut(rows, [_side(p, c) for p, c, _ in pairs], [_side(p, r) for p, _, r in pairs], by)
        case _:
            assert_never(store.shape)


def usual_metric(method: Method, graders: Iterable[str]) -> str:
    """Return the metric that decides where the recipe names none.

    Args:
        method: Of the recipe.
        graders: Names of the metrics that mark answers, the most fitting first.
    """
    return "preference_accuracy" if row_facts(method).has_preference else next(iter(graders), "loss")


def _side(prompt: Ids, answer: Ids) -> TokenRow:
    return np.concatenate([prompt, answer]), np.concatenate([np.zeros_like(prompt), np.ones_like(answer)])


def read_examples(path: Path) -> list[Record]:
    """Read rows from a file in any layout that a source may have.

    Raises:
        DataError: A row cannot be used.
    """
    records = []
    for raw in read_rows(path):
        try:
            if raw.error is not None:
                raise raw.error
            records.append(parse_row(raw.value, source=path.name, line=raw.line).record)
        except RowError as error:
            raise DataError(
                f"{path}:{raw.line}: {error.reason}: {error.render(Mask(Pii()))}",
                hint="correct the row, or leave it out",
            ) from error
    return records
