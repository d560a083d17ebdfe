"""The linter's round over all rows: facts read back from disk, and what the other steps have counted."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from trainer.data.dataset import Rows, RowSet
from trainer.data.lint.finding import Finding, LintContext, PersonalData, Seen
from trainer.data.lint.fixes import advised
from trainer.data.lint.run import Linter
from trainer.data.read.hub import resolved_commit
from trainer.data.records.kinds import MESSAGES
from trainer.data.records.reasons import shown
from trainer.data.rejections import NUM_LISTED
from trainer.recipe.data import HUB_PREFIX


def lint(desk: RowSet, sides: dict[str, Rows], contamination: dict[str, Any]) -> tuple[list[Finding], dict[str, Any]]:
    """Check the training rows.

    Args:
        desk: everything about the rows.
        sides: rows of each side.
        contamination: that section of report.json.

    Returns:
        Findings, and the distributions for the report.
    """
    linter = Linter(desk.data.lint, mask=desk.mask)
    is_train = desk.table.mask(sides["train"])
    begin = 0
    for size, blob in zip(desk.table.chunk_sizes, desk.facts.lines(np.arange(len(desk.facts))), strict=True):
        chosen = np.flatnonzero(is_train[begin : begin + size]).tolist()
        facts = pickle.loads(blob) if chosen else []
        for place in chosen:
            linter.add(desk.table.ref(begin + place), facts[place])
        begin += size
    findings = linter.finish(lint_context(desk, sides, contamination))
    return [advised(finding, desk.data) for finding in findings], linter.stats()


def lint_context(desk: RowSet, sides: dict[str, Rows], contamination: dict[str, Any]) -> LintContext:
    """Return what the other steps know about all rows together."""
    ledger, copies, table = desk.ledger, desk.copies, desk.table
    exact = [f"{table.ref(row)} = {table.ref(kept)}" for row, kept in list(copies.exact.items())[:NUM_LISTED]]
    near = [f"{table.ref(row)} = {table.ref(kept)}" for row, (kept, _) in list(copies.near.items())[:NUM_LISTED]]
    same, near_same = _conflicts(desk)
    return LintContext(
        rows_read=ledger.num_read,
        rows_train=int(sides["train"].size),
        rows_heldout=int(sides["heldout"].size),
        formats=ledger.formats,
        telling=_telling(desk),
        rejected={reason: Seen(count, tuple(ledger.listed[reason])) for reason, count in ledger.reasons.items()},
        exact_duplicates=Seen(len(copies.exact), tuple(exact)),
        near_duplicates=Seen(len(copies.near), tuple(near)),
        near_removed=desk.data.dedupe.near == "drop",
        patterns=_patterns(desk),
        pattern_sizes=tuple(int(group.size) for group in copies.patterns),
        conflicts=same,
        near_conflicts=near_same,
        cleaned=ledger.changed_rows,
        unpinned=_unpinned(desk),
        same_prompt=_same_prompt(desk, sides["train"]),
        same_answer=_same_answer(desk, sides["train"]),
        leaks=_leaks(contamination),
        missing_classes=_missing_classes(desk, sides),
        pii={
            kind: PersonalData(Seen(found.num_rows, tuple(found.rows)), found.action)
            for kind, found in ledger.pii.items()
        },
    )


def _telling(desk: RowSet) -> dict[str, int]:
    """Return columns that no row is made of though their names say what they mean.

    Those that the split goes by, and those that the recipe leaves out on purpose, are not among them.
    """
    split = desk.data.split
    ignored = [name for name in (split.by, split.stratify) if name]
    ignored += [name for source in desk.data.sources for name, column in source.mapping.items() if not column]
    return {
        f"{usage.name}: {shown(name)} ({meaning})": count
        for usage in desk.ledger.usages.values()
        for name, meaning, count in usage.telling(ignored)
    }


def _patterns(desk: RowSet) -> Seen:
    groups, table = desk.copies.patterns, desk.table
    listed = [f"{table.ref(int(group[0]))} = {table.ref(int(group[1]))}" for group in groups[:NUM_LISTED]]
    return Seen(sum(group.size for group in groups), tuple(listed))


def _unpinned(desk: RowSet) -> dict[str, str]:
    named = [source for source in desk.data.sources if source.path.startswith(HUB_PREFIX) and not source.revision]
    return {source.path: resolved_commit(source.path.removeprefix(HUB_PREFIX)) for source in named}


def _conflicts(desk: RowSet) -> tuple[Seen, Seen]:
    """Tell conflicts of the very same prompt from those of prompts that only look alike and may ask something else."""
    prompts, table = desk.table.columns["prompt"], desk.table
    is_same = [len({int(prompts[row]) for row in group}) == 1 for group in desk.copies.conflicts]
    found = []
    for wanted in (True, False):
        groups = [group for group, same in zip(desk.copies.conflicts, is_same, strict=True) if same == wanted]
        listed = tuple(f"{table.ref(group[0])} = {table.ref(group[1])}" for group in groups[:NUM_LISTED])
        found.append(Seen(len(set().union(*groups)), listed))
    return found[0], found[1]


def _same_prompt(desk: RowSet, rows: Rows) -> Seen:
    rows = rows[(desk.table.columns["kind"][rows] == MESSAGES) & (desk.table.columns["prompt_chars"][rows] > 0)]
    prompts = desk.table.columns["prompt"][rows]
    _, first, inverse = np.unique(prompts, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(rows.size))
    return Seen(int(again.size), tuple(desk.table.ref(int(rows[place])) for place in again[:NUM_LISTED]))


def _same_answer(desk: RowSet, rows: Rows) -> Seen:
    rows = rows[desk.table.columns["kind"][rows] == MESSAGES]
    if not rows.size:
        return Seen()
    _, inverse, counts = np.unique(desk.table.columns["answer"][rows], return_inverse=True, return_counts=True)
    same = np.flatnonzero(inverse == int(np.argmax(counts)))
    return Seen(int(same.size), tuple(desk.table.ref(int(rows[index])) for index in same[:NUM_LISTED]))


def _leaks(contamination: dict[str, Any]) -> dict[str, Seen]:
    if contamination["action"] != "report":
        return {}
    pairs = contamination["samples"]
    return {
        kind: Seen(
            count, tuple(f"{pair['row']} = {pair['of']}" for pair in pairs if pair["reason"] == kind)[:NUM_LISTED]
        )
        for kind, count in contamination["hits"].items()
    }


def _missing_classes(desk: RowSet, sides: dict[str, Rows]) -> tuple[str, ...]:
    """Return the classes of the field that stratifies which held-out or training rows lack."""
    if not desk.data.split.stratify or not sides["heldout"].size:
        return ()
    labels = desk.table.columns["label"]
    train, heldout = labels[sides["train"]], labels[sides["heldout"]]
    lonely, rows = np.unique(np.concatenate([train, heldout]), return_index=True)
    both = np.concatenate([sides["train"], sides["heldout"]])
    one_sided = ~(np.isin(lonely, train) & np.isin(lonely, heldout))
    return tuple(sorted(_field(desk, int(both[row])) for row in rows[one_sided]))


def _field(desk: RowSet, row: int) -> str:
    record, name = desk.spool.row(row), desk.data.split.stratify or ""
    return desk.mask(str(record.get("metadata", {}).get(name, record.get(name))))
