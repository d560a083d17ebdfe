"""Build the tensors of one micro-batch from rows.

B lines of T tokens each; N trained tokens; n preference pairs. Layouts of the rows [a a a] and [b b], 0 is padding:

    flat       (1, T)  a a a b b              no padding, `segments` limits attention to each row; a preference pair is
                                              [prompt chosen rejected], its prompt stored once
    positions  (B, T)  a a a b b              `position_ids` 0 1 2 0 1 start again at each row; transformers builds
                                              the mask from them
    padded     (B, T)  a a a / b b 0          causal attention never reaches padding on the right, so there is no mask
                                              (transformers would read it back to the host in every pass)
    masked     (B, T)  a a a / b b 0          padded, with an attention mask, for models that padding affects otherwise

The trained tokens are the same in all layouts, so every loss is the same function of `targets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypedDict, assert_never

import numpy as np
import torch

from trainer.engine.head import Targets
from trainer.engine.segments import Segment, Segments
from trainer.tokens.arrays import Ints

Layout = Literal["flat", "positions", "padded", "masked"]
Row = tuple[Ints, Ints]
"""Token ids and loss mask of a supervised row, (T,) each."""
Pair = tuple[Ints, Ints, Ints]
"""Token ids of prompt, chosen and rejected answer."""
ModelInputs = dict[str, torch.Tensor | Segments]
"""Arguments of the model: `input_ids` (B, T) int64, and by layout `position_ids`, `attention_mask`, `segments`."""


class Batch(TypedDict, total=False):
    """One micro-batch; the collators of a training add `counts` and `reference`."""

    inputs: ModelInputs
    targets: Targets
    counts: torch.Tensor
    """Numbers that the loss is divided by, summed over all micro-batches of a step."""
    reference: torch.Tensor
    """(n, 2): the reference's log-probabilities of chosen and rejected answers."""


