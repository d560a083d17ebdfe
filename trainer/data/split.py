"""Split rows into train, validation and held-out: no prompt, and nothing similar, is on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.minhash import Edges
from trainer.data.duplicates.union_find import Parents
from trainer.errors import DataError

Side = Literal["train", "validation", "heldout"]
Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]

MIN_LIMIT = 10
CLUSTER_SHARE, FLAGGED_SHARE = 0.1, 0.02
"""Largest group, as a share of the rows, that near duplicates (or rows merely flagged) may grow to: similarity is
not transitive, and chains of it would tie half of the rows together."""


class Groups(NamedTuple):
    """Rows that stay together."""

    of: Rows
    """(rows,) number of each row's group, 0 to `names.size - 1`."""
    names: Keys
    """(groups,) the least key of the group's rows: no name depends on the order of rows."""
    sizes: Rows
    """(groups,) rows."""
    num_cut: int
    """Pairs of near duplicates left apart because their group would have grown too large."""


@dataclass
class Prompts:
    """Prompt keys of rows: `flat` holds those of row 0, then of row 1, and so on, each row's last prompt last."""

    flat: Keys
    counts: Rows

    def last(self) -> Keys:
        """Return (rows,): what the last answer of each row answers."""
        return self.flat[np.cumsum(self.counts) - 1]

    def owner(self) -> Rows:
        """Return the row of each key."""
        return np.repeat(np.arange(self.counts.size), self.counts)

    def chosen(self, rows: NDArray[np.bool_]) -> Prompts:
        """Return the keys of the rows where `rows` is true."""
        return Prompts(self.flat[np.repeat(rows, self.counts)], self.counts[rows])


def group_rows(prompts: Prompts, by: Keys | None = None, edges: Edges | None = None, *, drop: float = 0.7) -> Groups:
    """Group rows with the same prompt, with the same value of `by`, and that resemble each other.

    A prompt that occurs inside a longer conversation joins that conversation's group: training on the longer one
    would train the answer that the shorter one is tested on.

    Args:
        prompts: keys of all rows.
        by: (rows,) key of the field whose values stay on one side.
        edges: pairs of similar rows.
        drop: similarity from which a pair counts as near duplicates, and not merely as flagged.

    Example:
        Row 0 asks 7, row 1 is a conversation that asks 5 and then 9, row 2 asks 5: rows 1 and 2 are one group.

        >>> prompts = Prompts(np.array([7, 5, 9, 5], np.uint64), np.array([1, 2, 1]))
        >>> group_rows(prompts).of
        array([0, 1, 1])
    """
    last = prompts.last()
    parents = Parents(last.size)
    is_last = np.isin(prompts.flat, last)
    parents.join_equal(prompts.flat[is_last], prompts.owner()[is_last])
    if by is not None:
        parents.join_equal(by, np.arange(by.size))
    num_cut = _join_similar(parents, edges, drop) if edges is not None else 0
    _, of = np.unique(parents.roots(), return_inverse=True)
    sizes = np.bincount(of)
    names = np.full(sizes.size, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(names, of, last)
    return Groups(of, names, sizes, num_cut)


def _join_similar(parents: Parents, edges: Edges, drop: float) -> int:
    """Join similar rows, the most similar first; return how many near duplicates had to stay apart.

    Copies are joined whatever becomes of the size. Rows of one pattern are not joined for being alike: all of them are,
    and a pattern as a whole on one side would be learnt or tested, never both.
    """
    num_rows = len(parents.parent)
    limits = [max(MIN_LIMIT, int(share * num_rows)) for share in (FLAGGED_SHARE, CLUSTER_SHARE)]
    num_cut = 0
    for left, right in edges.pairs[edges.duplicate].tolist():
        parents.join(left, right)
    edges = edges.chosen(~edges.duplicate & ~edges.slots)
    for edge in np.argsort(-edges.score, kind="stable").tolist():
        is_near = bool(edges.score[edge] >= drop)
        left, right = edges.pairs[edge].tolist()
        joined = parents.join(left, right, limits[is_near])
        num_cut += is_near and not joined
    return num_cut


def split_rows(
    groups: Groups, *, validation: float, heldout: float, seed: int, by: str | None = None, labels: Keys | None = None
) -> list[Side]:
    """Give every row a side; a group stays together.

    Groups are taken in the order of a seeded hash of their names, so that the order of the rows does not matter.

    Example:
        Ten rows in groups of 6, 2, 1 and 1, heldout 0.2: the group of 6 is passed over, for it would overfill the two
        rows that are due; the group of 2, or both single rows, are taken, whichever the hash puts first.

    Args:
        groups: which rows stay together.
        validation: share of the rows, 0 to 1.
        heldout: share of the rows, 0 to 1.
        seed: changes which groups are taken.
        by: name of the field whose values stay on one side, for messages.
        labels: (rows,) keys whose shares each side repeats (stratified), as far as the groups allow.

    Raises:
        DataError: `by` puts all rows into one group, or no training rows are left.
    """
    num_groups, num_rows = groups.sizes.size, groups.of.size
    may_force = num_groups >= 2
    if by and not may_force and num_rows > 1 and validation + heldout > 0:
        raise DataError(
            f"data.split.by {by!r}: shared values and prompts tie all {num_rows} rows together; none can go",
            hint="choose a field with more values, remove data.split.by, or give data.split.heldout_path",
        )
    hashes = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest() for name in groups.names.tolist()]
    waiting = sorted(range(num_groups), key=hashes.__getitem__)
    stratum = _strata(groups, labels)
    side_of: list[Side] = ["train"] * num_groups
    shares: tuple[tuple[Side, float], ...] = (("heldout", heldout), ("validation", validation))
    for side, share in shares:
        for group in _take_groups(waiting, groups.sizes, stratum, share, may_force=may_force):
            side_of[group] = side
        waiting = [group for group in waiting if side_of[group] == "train"]
    if num_rows and not waiting:
        kind = f"values of {by!r} or prompts" if by else "prompts"
        raise DataError(
            f"data.split leaves no training rows: {num_rows} rows with only {num_groups} different {kind}",
            hint="lower data.split.heldout and validation, or add rows",
        )
    return [side_of[group] for group in groups.of.tolist()]


