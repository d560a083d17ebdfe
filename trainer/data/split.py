"""Train, validation and held-out rows: no prompt stands on two sides."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from trainer.data.keys import prompt_key, prompt_keys
from trainer.errors import DataError

Side = Literal["train", "validation", "heldout"]


def split_rows(
    records: Sequence[dict[str, Any]], *, validation: float, heldout: float, seed: int, by: str | None = None
) -> list[Side]:
    """Give every row a side.

    Rows with the same prompt, and with the same value of `by`, form a group that stays together. Groups are taken
    in the order of a seeded hash of their content, so that the order of the rows does not matter.

    Args:
        records: canonical rows.
        validation: share of the rows, 0 to 1.
        heldout: share of the rows, 0 to 1.
        seed: changes which groups are taken.
        by: field of the rows whose values stay on one side.

    Raises:
        DataError: a row lacks the field `by`, `by` puts all rows into one group, or no training rows are left.
    """
    group_of = group_rows(records, by)
    sizes: dict[str, int] = defaultdict(int)
    for group in group_of:
        sizes[group] += 1
    waiting = sorted(sizes, key=lambda group: hashlib.blake2b(f"{seed}:{group}".encode()).digest())
    may_force = len(waiting) >= 2
    if by and not may_force and len(records) > 1 and validation + heldout > 0:
        raise DataError(
            f"data.split.by {by!r}: shared values and prompts tie all {len(records)} rows together; none can go",
            hint="choose a field with more values, remove data.split.by, or give data.split.heldout_path",
        )
    side_of: dict[str, Side] = dict.fromkeys(waiting, "train")
    shares: tuple[tuple[Side, float], ...] = (("heldout", heldout), ("validation", validation))
    for side, share in shares:
        taken = _take_groups(waiting, sizes, share, len(records), may_force=may_force)
        side_of.update(dict.fromkeys(taken, side))
        waiting = [group for group in waiting if side_of[group] == "train"]
    _check_training_left(records, waiting, len(sizes), by)
    return [side_of[group] for group in group_of]


def _take_groups(
    waiting: list[str], sizes: dict[str, int], share: float, num_rows: int, *, may_force: bool
) -> list[str]:
    """Choose groups, in order, until their rows come to `share` of all; too large ones are passed over."""
    target, filled, taken = round(num_rows * share), 0, list[str]()
    for group in waiting:
        # Taken only when it brings the count closer: one huge group must not swallow a small share.
        if filled < target and sizes[group] <= 2 * (target - filled):
            taken.append(group)
            filled += sizes[group]
    if share > 0 and not taken and may_force and waiting:
        taken = [min(waiting, key=lambda group: sizes[group])]
    return taken


def _check_training_left(
    records: Sequence[dict[str, Any]], waiting: list[str], num_groups: int, by: str | None
) -> None:
    if records and not waiting:
        kind = f"values of {by!r} or prompts" if by else "prompts"
        raise DataError(
            f"data.split leaves no training rows: {len(records)} rows with only {num_groups} different {kind}",
            hint="lower data.split.heldout and validation, or add rows",
        )


def group_rows(records: Sequence[dict[str, Any]], by: str | None = None) -> list[str]:
    """Return the group of each row, named by the least key in it, so that no name depends on the order of rows.

    A prompt that occurs inside a longer conversation joins that conversation's group: training on the longer one
    would train the answer that the shorter one is tested on.

    Raises:
        DataError: a row lacks the field `by`.
    """
    last = {prompt_key(record) for record in records}
    parents: dict[str, str] = {}
    keys_of = []
    for record in records:
        keys = [key for key in prompt_keys(record) if key in last]
        keys_of.append([*keys, f"by:{_field_of(record, by)}"] if by else keys)
        join(parents, keys_of[-1])
    return [root(parents, keys[0]) for keys in keys_of]


def join(parents: dict[str, str], keys: Iterable[str]) -> None:
    """Put the keys into one group (union-find), whose root is the least key."""
    roots = {root(parents, parents.setdefault(key, key)) for key in keys}
    least = min(roots)
    parents.update(dict.fromkeys(roots, least))


def root(parents: dict[str, str], key: str) -> str:
    """Return the root of the group that holds `key`."""
    while parents[key] != key:
        parents[key] = key = parents[parents[key]]
    return key


def _field_of(record: dict[str, Any], by: str) -> str:
    metadata = record.get("metadata", {})
    value = metadata[by] if by in metadata else record.get(by)
    if value is None:
        known = ", ".join(sorted(map(str, metadata))) or "none"
        raise DataError(
            f"{record['source']}:{record['line']}: no field {by!r}, which data.split.by asks for",
            hint=f"give every row the field, or set data.split.by to another; this row's fields: {known}",
        )
    return str(value)


def find_leaks(
    records: Sequence[dict[str, Any]], protected: Sequence[dict[str, Any]], *, by: str | None = None
) -> dict[int, int]:
    """Find rows that train an answer to a prompt on which a protected row is tested, or share its value of `by`.

    Returns:
        Index of each such row -> index of the first protected row with that prompt or value.
    """
    first: dict[str, int] = {}
    for index, record in enumerate(protected):
        for key in [prompt_key(record), *_value_keys(record, by)]:
            first.setdefault(key, index)
    found = {}
    for index, record in enumerate(records):
        hits = [first[key] for key in [*prompt_keys(record), *_value_keys(record, by)] if key in first]
        if hits:
            found[index] = min(hits)
    return found


def _value_keys(record: dict[str, Any], by: str | None) -> list[str]:
    """Return the value of the field `by` as a key, where the row has it."""
    value = record.get("metadata", {}).get(by) if by else None
    return [] if value is None else [f"by\x1f{value}"]
