"""Rows to the tensors of one micro-batch.

    flat       rows follow each other without padding, `segments` says who attends to whom; one preference pair is
               [prompt chosen rejected], its prompt stored once
    positions  rows follow each other, `position_ids` begin anew at each; transformers builds the mask
    padded     one row a line, filled up on the right: causal attention never looks there, so that no mask is needed
               (transformers reads a mask back to the host in every pass)
    masked     padded, under an attention mask, for models that look at padding in some other way

All of them ask for the same tokens, so that every loss is the same function of `targets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from trainer.engine.head import Targets
from trainer.engine.segments import Segment, Segments

Layout = Literal["flat", "positions", "padded", "masked"]
Ids = np.ndarray[Any, Any]
Row = tuple[Ids, Ids]
"""Token ids and loss mask of a supervised row."""
Pair = tuple[Ids, Ids, Ids]
"""Token ids of prompt, chosen and rejected answer."""
Batch = dict[str, Any]
"""`inputs`: arguments of the model; `targets`: `Targets`."""


def of_rows(items: Sequence[Sequence[Row]], layout: Layout, pad_id: int) -> Batch:
    """Build a batch from the rows of some packs.

    Args:
        items: Rows of each pack; a row alone is a pack of one.
        layout: How they are laid out; packs of several rows are neither `padded` nor `masked`.
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


def filled(batch: Batch, width: int, pad_id: int) -> Batch:
    """Fill a flat batch up to a number of tokens by a row of its own that nothing is asked of."""
    inputs = batch["inputs"]
    spans, total = inputs["segments"].spans, inputs["input_ids"].shape[1]
    if total >= width:
        return batch
    more = {"input_ids": torch.full((1, width - total), pad_id), "position_ids": torch.arange(width - total)[None]}
    longer = {name: torch.cat([inputs[name], tensor], 1) for name, tensor in more.items()}
    return batch | {"inputs": inputs | longer | {"segments": Segments.of([*spans, Segment(total, width)])}}


def of_pairs(pairs: Sequence[Pair], layout: Layout, pad_id: int, *, with_prompts: bool = False) -> Batch:
    """Build a batch from n preference pairs.

    Of its sequences, 2i is pair i's chosen answer and 2i + 1 the rejected one. `with_prompts` adds sequence 2n + i:
    the tokens of prompt i but the first.
    """
    if layout == "flat":
        return _flat_pairs(pairs, with_prompts)
    batch = _padded_pairs(pairs, pad_id, with_prompts)
    return _masked(batch, [row for pair in pairs for row in _as_rows(pair)]) if layout == "masked" else batch


def _flat_rows(rows: Sequence[Row]) -> Batch:
    lengths = [len(ids) for ids, _ in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    places = [
        (start + np.flatnonzero(mask[1:]), ids[1:][mask[1:] > 0])
        for start, (ids, mask) in zip(starts[:-1], rows, strict=True)
    ]
    return {
        "inputs": {
            "input_ids": _line([ids for ids, _ in rows]),
            "position_ids": _line([np.arange(length) for length in lengths]),
            "segments": Segments.of([Segment(low, high) for low, high in pairwise(starts)]),
        },
        "targets": _targets(places),
    }


def _flat_pairs(pairs: Sequence[Pair], with_prompts: bool) -> Batch:
    ids, positions, spans, places, prompts = [], [], [], [], []
    start = 0
    for prompt, chosen, rejected in pairs:
        middle, end = start + len(prompt) + len(chosen), start + len(prompt) + len(chosen) + len(rejected)
        last = start + len(prompt) - 1  # predicts the first token of both answers
        ids += [prompt, chosen, rejected]
        positions += [np.arange(middle - start), len(prompt) + np.arange(len(rejected))]
        spans += [Segment(start, middle), Segment(middle, end, start, start + len(prompt))]
        places += [
            (np.arange(last, middle - 1), chosen),
            (np.concatenate([[last], np.arange(middle, end - 1)]), rejected),
        ]
        prompts.append((np.arange(start, last), prompt[1:]))
        start = end
    return {
        "inputs": {"input_ids": _line(ids), "position_ids": _line(positions), "segments": Segments.of(spans)},
        "targets": _targets(places + prompts if with_prompts else places),
    }


def _padded_pairs(pairs: Sequence[Pair], pad_id: int, with_prompts: bool) -> Batch:
    batch = _padded([row for pair in pairs for row in _as_rows(pair)], pad_id)
    if with_prompts:
        width = batch["inputs"]["input_ids"].shape[1]
        prompts = [(2 * number * width + np.arange(len(pair[0]) - 1), pair[0][1:]) for number, pair in enumerate(pairs)]
        batch["targets"] = batch["targets"].with_more(_targets(prompts))
    return batch


def _positions(items: Sequence[Sequence[Row]], pad_id: int) -> Batch:
    lines = [np.concatenate([ids for ids, _ in item]) for item in items]
    width = max(map(len, lines))
    positions = [np.concatenate([np.arange(len(ids)) for ids, _ in item]) for item in items]
    # padding is a row of its own, so that it attends to no other
    filled = [np.concatenate([line, np.arange(width - len(line))]) for line in positions]
    places = []
    for number, item in enumerate(items):
        start = number * width
        for ids, mask in item:
            places.append((start + np.flatnonzero(mask[1:]), ids[1:][mask[1:] > 0]))
            start += len(ids)
    return {
        "inputs": {"input_ids": _stack(lines, width, pad_id), "position_ids": _stack(filled, width, 0)},
        "targets": _targets(places),
    }


def _padded(rows: Sequence[Row], pad_id: int) -> Batch:
    width = max(len(ids) for ids, _ in rows)
    places = [
        (number * width + np.flatnonzero(mask[1:]), ids[1:][mask[1:] > 0]) for number, (ids, mask) in enumerate(rows)
    ]
    return {"inputs": {"input_ids": _stack([ids for ids, _ in rows], width, pad_id)}, "targets": _targets(places)}


def _masked(batch: Batch, rows: Sequence[Row]) -> Batch:
    width = batch["inputs"]["input_ids"].shape[1]
    batch["inputs"]["attention_mask"] = _stack([np.ones(len(ids), dtype=np.int64) for ids, _ in rows], width, 0)
    return batch


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


def _targets(places: Sequence[tuple[Ids, Ids]]) -> Targets:
    lengths = np.array([len(ids) for _, ids in places], dtype=np.int64)
    return Targets(
        positions=_whole(np.concatenate([positions for positions, _ in places])),
        ids=_whole(np.concatenate([ids for _, ids in places])),
        owner=_whole(np.repeat(np.arange(len(places)), lengths)),
        lengths=_whole(lengths),
    )


def _whole(values: Ids) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _line(pieces: Sequence[Ids]) -> torch.Tensor:
    """Return one line of all pieces, (1, T) int64."""
    return _whole(np.concatenate(pieces))[None]


def _stack(lines: Sequence[Ids], width: int, fill: int) -> torch.Tensor:
    """Return lines filled up on the right, (B, width) int64."""
    filled = np.full((len(lines), width), fill, dtype=np.int64)
    for number, line in enumerate(lines):
        filled[number, : len(line)] = line
    return torch.from_numpy(filled)
