"""Read whether a turn is trained, from `weight`, `loss`, `train` and similar keys."""

from __future__ import annotations

from trainer.data.records.reasons import RowError, mark_text

TRAINED = ("weight", "loss", "train", "training", "trainable", "loss_mask", "loss_weight", "loss_scale")
"""Keys that are 1 or true on trained turns: OpenAI's and LLaMA-Factory's, ms-swift's, Axolotl's and others'."""
MASKED = ("masked",)
"""Keys that are true on turns that are not trained: torchtune's."""
IN_PART = ("train_detail", "training_detail")
"""Axolotl's marks of single characters."""
MARKS = (*TRAINED, *MASKED, *IN_PART)
_WORDS = {"0": 0, "1": 1, "false": 0, "true": 1}


def weight_of(turn: dict[str, object], where: str) -> int | None:
    """Return 1 for a turn that is marked as trained, 0 for one that is not to be, None without a mark.

    Raises:
        RowError: a mark is neither 0 nor 1, marks a part of the turn, or contradicts another one.
    """
    marks = {key: _zero_or_one(turn[key], key, where) for key in (*TRAINED, *MASKED) if turn.get(key) is not None}
    for key in IN_PART:
        if turn.get(key) not in (None, [], ""):
            raise RowError("invalid_weight", f"{where}: {key} marks parts of a turn; only whole turns can be left out")
    weights = {key: 1 - mark if key in MASKED else mark for key, mark in marks.items()}
    if len(set(weights.values())) > 1:
        listed = ", ".join(f"{key} {mark_text(repr(turn[key]))}" for key in weights)
        raise RowError("invalid_weight", f"{where}: {listed} contradict each other: is the turn trained?")
    return next(iter(weights.values()), None)


def _zero_or_one(mark: object, key: str, where: str) -> int:
    """Read a mark: a boolean, 0 or 1, or one of them as text.

    Raises:
        RowError: any other value.
    """
    if isinstance(mark, (int, float)) and mark in (0, 1):
        return int(mark)
    if isinstance(mark, str) and (word := mark.strip().lower()) in _WORDS:
        return _WORDS[word]
    meaning = "true (not trained) or false" if key in MASKED else "0 (not trained) or 1 (trained)"
    raise RowError("invalid_weight", f"{where}: {key} {mark_text(repr(mark))}; {meaning}")
