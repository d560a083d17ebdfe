r"""Rendered rows to token ids and loss masks, many at a time: one call of `tokenizers`, which uses all cores.

A token is trained if it begins inside the trained characters:

    text      <|im_start|>assistant\nHello<|im_end|>\n      trained characters [22, 37)
    offsets   (0, 12) (12, 21) (21, 22) (22, 27) (27, 37) (37, 38)
    mask         0       0        0        1        1        0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, Literal

import numpy as np

from trainer.errors import DataError
from trainer.tokens.arrays import Ints
from trainer.tokens.marks import Span

Row = dict[str, Any]
Piece = tuple[Ints, Ints]
"""Ids (int32) and loss mask (uint8) of one segment."""

IGNORED = -100


@dataclass(frozen=True)
class Rendered:
    """A supervised row before it is tokenized."""

    row: Row
    kind: Literal["chat", "text", "ids"]
    """By a template, which writes the special tokens; plain text; or tokenized already."""
    text: str = ""
    trained: Sequence[Span] = ()
    left_out: Sequence[Span] = ()
    """Characters inside `trained` that are not trained all the same."""


@dataclass(frozen=True)
class RenderedPair:
    """A preference row before it is tokenized: the prompt, and each answer after it."""

    row: Row
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Encoded:
    """Token ids of several texts, flat."""

    ids: Ints
    """int32, (tokens,)."""
    bounds: Ints
    """int64, (texts + 1,): text i is ids[bounds[i]:bounds[i + 1]]."""
    encodings: Sequence[Any]
    texts: Sequence[str]

    def pieces(self, flat: Ints) -> list[Ints]:
        """Cut an array over all tokens into one for each text."""
        bounds = self.bounds.tolist()
        return [flat[low:high] for low, high in pairwise(bounds)]

    def begins(self) -> tuple[Ints, Ints]:
        """Return where each token begins, counted over all texts, and whether it has any character.

        GPT-2's kind of tokenizers trims spaces off the offsets, down to nothing for a token of spaces alone: such a
        token begins where the one before it ended.
        """
        pairs = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in self.encodings))
        offsets = np.fromiter(pairs, dtype=np.int64, count=2 * len(self.ids)).reshape(-1, 2)
        start_of_text = np.repeat(_starts(self.texts)[:-1], np.diff(self.bounds))
        start, end = (offsets + start_of_text[:, None]).T
        reached = np.maximum.accumulate(np.concatenate([[0], end]))[:-1]
        begin = np.where(start < end, start, np.minimum(start, np.maximum(reached, start_of_text)))
        return begin, begin < end

    def inside(self, spans: Sequence[Sequence[Span]]) -> Ints:
        """Return 1 for tokens that begin inside a span of their text; one that merely ends there is outside."""
        starts = _starts(self.texts)
        marked = np.zeros(starts[-1] + 1, dtype=np.uint8)
        for base, some in zip(starts.tolist(), spans, strict=False):
            for low, high in some:
                marked[base + low : base + high] = 1
        begin, has_characters = self.begins()
        return marked[begin] & has_characters


def _starts(texts: Sequence[str]) -> Ints:
    """Return where each text begins if they are laid out with a gap of one character."""
    return np.array(list(accumulate((len(text) + 1 for text in texts), initial=0)), dtype=np.int64)


def encode(tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool = False) -> Encoded:
    """Tokenize texts; a template has written its special tokens already."""
    if not texts:
        return Encoded(np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int64), [], [])
    encoded = tokenizer(
        list(texts),
        add_special_tokens=add_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # our own limit is pack.max_length
    )
    lists = encoded["input_ids"]
    bounds = np.array(list(accumulate((len(ids) for ids in lists), initial=0)), dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(bounds[-1]))
    return Encoded(ids, bounds, encoded.encodings, texts)


def encode_rows(tokenizer: Any, rows: Sequence[Rendered]) -> list[Piece]:
    """Return ids and mask of each supervised row.

    Raises:
        DataError: A row has no trained token, or ids and labels that do not fit.
    """
    encoders: dict[str, Callable[[Any, list[Rendered]], Iterator[Piece]]] = {
        "chat": _encode_chat,
        "text": _encode_text,
        "ids": _take_ids,
    }
    found = {kind: encoder(tokenizer, [row for row in rows if row.kind == kind]) for kind, encoder in encoders.items()}
    return [next(found[row.kind]) for row in rows]


def encode_pairs(tokenizer: Any, rows: Sequence[RenderedPair]) -> list[Piece]:
    """Return prompt, chosen and rejected of each pair, one after another; both answers follow the same prompt ids.

    Raises:
        DataError: An answer has no tokens.
    """
    texts = [text for row in rows for text in (row.prompt, row.chosen, row.rejected)]
    encoded = encode(tokenizer, texts)
    ids = encoded.pieces(encoded.ids)
    pieces: list[Piece] = []
    for index, row in enumerate(rows):
        prompt, chosen, rejected = ids[3 * index : 3 * index + 3]
        length = min(_common_prefix(prompt, side) for side in (chosen, rejected))
        if not 0 < length < min(len(chosen), len(rejected)):
            raise DataError(f"{place(row.row)}: an answer of this pair has no tokens", hint="drop the row")
        pieces.append((prompt[:length], np.zeros(length, dtype=np.uint8)))
        for side in (chosen[length:], rejected[length:]):
            pieces.append((side, np.ones(len(side), dtype=np.uint8)))
    return pieces


def place(row: Row) -> str:
    """Return `source:line` of a row."""
    return f"{row.get('source', 'row')}:{row.get('line', '?')}"


def _encode_chat(tokenizer: Any, rows: list[Rendered]) -> Iterator[Piece]:
    encoded = encode(tokenizer, [row.text for row in rows])
    flat = encoded.inside([row.trained for row in rows])
    if any(row.left_out for row in rows):
        flat &= 1 - encoded.inside([row.left_out for row in rows])
    for row, ids, mask in zip(rows, encoded.pieces(encoded.ids), encoded.pieces(flat), strict=True):
        yield _trained(row.row, ids, mask)


def _encode_text(tokenizer: Any, rows: list[Rendered]) -> Iterator[Piece]:
    """Train all of a text and the end token after it."""
    encoded = encode(tokenizer, [row.text for row in rows], add_special_tokens=True)
    end = tokenizer.eos_token_id
    for row, found in zip(rows, encoded.pieces(encoded.ids), strict=True):
        closed = end is None or found[-1:].tolist() == [end]
        ids = found if closed else np.append(found, np.int32(end))
        yield _trained(row.row, ids, np.ones(len(ids), dtype=np.uint8))


def _take_ids(tokenizer: Any, rows: list[Rendered]) -> Iterator[Piece]:
    """Take `input_ids` and `labels` as they are."""
    for row in rows:
        ids, labels = (_ints(row.row, name) for name in ("input_ids", "labels"))
        if len(ids) != len(labels):
            raise _bad_ids(row.row, f"{len(ids)} input_ids and {len(labels)} labels", "give one label for each token")
        limit = len(tokenizer)
        if len(ids) and not 0 <= ids.min() <= ids.max() < limit:
            wrong = ids[(ids < 0) | (ids >= limit)][0]
            raise _bad_ids(row.row, f"token id {wrong}: the tokenizer has {limit}", "tokenize with this model's own")
        trained = labels != IGNORED
        if (wrong_at := np.flatnonzero(trained & (labels != ids))).size:
            at = int(wrong_at[0])
            raise _bad_ids(
                row.row,
                f"label {labels[at]} at token {at}, whose id is {ids[at]}",
                "a label is the id of its own token (labels are not shifted), or -100",
            )
        yield _trained(row.row, ids.astype(np.int32), trained.astype(np.uint8))


def _ints(row: Row, name: str) -> Ints:
    values = row.get(name)
    if not isinstance(values, list) or not all(type(value) is int and abs(value) < 2**31 for value in values):
        raise _bad_ids(row, f"`{name}` is no list of 32-bit whole numbers", "give input_ids and labels, both lists")
    return np.array(values, dtype=np.int64)


def _bad_ids(row: Row, what: str, hint: str) -> DataError:
    return DataError(f"{place(row)}: {what}", hint=hint)


def _trained(row: Row, ids: Ints, mask: Ints) -> Piece:
    mask[:1] = 0  # nothing predicts the first token
    if not mask.any():
        raise DataError(
            f"{place(row)}: no token of this row would be trained",
            hint="check pack.loss_on and the `weight` of its messages, or drop the row",
        )
    return ids, mask


def _common_prefix(first: Ints, second: Ints) -> int:
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
