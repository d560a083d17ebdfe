"""Hold all rows of a recipe, and run the steps over all rows: duplicates, leaks, conflicts, split."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.exact import find_conflicts, find_exact_duplicates
from trainer.data.duplicates.minhash import Edges, keep_best
from trainer.data.duplicates.patterns import group_patterns
from trainer.data.fact_table import FactTable
from trainer.data.pii.hide import Mask, hidden
from trainer.data.records.kinds import MESSAGES, Record, Side, rejected
from trainer.data.rejections import RowCounts
from trainer.data.row_file import RowFile
from trainer.data.similar_rows import find_similar, join_edges
from trainer.data.split import Groups, Prompts, find_leaks, group_rows, split_rows
from trainer.data.workers import Workers
from trainer.errors import DataError
from trainer.recipe.data import DataSection

Rows = NDArray[np.int64]
MAX_ROUNDS = 4
"""Rounds of looking for near duplicates; each needs buckets that were too crowded for the one before."""


@dataclass
class SimilarityFindings:
    """What was found out about similar rows."""

    exact: dict[int, int] = field(default_factory=dict)
    """Row that goes -> row that stays."""
    near: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Row that goes, or would go -> row that stays, similarity."""
    conflicts: list[list[int]] = field(default_factory=list)
    """Groups of rows that stay, with the same or nearly the same prompt and different answers."""
    patterns: list[Rows] = field(default_factory=list)
    """Rows that differ in what stands in the slots of one pattern, the largest pattern first; all stay."""
    edges: Edges | None = None
    """Similar pairs of all rows that stay; None where near duplicates are not looked for."""