def of_rows(items: Sequence[Sequence[Row]], layout: Layout, pad_id: int) -> Batch:
    """Build a batch from the rows of some packs.

    Args:
        items: Rows of each pack; a row alone is a pack of one.
        layout: Of the tensors; packs of several rows are neither `padded` nor `masked`.
        pad_id: Token that fills lines up.
    """
    rows = [row for item in items for row in item]
    match layout:
        case "flat":
            return _flat_rows(rows)
        case "positions":
            return _positions(items, pad_id)
        case "padded":
            return _padded(rows, pad_id)
        case "masked":
            return _masked(_padded(rows, pad_id), rows)
        case _:
            assert_never(layout)


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device."""
    on_device = Batch(
        inputs={name: value.to(device) for name, value in batch["inputs"].items()}, targets=batch["targets"].to(device)
    )
    if "counts" in batch:
        on_device["counts"] = batch["counts"].to(device)
    if "reference" in batch:
        on_device["reference"] = batch["reference"].to(device)
    return on_device


def filled(batch: Batch, width: int, pad_id: int) -> Batch:
    """Fill a flat batch up to a number of tokens, by a row of padding that has no targets."""
    inputs = batch["inputs"]
    spans = inputs["segments"].spans
    total = spans[-1].high
    if total >= width:
        return batch
    padding = {"input_ids": torch.full((1, width - total), pad_id), "position_ids": torch.arange(width - total)[None]}
    longer: ModelInputs = {name: torch.cat([inputs[name], tensor], 1) for name, tensor in padding.items()}
    longer["segments"] = Segments.of([*spans, Segment(total, width)])
    return batch | Batch(inputs=inputs | longer)


def of_pairs(pairs: Sequence[Pair], layout: Layout, pad_id: int, *, with_prompts: bool = False) -> Batch:
    """Build a batch from n preference pairs.

    Sequence 2i of the targets is pair i's chosen answer, 2i + 1 the rejected one. `with_prompts` adds sequence 2n + i:
    the tokens of prompt i but the first, which nothing predicts.

    Example:
        A prompt of two tokens, a chosen answer of two and a rejected one of one:

        >>> pair = (np.array([1, 2]), np.array([3, 4]), np.array([5]))
        >>> batch = of_pairs([pair], "flat", pad_id=0)
        >>> batch["inputs"]["input_ids"].tolist(), batch["inputs"]["position_ids"].tolist()
        ([[1, 2, 3, 4, 5]], [[0, 1, 2, 3, 2]])
        >>> batch["targets"].positions.tolist(), batch["targets"].ids.tolist(), batch["targets"].owner.tolist()
        ([1, 2, 1], [3, 4, 5], [0, 0, 1])
        >>> of_pairs([pair], "padded", pad_id=0)["inputs"]["input_ids"].tolist()
        [[1, 2, 3, 4], [1, 2, 5, 0]]
    """
    if layout == "flat":
        return _flat_pairs(pairs, with_prompts)
    batch = _padded_pairs(pairs, pad_id, with_prompts)
    return _masked(batch, [row for pair in pairs for row in _as_rows(pair)]) if layout == "masked" else batch


def _flat_rows(rows: Sequence[Row]) -> Batch:
    lengths = [len(ids) for ids, _ in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    return Batch(
        inputs={
            "input_ids": _line([ids for ids, _ in rows]),
            "position_ids": _line([np.arange(length) for length in lengths]),  # 0 1 2 0 1: each row starts again
            "segments": Segments.of([Segment(low, high) for low, high in pairwise(starts)]),
        },
        targets=_targets([_trained(row, start) for start, row in zip(starts[:-1], rows, strict=True)]),
    )


def _flat_pairs(pairs: Sequence[Pair], with_prompts: bool) -> Batch:
    """Lay out each pair as [prompt chosen rejected]; both answers continue the prompt.

    tokens     p0 p1 c0 c1 r0         positions  0 1 2 3 2
    segments   0:4, and 4:5 after the prefix 0:2
    targets    chosen: c0 at 1, c1 at 2    rejected: r0 at 1    prompt: p1 at 0
    """
    ids, positions, spans, answers, prompts = [], [], [], [], []
    start = 0
    for prompt, chosen, rejected in pairs:
        middle, end = start + len(prompt) + len(chosen), start + len(prompt) + len(chosen) + len(rejected)
        last = start + len(prompt) - 1  # predicts the first token of both answers
        ids += [prompt, chosen, rejected]
        # rotary positions of both answers go on from the prompt's end, as in rows of their own
        positions += [np.arange(middle - start), len(prompt) + np.arange(len(rejected))]
        # the rejected answer's keys: the prompt, then itself; never the chosen answer between them
        spans += [Segment(start, middle), Segment(middle, end, start, start + len(prompt))]
        answers += [
            (np.arange(last, middle - 1), chosen),
            (np.concatenate([[last], np.arange(middle, end - 1)]), rejected),
        ]
        prompts.append((np.arange(start, last), prompt[1:]))
        start = end
    return Batch(
        inputs={"input_ids": _line(ids), "position_ids": _line(positions), "segments": Segments.of(spans)},
        targets=_targets(answers + prompts if with_prompts else answers),
    )


def _padded_pairs(pairs: Sequence[Pair], pad_id: int, with_prompts: bool) -> Batch:
    rows = [row for pair in pairs for row in _as_rows(pair)]
    batch = _padded(rows, pad_id)
    if with_prompts:
        width = _width(rows)
        # a prompt is read off the line of its chosen answer, line 2i
        prompts = [(2 * index * width + np.arange(len(pair[0]) - 1), pair[0][1:]) for index, pair in enumerate(pairs)]
        batch["targets"] = batch["targets"].with_more(_targets(prompts))
    return batch


def _positions(items: Sequence[Sequence[Row]], pad_id: int) -> Batch:
    lines = [np.concatenate([ids for ids, _ in item]) for item in items]
    width = max(map(len, lines))
    positions = [np.concatenate([np.arange(len(ids)) for ids, _ in item]) for item in items]
    # padding starts again at position 0: a row of its own, so that it attends to no other
    filled = [np.concatenate([line, np.arange(width - len(line))]) for line in positions]
    trained = []
    for index, item in enumerate(items):
        start = index * width  # of line `index` in the flattened (B T) batch
        for row in item:
            trained.append(_trained(row, start))
            start += len(row[0])
    return Batch(
        inputs={"input_ids": _stack(lines, width, pad_id), "position_ids": _stack(filled, width, 0)},
        targets=_targets(trained),
    )


def _padded(rows: Sequence[Row], pad_id: int) -> Batch:
    width = _width(rows)
    return Batch(
        inputs={"input_ids": _stack([ids for ids, _ in rows], width, pad_id)},
        targets=_targets([_trained(row, index * width) for index, row in enumerate(rows)]),
    )


def _masked(batch: Batch, rows: Sequence[Row]) -> Batch:
    # (B, T): 1 for the row's tokens, 0 for padding
    ones = [np.ones(len(ids), dtype=np.int64) for ids, _ in rows]
    batch["inputs"]["attention_mask"] = _stack(ones, _width(rows), 0)
    return batch


def _width(rows: Sequence[Row]) -> int:
    return max(len(ids) for ids, _ in rows)


def _as_rows(pair: Pair) -> tuple[Row, Row]:
    prompt, chosen, rejected = pair
    first, second = (
        (
            np.concatenate([prompt, answer]),
            np.concatenate([np.zeros(len(prompt), dtype=np.uint8), np.ones(len(answer), dtype=np.uint8)]),
        )
        for answer in (chosen, rejected)
    )
    return first, second


def _trained(row: Row, start: int) -> tuple[Ints, Ints]:
    """Return where a row's trained tokens are predicted, and their ids; the row starts at `start`.

    Token t is predicted at t - 1, so the mask is shifted by one.

    Example:
        >>> positions, ids = _trained((np.array([5, 6, 7, 8]), np.array([0, 0, 1, 1])), start=10)
        >>> positions.tolist(), ids.tolist()
        ([11, 12], [7, 8])
    """
    ids, mask = row
    # position of mask[1:] in the row = position of the hidden state one step before the token
    return start + np.flatnonzero(mask[1:]), ids[1:][mask[1:] > 0]


def _targets(sequences: Sequence[tuple[Ints, Ints]]) -> Targets:
    lengths = np.array([len(ids) for _, ids in sequences], dtype=np.int64)
    return Targets(
        positions=_int64(np.concatenate([positions for positions, _ in sequences])),  # (N,), as are the ids
        ids=_int64(np.concatenate([ids for _, ids in sequences])),
        owner=_int64(np.repeat(np.arange(len(sequences)), lengths)),  # lengths [2, 1]: 0 0 1
        lengths=_int64(lengths),
    )


def _int64(values: Ints) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _line(pieces: Sequence[Ints]) -> torch.Tensor:
    """Return one line of all pieces, (1, T) int64."""
    return _int64(np.concatenate(pieces))[None]


def _stack(lines: Sequence[Ints], width: int, fill: int) -> torch.Tensor:
    """Return lines filled up on the right, (B, width) int64."""
    filled = np.full((len(lines), width), fill, dtype=np.int64)
    for index, line in enumerate(lines):
        filled[index, : len(line)] = line
    return torch.from_numpy(filled)
