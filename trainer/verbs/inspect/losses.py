"""Rank the training rows of a finished run by how likely their answers are wrong.

A supervised row ranks by the loss of the tuned model and by the answer that the model prefers; a pair by how much less
the model prefers its chosen answer than in other pairs. The ranking is kept in `inspect/label_errors.json` of the run,
until the weights or the packed rows change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import assert_never

import numpy as np
import numpy.typing as npt
from tqdm import tqdm
from transformers import PreTrainedModel

from trainer.digests import hash_value
from trainer.disk import cache_dir, read_json, write_json
from trainer.errors import StageError
from trainer.model.adapter import load_on
from trainer.model.load import load_model, precision
from trainer.recipe import Recipe
from trainer.recipe.method import has_reference
from trainer.recipe.model import low_rank
from trainer.rundir import RunFolder
from trainer.scoring.generation.likelihood import row_scores
from trainer.scoring.label_errors import class_thresholds, confident_classes, least_confident, unusual_loss
from trainer.scoring.statistics.inference import Floats
from trainer.tokens.arrays import Ints
from trainer.tokens.store import TokenStore
from trainer.verbs.inspect.rows import Suspicion

BATCH_SIZE = 16
MAX_RANKED = 200
MAX_CLASSES, MAX_CLASS_SHARE, MIN_ROWS = 200, 0.2, 20

TokenRow = tuple[Ints, Ints]
"""Token ids and loss mask, each (S,)."""
Classes = npt.NDArray[np.int64]


def label_errors(recipe: Recipe, run: RunFolder) -> list[Suspicion]:
    """Return the most suspicious training rows: {"row": line in train.jsonl, "score", "loss" or "margin", ...}.

    Raises:
        StageError: The run has no trained weights or no packed rows.
    """
    records = [run.record(stage) for stage in ("pack", "train")]
    for stage, record in zip(("pack", "train"), records, strict=True):
        if record is None:
            raise StageError(
                f"label errors need {run.stage_dir(stage)}, which is not finished", hint=f"trainer {stage} {run.path}"
            )
    path = run.path / "inspect" / "label_errors.json"
    made_from = hash_value([record.outputs for record in records if record])
    if path.is_file() and (cached := read_json(path)).get("made_from") == made_from:
        return list(cached["rows"])
    store = TokenStore.load(run.stage_dir("pack") / "train.safetensors")
    model = _trained_model(recipe, run)
    ranked = _ranked(model, store, recipe)
    write_json(path, {"made_from": made_from, "rows": ranked})
    return ranked


def _ranked(model: PreTrainedModel, store: TokenStore, recipe: Recipe) -> list[Suspicion]:
    match recipe.method.shape:
        case "single":
            return rank(model, store)
        case "pair":
            return rank_pairs(model, store, reference=_reference(recipe, model))
        case _:
            assert_never(recipe.method.shape)


def _trained_model(recipe: Recipe, run: RunFolder) -> PreTrainedModel:
    types = precision(recipe.model, None)
    if low_rank(recipe.adapter):
        base = load_model(recipe.model, cache_dir(), adapter=recipe.adapter, dtype=types.weights)
        return load_on(base, run.stage_dir("train") / "adapter").eval()
    section = recipe.model.model_copy(update={"name_or_path": str((run.stage_dir("train") / "model").absolute())})
    return load_model(section, cache_dir(), dtype=types.weights).eval()


def _reference(recipe: Recipe, model: PreTrainedModel) -> Callable[[], AbstractContextManager[None]] | None:
    """Return what turns the model into the reference of the training while it is entered; None where there is none."""
    adapter = low_rank(recipe.adapter)
    is_fresh = adapter is not None and not adapter.init_from
    return model.disable_adapter if is_fresh and has_reference(recipe.method) else None


def rank_pairs(
    model: PreTrainedModel, store: TokenStore, *, reference: Callable[[], AbstractContextManager[None]] | None
) -> list[Suspicion]:
    """Rank pairs by their margin, the lowest first: the log-probability of chosen over rejected, in nats.

    With a reference it is what training has moved it by, as in DPO; without one it is taken a token, so that the longer
    answer is not the less likely one by its length.
    """
    pairs = [store.pair(index) for index in range(len(store))]
    rows = [_side(prompt, answer) for prompt, *answers in pairs for answer in answers]
    losses, counts = _losses(model, rows, "margins")
    if reference is None:
        margins = _margins(losses / np.maximum(counts, 1))
    else:
        with reference():
            margins = _margins(losses) - _margins(_losses(model, rows, "reference")[0])
    scores = unusual_loss(-margins, np.ones(len(margins)))
    return [
        {"row": int(store.row_index[index]), "margin": float(margins[index]), "score": float(scores[index])}
        for index in np.argsort(margins, kind="stable")[:MAX_RANKED]
    ]


def _margins(losses: Floats) -> Floats:
    """Return (pairs,): loss of the rejected answer less that of the chosen one, which stands before it."""
    chosen, rejected = losses.reshape(-1, 2).T
    return rejected - chosen


def _side(prompt: Ints, answer: Ints) -> TokenRow:
    flags = np.concatenate([np.zeros(len(prompt), np.uint8), np.ones(len(answer), np.uint8)])
    return np.concatenate([prompt, answer]), flags


def rank(model: PreTrainedModel, store: TokenStore) -> list[Suspicion]:
    """Rank supervised rows, the most suspicious first.

    Where the answers are a few classes, a row is an error when the model is confident of another class; else the rows
    with the most unusual loss come first.
    """
    rows = [store.row(index) for index in range(len(store))]
    losses, counts = _losses(model, rows, "losses")
    scores = unusual_loss(losses, counts)
    answers = [_answer(row) for row in rows]
    if classes := classes_of(answers):
        number = {answer: at for at, answer in enumerate(classes)}
        class_of_row = np.array([number[answer] for answer in answers if answer is not None])
        ranking = _other_classes(model, rows, losses, class_of_row, classes)
    else:
        ranking = [(int(index), None, None) for index in np.argsort(-scores, kind="stable")[:MAX_RANKED]]
    return [
        {
            "row": int(store.row_index[index]),
            "loss": float(losses[index] / max(counts[index], 1)),
            "score": float(scores[index]),
            "given": [int(token) for token in answers[index] or ()],
            "says": says,
            "probability": probability,
        }
        for index, says, probability in ranking
    ]


def _losses(model: PreTrainedModel, rows: Sequence[TokenRow], title: str) -> tuple[Floats, Floats]:
    with tqdm(total=len(rows), desc=title, unit="row", disable=None, file=sys.stderr, leave=False) as bar:
        scores = row_scores(model, rows, batch_size=BATCH_SIZE, on_rows=bar.update)
    return scores.losses, scores.counts


def _answer(row: TokenRow) -> tuple[int, ...] | None:
    """Return the trained tokens, None where they are not one run: the row has several answers.

    Example:
        >>> _answer((np.array([5, 6, 7]), np.array([0, 1, 1])))
        (6, 7)
        >>> _answer((np.array([5, 6, 7]), np.array([1, 0, 1])))
    """
    ids, mask = row
    trained = np.flatnonzero(mask)
    if not len(trained) or trained[-1] - trained[0] + 1 != len(trained):
        return None
    return tuple(ids[trained].tolist())


def classes_of(answers: Sequence[tuple[int, ...] | None]) -> list[tuple[int, ...]]:
    """Return the different answers where they are classes: few, and each of many rows; else nothing.

    Example:
        >>> classes_of([(1, 9)] * 15 + [(2, 9)] * 15)
        [(1, 9), (2, 9)]
        >>> classes_of([(token,) for token in range(30)])
        []
    """
    distinct = sorted({answer for answer in answers if answer is not None})
    is_few = 2 <= len(distinct) <= min(MAX_CLASSES, max(2, MAX_CLASS_SHARE * len(answers)))
    return distinct if is_few and len(answers) >= MIN_ROWS and None not in answers else []


def _other_classes(
    model: PreTrainedModel, rows: list[TokenRow], losses: Floats, class_of_row: Classes, classes: list[tuple[int, ...]]
) -> list[tuple[int, list[int] | None, float | None]]:
    """Return (row, the class that the model is confident of, its probability), errors first."""
    # the loss of a whole answer in nats is -log of its probability; (N,)
    confidence = np.exp(-losses)
    thresholds = class_thresholds(confidence, class_of_row, len(classes))
    doubtful = least_confident(confidence, class_of_row, len(classes))[:MAX_RANKED]
    rows_by_class = [_with_answer(rows[index], answer) for index in doubtful for answer in classes]
    class_losses, _ = _losses(model, rows_by_class, "classes")
    # (doubtful rows, classes): the probability of each class as the answer to each row
    probabilities = np.exp(-class_losses.reshape(len(doubtful), len(classes)))
    confident = confident_classes(probabilities, thresholds)
    is_error = (confident >= 0) & (confident != class_of_row[doubtful])
    margin = probabilities[np.arange(len(doubtful)), confident] - confidence[doubtful]
    # errors first, the clearest on top; lexsort sorts by its last key first
    order = np.lexsort((-margin, ~is_error))
    return [
        (int(doubtful[at]), list(classes[confident[at]]), float(probabilities[at, confident[at]]))
        if is_error[at]
        else (int(doubtful[at]), None, None)
        for at in order
    ]


def _with_answer(row: TokenRow, answer: tuple[int, ...]) -> TokenRow:
    ids, mask = row
    prompt = ids[: int(np.argmax(mask))]
    return _side(prompt, np.array(answer, ids.dtype))