@dataclass
class RowSet:
    """All rows of a recipe, on their way to the sides."""

    data: DataSection
    table: FactTable
    spool: RowFile
    """Rows, as JSON lines."""
    texts: RowFile
    """The texts of rows that are compared."""
    facts: RowFile
    """What the linter knows of them, one pickle for each chunk of rows."""
    workers: Workers
    counts: RowCounts
    mask: Mask
    """Hides personal data in texts that are shown."""
    rows: dict[Side, Rows] = field(default_factory=dict)
    """Rows that are still in, by what they came for."""
    copies: SimilarityFindings = field(default_factory=SimilarityFindings)
    repeat_of: dict[str, float] = field(default_factory=dict)
    """File -> passes over it in one epoch."""

    def begin(self) -> None:
        """Take in all rows that were read."""
        self.table.finish()
        self.rows = {side: self.table.rows(side) for side in Side}

    def reject(self, row: int, reason: str, original: int, detail: str = "") -> None:
        """Leave a row out because of another one."""
        source, line = self.table.source_and_line(row)
        self.counts.reject(rejected(source, line, reason, of=self.table.ref(original), detail=detail))

    def drop(self, side: Side, copy_of: dict[int, int], reason: str, details: dict[int, str] | None = None) -> None:
        """Leave out the rows in `copy_of` (row -> row that says the same)."""
        for row, original in copy_of.items():
            self.reject(row, reason, original, (details or {}).get(row, ""))
        self.rows[side] = self.rows[side][~np.isin(self.rows[side], list(copy_of))]

    # SimilarityFindings

    def drop_exact(self) -> None:
        """Leave out the rows of each side that an earlier row of that side repeats."""
        for side in (Side.SOURCE, Side.HELDOUT, Side.VALIDATION):
            rows = self.rows[side]
            local = find_exact_duplicates(self.table.columns["content"][rows])
            copy_of = {int(rows[index]): int(rows[original]) for index, original in local.items()}
            self.copies.exact |= copy_of
            self.drop(side, copy_of, "exact_duplicate")

    def find_near(self) -> None:
        """Find training rows that a better one nearly repeats, leave them out if the recipe says so, and remember what
        else is similar.
        """
        section, rounds = self.data.dedupe, []
        candidates = np.concatenate([self.rows[side] for side in Side])
        rank = self._rank()
        for _ in range(MAX_ROUNDS):
            edges, crowded = find_similar(
                self.table,
                self.texts,
                self.spool,
                self.workers,
                candidates,
                drop=section.threshold,
                flag=section.group_threshold,
            )
            rounds.append(edges)
            copy_of = keep_best(self._among_sources(edges), rank)
            self.copies.near |= copy_of
            if section.near == "report" or not copy_of:
                break
            details = {row: f"similarity {score:.2f}" for row, (_, score) in copy_of.items()}
            self.drop(Side.SOURCE, {row: original for row, (original, _) in copy_of.items()}, "near_duplicate", details)
            candidates = np.intersect1d(crowded, np.concatenate([self.rows[side] for side in Side]))
            if not candidates.size:
                break
        self.copies.edges = self.still_in(join_edges(rounds))
        edges = self._among_sources(self.copies.edges)
        self.copies.patterns = group_patterns(edges.pairs[edges.slots], len(self.table))

    def _rank(self) -> Rows:
        """Order all rows, the best first: more turns, then more text, then the earlier one."""
        columns = self.table.columns
        chars = columns["prompt_chars"] + columns["answer_chars"]
        order = np.lexsort((np.arange(len(self.table)), -chars, -columns["num_turns"]))
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        return rank

    def _among_sources(self, edges: Edges) -> Edges:
        is_source = self.table.mask(self.table.rows(Side.SOURCE))
        return edges.chosen(both_in(is_source, edges))

    def still_in(self, edges: Edges) -> Edges:
        is_in = self.table.mask(np.concatenate([self.rows[side] for side in Side]))
        return edges.chosen(both_in(is_in, edges))

    def find_conflicts(self) -> None:
        """Note training rows that ask the same, or nearly the same, and answer differently."""
        columns, rows = self.table.columns, self.rows[Side.SOURCE]
        rows = rows[(columns["kind"][rows] == MESSAGES) & (columns["prompt_chars"][rows] > 0)]
        local = find_conflicts(columns["prompt"][rows], columns["context"][rows], columns["answer"][rows])
        self.copies.conflicts = [rows[group].tolist() for group in local]
        edges = self.copies.edges
        if edges is not None:
            group_of = {row: number for number, group in enumerate(self.copies.conflicts) for row in group}
            is_in = self.table.mask(rows)
            for left, right in edges.pairs[edges.conflict & both_in(is_in, edges)].tolist():
                if group_of.get(left, -1) != group_of.get(right, -2):
                    self.copies.conflicts.append([left, right])

    # Sides

    def drop_leaks(self) -> None:
        """Leave out rows that train the prompts of given held-out or validation files."""
        for side, protected, reason in (
            (Side.SOURCE, Side.HELDOUT, "in_heldout"),
            (Side.VALIDATION, Side.HELDOUT, "in_heldout"),
            (Side.SOURCE, Side.VALIDATION, "in_validation"),
        ):
            self.drop(side, self.same_prompts(side, protected), reason)

    def same_prompts(self, side: Side, protected: Side) -> dict[int, int]:
        """Find rows of one side that train a prompt of another: row -> protected row."""
        rows, protected_rows = self.rows[side], self.rows[protected]
        by = self.table.columns["by"]
        leaks = find_leaks(self._prompts(rows), self._prompts(protected_rows), by[rows], by[protected_rows])
        return {int(rows[row]): int(protected_rows[tested]) for row, tested in leaks.items()}

    def _prompts(self, rows: Rows) -> Prompts:
        return self.table.prompts.chosen(self.table.mask(rows))

    def divide(self) -> tuple[dict[str, Rows], Groups]:
        """Give every training row a side; a side that has a file of its own takes no share."""
        split, rows = self.data.split, self.rows[Side.SOURCE]
        columns = self.table.columns
        if split.by:
            self._check_field("by", split.by, "by")
        if split.stratify:
            self._check_field("stratify", split.stratify, "label")
        edges = (
            None if self.copies.edges is None else self._local(self._among_sources(self.still_in(self.copies.edges)))
        )
        groups = group_rows(
            self._prompts(rows), columns["by"][rows] if split.by else None, edges, drop=self.data.dedupe.threshold
        )
        sides = split_rows(
            groups,
            validation=0.0 if split.validation_path else split.validation,
            heldout=0.0 if split.heldout_path else split.heldout,
            seed=split.seed,
            by=split.by,
            labels=columns["label"][rows] if split.stratify else None,
        )
        side_names = np.array(sides, dtype="U10")
        own_file = {"heldout": self.rows[Side.HELDOUT], "validation": self.rows[Side.VALIDATION]}
        return {
            side: np.concatenate([own_file.get(side, rows[:0]), rows[side_names == side]])
            for side in ("train", "validation", "heldout")
        }, groups

    def _local(self, edges: Edges) -> Edges:
        """Number the rows of pairs as they stand among the training rows."""
        return edges._replace(pairs=np.searchsorted(self.rows[Side.SOURCE], edges.pairs))

    def _check_field(self, key: str, name: str, column: str) -> None:
        """Check that every training row has the field.

        Raises:
            DataError: naming the first row without it.
        """
        rows = self.rows[Side.SOURCE]
        missing = rows[self.table.columns[column][rows] == 0]
        if missing.size:
            raise missing_field(self.table.ref(int(missing[0])), self.spool.row(int(missing[0])), key, name)


def missing_field(ref: str, row: Record, key: str, name: str) -> DataError:
    """Return the error about a row without the field that `data.split.by` or `stratify` (`key`) names."""
    fields = hidden(", ".join(sorted(map(str, row.get("metadata", {}))))) or "none"
    return DataError(
        f"{ref}: no field {name!r}, which data.split.{key} asks for",
        hint=f"give every row the field, or set data.split.{key} to another; this row's fields: {fields}",
    )


def both_in(chosen: NDArray[np.bool_], edges: Edges) -> NDArray[np.bool_]:
    """Return (edges,): true where both rows of a pair are chosen."""
    left: NDArray[np.bool_] = chosen[edges.pairs[:, 0]]
    return left & chosen[edges.pairs[:, 1]]
