"""Keep the rows of one split beside their tokens, and apply `pack.overlong` to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer import exact_json
from trainer.data.records.kinds import Record
from trainer.errors import DataError
from trainer.recipe.data import PackSection
from trainer.tokens.arrays import Ints
from trainer.tokens.chat import Renderer
from trainer.tokens.encode import location
from trainer.tokens.limit import write_shortened
from trainer.tokens.store import TokenStore

MAX_BINS = 10
BAR_WIDTH = 30


@dataclass
class TokenSplit:
    """One split: its rows and their tokens."""

    name: str
    rows_path: Path
    tokens_path: Path
    store: TokenStore

    def rows(self, lines: Ints) -> Iterator[bytes]:
        """Read some rows as they stand in the file; `lines` rise, and may repeat."""
        remaining = iter(lines.tolist())
        number = next(remaining, None)
        with self.rows_path.open("rb") as file:
            for line, text in enumerate(file):
                while line == number:
                    yield text
                    number = next(remaining, None)


def first_row(path: Path) -> Record:
    """Return the first training row.

    Raises:
        DataError: There is none.
    """
    with path.open("rb") as file:
        line = file.readline()
    if not line:
        raise DataError(
            "data/train.jsonl has no rows", hint="check data.sources and data.split, then: trainer data RECIPE"
        )
    row: Record = exact_json.loads(line)
    return row


def fit_splits(splits: list[TokenSplit], section: PackSection) -> dict[str, list[str]]:
    """Apply `pack.overlong` to rows over `pack.max_length`; return the places of dropped rows."""
    limit = section.max_length
    long = [split for split in splits if split.store.sequence_lengths().max(initial=0) > limit]
    if long and section.overlong == "error":
        raise _overlong_error(splits, long[0], limit)
    dropped = {}
    for split in long:
        shorter = split.tokens_path.with_suffix(".partial")
        truncate = section.overlong == "truncate_prompt"
        write_shortened(split.store, shorter, max_length=limit, truncate_prompt=truncate)
        lost = lost_lines(split.store, TokenStore.load(shorter))
        shorter.replace(split.tokens_path)  # the cache keeps the long one
        split.store = TokenStore.load(split.tokens_path)
        if len(lost):
            dropped[split.name] = [location(exact_json.loads(row)) for row in split.rows(lost)]
    if not len(splits[0].store):
        raise DataError(
            f"every training row is over pack.max_length {limit}", hint="raise pack.max_length, see pack.overlong"
        )
    return dropped


def lost_lines(before: TokenStore, after: TokenStore) -> Ints:
    """Return the lines of rows that have lost a text, rising."""
    lines, counts = np.unique(before.row_index, return_counts=True)
    left = np.bincount(after.row_index, minlength=int(lines.max(initial=-1)) + 1)
    return lines[left[lines] < counts]


def _overlong_error(splits: list[TokenSplit], split: TokenSplit, limit: int) -> DataError:
    lengths = np.sort(np.concatenate([each.store.sequence_lengths() for each in splits]))
    # nearest-rank percentiles: the smallest length that at least this share of rows does not exceed
    keeps = {share: int(lengths[math.ceil(len(lengths) * share / 100) - 1]) for share in (95, 99, 100)}
    # argmax of booleans: the first row that is too long
    first = split.store.row_index[np.argmax(split.store.sequence_lengths() > limit)]
    [row] = split.rows(np.array([first]))
    lines = [
        f"{np.count_nonzero(lengths > limit)} of {len(lengths)} rows are longer than pack.max_length {limit} tokens, "
        f"the first is {location(exact_json.loads(row))}",
        *_histogram_lines(lengths),
        "max_length that keeps " + ", ".join(f"{share} %: {length}" for share, length in keeps.items()),
    ]
    return DataError(
        "\n".join(lines), hint=f"--set pack.max_length={keeps[100]}, or pack.overlong=drop, or truncate_prompt"
    )


def histogram(lengths: Ints) -> dict[str, list[int]]:
    """Count lengths in up to ten bins of equal width with whole edges.

    Example:
        Six bins, each of one length.

        >>> histogram(np.array([3, 4, 4, 8]))
        {'edges': [3, 4, 5, 6, 7, 8, 9], 'counts': [1, 2, 0, 0, 0, 1]}
    """
    low, high = int(lengths.min()), int(lengths.max())
    width = math.ceil((high - low + 1) / MAX_BINS)  # whole tokens
    edges = list(range(low, high + width + 1, width))
    counts, _ = np.histogram(lengths, bins=edges)
    return {"edges": edges, "counts": counts.tolist()}


def _histogram_lines(lengths: Ints) -> Iterator[str]:
    bins = histogram(lengths)
    most = max(bins["counts"])
    for low, high, count in zip(bins["edges"], bins["edges"][1:], bins["counts"], strict=False):
        yield f"  {low:>6} - {high - 1:<6} {count:>7} {'#' * math.ceil(BAR_WIDTH * count / most)}"


def stop_tokens(split: TokenSplit, renderer: Renderer) -> list[int]:
    """Return all tokens that end an answer: gpt-oss ends a call of a tool by another one."""
    return sorted(split.store.ends() & renderer.end_ids)


def stop_token(split: TokenSplit, renderer: Renderer) -> int:
    """Return the token that ends the answers, checking that it is trained; rows of token ids may end anywhere.

    Raises:
        DataError: Answers end in ordinary text, so that the model would never learn to stop.
    """
    ends, first, counts = np.unique(split.store.last_trained(), return_index=True, return_counts=True)
    # the most frequent last token; of equals the one that a row has first (lexsort: last key first)
    token = int(ends[np.lexsort((first, -counts))[0]])
    if token in renderer.end_ids:
        return token
    tokenizer = renderer.tokenizer
    if "input_ids" in first_row(split.rows_path) and tokenizer.eos_token_id is not None:
        return tokenizer.eos_token_id
    raise DataError(
        f"answers end in {tokenizer.decode([token])!r}, which is no end token: the model would never learn to stop",
        hint="let the chat template close each assistant turn with the end token (model.chat_template)",
    )
