"""Lint the training rows: their facts from disk, and the counts of the other steps."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from itertools import islice

import numpy as np

from trainer.data.dataset import Rows, RowSet
from trainer.data.fact_table import FactTable
from trainer.data.lint.finding import CountedRows, Finding, LintContext, PersonalData
from trainer.data.lint.fixes import advised
from trainer.data.lint.run import Linter
from trainer.data.read.hub import resolved_commit
from trainer.data.records.kinds import MESSAGES
from trainer.data.records.reasons import mark_text
from trainer.data.rejections import NUM_LISTED
from trainer.recipe.data import HUB_PREFIX
from trainer.shapes.report import ContaminationSummary, RowStatistics


def lint(
    row_set: RowSet, sides: dict[str, Rows], contamination: ContaminationSummary
) -> tuple[list[Finding], RowStatistics]:
    """Lint the training rows.

    Returns:
        Findings, and the distributions for the report.
    """
    linter = Linter(row_set.data.lint, mask=row_set.mask)
    table = row_set.table
    is_train = table.mask(sides["train"])
    begin = 0
    for size, blob in zip(table.chunk_sizes, row_set.facts.lines(np.arange(len(row_set.facts))), strict=True):
        indices = np.flatnonzero(is_train[begin : begin + size]).tolist()
        facts = pickle.loads(blob) if indices else []
        for index in indices:
            linter.add(table.ref(begin + index), facts[index])
        begin += size
    findings = linter.finish(lint_context(row_set, sides, contamination))
    return [advised(finding, row_set.data) for finding in findings], linter.stats()


def lint_context(row_set: RowSet, sides: dict[str, Rows], contamination: ContaminationSummary) -> LintContext:
    """Collect the counts of the other steps over all rows."""
    counts, copies, table = row_set.counts, row_set.copies, row_set.table
    near_pairs = ((removed, original) for removed, (original, _) in copies.near.items())
    conflicts, near_conflicts = _conflicts(row_set)
    return LintContext(
        rows_read=counts.num_read,
        rows_train=int(sides["train"].size),
        rows_heldout=int(sides["heldout"].size),
        formats=counts.formats,
        unused_columns=_unused_columns(row_set),
        rejected={reason: CountedRows(count, tuple(counts.listed[reason])) for reason, count in counts.reasons.items()},
        exact_duplicates=CountedRows(len(copies.exact), _pair_refs(table, copies.exact.items())),
        near_duplicates=CountedRows(len(copies.near), _pair_refs(table, near_pairs)),
        near_removed=row_set.data.dedupe.near == "drop",
        patterns=_groups(table, [group.tolist() for group in copies.patterns]),
        pattern_sizes=tuple(int(group.size) for group in copies.patterns),
        conflicts=conflicts,
        near_conflicts=near_conflicts,
        cleaned=counts.changed_rows,
        unpinned=_unpinned(row_set),
        same_prompt=_same_prompt(table, sides["train"]),
        same_answer=_same_answer(table, sides["train"]),
        leaks=_leaks(contamination),
        missing_classes=_missing_classes(row_set, sides),
        pii={
            type_: PersonalData(CountedRows(rows.num_rows, tuple(rows.rows)), rows.action)
            for type_, rows in counts.pii.items()
        },
    )


def _pair_refs(table: FactTable, pairs: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    return tuple(f"{table.ref(first)} = {table.ref(second)}" for first, second in islice(pairs, NUM_LISTED))


def _groups(table: FactTable, groups: list[list[int]]) -> CountedRows:
    """Count the rows of groups, and list the first two rows of each."""
    return CountedRows(len(set().union(*groups)), _pair_refs(table, ((group[0], group[1]) for group in groups)))


def _unused_columns(row_set: RowSet) -> dict[str, int]:
    """Return unused columns with a telling name -> rows.

    Columns of the split, and columns that the recipe leaves out on purpose, do not count.
    """
    split = row_set.data.split
    ignored = [name for name in (split.by, split.stratify) if name]
    ignored += [name for source in row_set.data.sources for name, column in source.mapping.items() if not column]
    return {
        f"{usage.name}: {mark_text(name)} ({meaning})": count
        for usage in row_set.counts.usages.values()
        for name, meaning, count in usage.unused_meaningful(ignored)
    }


def _unpinned(row_set: RowSet) -> dict[str, str]:
    paths = [source.path for source in row_set.data.sources if not source.revision]
    return {path: resolved_commit(path.removeprefix(HUB_PREFIX)) for path in paths if path.startswith(HUB_PREFIX)}


def _conflicts(row_set: RowSet) -> tuple[CountedRows, CountedRows]:
    """Return conflicts of the very same prompt, and those of similar prompts, which may be different questions."""
    prompts = row_set.table.columns["prompt"]
    same: list[list[int]] = []
    near: list[list[int]] = []
    for group in row_set.copies.conflicts:
        (same if len({int(prompts[row]) for row in group}) == 1 else near).append(group)
    return _groups(row_set.table, same), _groups(row_set.table, near)


def _listed(table: FactTable, rows: Rows) -> CountedRows:
    return CountedRows(int(rows.size), tuple(table.ref(row) for row in rows[:NUM_LISTED].tolist()))


def _same_prompt(table: FactTable, rows: Rows) -> CountedRows:
    """Return rows with the prompt of an earlier row."""
    rows = rows[(table.columns["kind"][rows] == MESSAGES) & (table.columns["prompt_chars"][rows] > 0)]
    _, first, inverse = np.unique(table.columns["prompt"][rows], return_index=True, return_inverse=True)
    return _listed(table, rows[first[inverse] != np.arange(rows.size)])


def _same_answer(table: FactTable, rows: Rows) -> CountedRows:
    """Return rows with the most frequent answer."""
    rows = rows[table.columns["kind"][rows] == MESSAGES]
    if not rows.size:
        return CountedRows()
    _, inverse, counts = np.unique(table.columns["answer"][rows], return_inverse=True, return_counts=True)
    return _listed(table, rows[inverse == np.argmax(counts)])


def _leaks(contamination: ContaminationSummary) -> dict[str, CountedRows]:
    if contamination["action"] != "report":
        return {}
    refs: dict[str, list[str]] = {kind: [] for kind in contamination["hits"]}
    for pair in contamination["samples"]:
        refs.setdefault(pair["reason"], []).append(f"{pair['row']} = {pair['of']}")
    return {kind: CountedRows(count, tuple(refs[kind][:NUM_LISTED])) for kind, count in contamination["hits"].items()}


def _missing_classes(row_set: RowSet, sides: dict[str, Rows]) -> tuple[str, ...]:
    """Return classes of the stratifying field on one side only."""
    if not row_set.data.split.stratify or not sides["heldout"].size:
        return ()
    labels = row_set.table.columns["label"]
    train, heldout = labels[sides["train"]], labels[sides["heldout"]]
    names, rows = np.unique(np.concatenate([train, heldout]), return_index=True)
    both = np.concatenate([sides["train"], sides["heldout"]])
    is_one_sided = ~(np.isin(names, train) & np.isin(names, heldout))
    return tuple(sorted(_field(row_set, int(both[row])) for row in rows[is_one_sided]))


def _field(row_set: RowSet, row: int) -> str:
    record, name = row_set.spool.row(row), row_set.data.split.stratify or ""
    return row_set.mask(str(record.get("metadata", {}).get(name, record.get(name))))