def _strata(groups: Groups, labels: Keys | None) -> list[int]:
    """Return the stratum of each group: the label that most of its rows have."""
    if labels is None:
        return [0] * groups.sizes.size
    _, of = np.unique(labels, return_inverse=True)
    pairs, counts = np.unique(np.stack([groups.of, of.reshape(-1)], axis=1), axis=0, return_counts=True)
    order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
    _, first = np.unique(pairs[order, 0], return_index=True)
    return [int(value) for value in pairs[order][first, 1]]


def _take_groups(
    waiting: Sequence[int], sizes: Rows, stratum: Sequence[int], share: float, *, may_force: bool
) -> list[int]:
    """Choose groups, in order, until each stratum's rows come to `share` of all; too large ones are passed over."""
    targets = _targets(sizes, stratum, share)
    filled, groups = dict.fromkeys(targets, 0), list[int]()
    for group in waiting:
        size, kind = int(sizes[group]), stratum[group]
        # Taken only when it brings the count closer: one huge group must not swallow a small share.
        if filled[kind] < targets[kind] and size <= 2 * (targets[kind] - filled[kind]):
            groups.append(group)
            filled[kind] += size
    if share > 0 and not groups and may_force and waiting:
        groups = [min(waiting, key=lambda group: int(sizes[group]))]
    return groups


def _targets(sizes: Rows, stratum: Sequence[int], share: float) -> dict[int, int]:
    """Return the target rows of each stratum: together the share of all rows, by the largest remainders.

    Source: the largest remainder method (Hamilton).

    Example:
        A fifth of 7, 2 and 6 rows is 1.4, 0.4 and 1.2; together 3 rows, so the one that is missing goes to the first.

        >>> _targets(np.array([7, 2, 6]), [0, 1, 2], 0.2)
        {0: 2, 1: 0, 2: 1}
    """
    totals = np.bincount(stratum, weights=sizes) if len(stratum) else np.zeros(0)
    exact = totals * share
    targets = np.floor(exact).astype(int)
    missing = round(float(totals.sum()) * share) - int(targets.sum())
    targets[np.argsort(targets - exact, kind="stable")[: max(missing, 0)]] += 1
    return dict(enumerate(targets.tolist()))


def find_leaks(
    prompts: Prompts, protected: Prompts, by: Keys | None = None, protected_by: Keys | None = None
) -> dict[int, int]:
    """Find rows that train an answer to a prompt on which a protected row is tested, or share its value of `by`.

    Args:
        prompts: keys of the rows.
        protected: keys of the rows that are tested on; of each the last prompt counts.
        by: (rows,) key of the field whose values stay on one side, 0 where a row has none.
        protected_by: the same of the protected rows.

    Returns:
        Index of each such row -> index of the first protected row with that prompt or value.
    """
    leaks: dict[int, int] = {}
    _note_hits(leaks, prompts.flat, prompts.owner(), protected.last())
    if by is not None and protected_by is not None:
        _note_hits(leaks, by, np.arange(by.size), protected_by)
    return dict(sorted(leaks.items()))


def _note_hits(leaks: dict[int, int], keys: Keys, owner: Rows, protected: Keys) -> None:
    """Note, for each owner of a key, the first place at which it is wanted; key 0 stands for no value."""
    values, first = np.unique(protected, return_index=True)
    if not values.size:
        return
    index = np.minimum(np.searchsorted(values, keys), values.size - 1)
    hits = np.flatnonzero((values[index] == keys) & (keys != 0))
    for row, tested in zip(owner[hits].tolist(), first[index[hits]].tolist(), strict=True):
        leaks[row] = min(leaks.get(row, tested), tested)
