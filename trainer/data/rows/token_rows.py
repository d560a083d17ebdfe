"""Read and check rows of token ids."""

from __future__ import annotations

from trainer.data.records.kinds import Record
from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.columns import Columns
from trainer.data.rows.values import kind_of, parse_json

IGNORED = -100
"""Label of a token that is not trained (the default of PyTorch's cross-entropy)."""


def parse_tokens(columns: Columns) -> Record:
    """Read `input_ids` and `labels`.

    Labels stand at the token they name, as everywhere in the field: the shift by one is the model's.

    Raises:
        RowError: they are not integers, differ in length, are padded, shifted, or train nothing.
    """
    ids, labels = _integers(columns, "input_ids", least=0), _integers(columns, "labels", least=IGNORED)
    if len(ids) != len(labels):
        raise RowError("invalid_tokens", f"{len(ids)} input_ids, {len(labels)} labels")
    if columns.has("attention_mask") and 0 in _integers(columns, "attention_mask", least=0):
        raise RowError("invalid_tokens", "attention_mask holds 0: give the row without padding")
    wrong = next((i for i, label in enumerate(labels) if label not in (IGNORED, ids[i])), None)
    if wrong is not None:
        raise RowError(
            "invalid_tokens", f"labels[{wrong}] is {labels[wrong]}, neither {IGNORED} nor input_ids[{wrong}]"
        )
    if all(label == IGNORED for label in labels):
        raise RowError("invalid_tokens", f"every label is {IGNORED}: nothing is trained")
    return {"input_ids": ids, "labels": labels}


def _integers(columns: Columns, name: str, *, least: int) -> list[int]:
    value = columns.take(name)
    value = parse_json(value, columns.notes) if isinstance(value, str) else value
    if not isinstance(value, list) or not value:
        raise RowError("invalid_tokens", f"`{name}` is {kind_of(value)}, not a list of integers")
    # bool is a kind of int to Python, and no token to anyone.
    wrong = next((item for item in value if type(item) is not int or item < least), None)
    if wrong is not None:
        raise RowError("invalid_tokens", f"`{name}` holds {mark_text(repr(wrong))}, not an integer from {least} on")
    return value
