"""Read every row of a recipe into a `RowSet`, and give every row a side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data.column_usage import Usage
from trainer.data.contamination_check import compare_with_heldout, guard
from trainer.data.dataset import Rows, RowSet
from trainer.data.prepare import Prepared, Rules, chunks, prepare
from trainer.data.read.sources import Input, open_inputs, system_text
from trainer.data.records.kinds import Side
from trainer.data.rejections import FileCount
from trainer.data.semantic import find_semantic
from trainer.errors import DataError
from trainer.shapes.report import Arrangement, SplitSummary


def read_all(row_set: RowSet) -> None:
    """Read every file of the recipe, and put its finished rows into the table and onto disk."""
    rules = Rules.of(row_set.data, system_text(row_set.data))
    for input_file in open_inputs(row_set.data):
        label = input_file.origin.label
        usage = _usage(row_set, input_file)
        row_set.repeat_of[label] = input_file.repeat
        results = row_set.workers.map(prepare, chunks(input_file.rows, rules, input_file.origin))
        _read_file(row_set, input_file.path, input_file.side, label, usage, results)
    row_set.spool.close_writing()
    row_set.texts.close_writing()
    row_set.facts.close_writing()
    row_set.begin()


def _usage(row_set: RowSet, input_file: Input) -> Usage:
    """Return the counts of a file's source; those of benchmarks are not shown."""
    usage = Usage(input_file.source_name)
    if input_file.side != Side.BENCHMARK:
        usage = row_set.counts.usages.setdefault(input_file.source, usage)
    usage.files.append(input_file.origin.label)
    usage.how += Counter([input_file.how] if input_file.how else [])
    return usage


def _read_file(row_set: RowSet, path: str, side: Side, label: str, usage: Usage, results: Iterator[Prepared]) -> None:
    counted = FileCount()
    for result in results:
        if result.refusal:
            raise DataError(result.refusal[0], hint=result.refusal[1])
        counted.add(result)
        usage.add(result)
        if side != Side.BENCHMARK:
            row_set.counts.note(result, label)
        row_set.spool.append(result.lines, result.columns["size"])
        row_set.texts.append(result.texts, result.columns["texts_size"])
        row_set.facts.append(result.facts, np.array([len(result.facts)]))
        row_set.table.add(result, label, side)
    counted.check(path, row_set.data.max_rejected)


def arrange(row_set: RowSet, folder: Path) -> tuple[dict[str, Rows], Arrangement]:
    """Take out copies and leaks, and give every row a side.

    Returns:
        Rows of each side, and what `report.json` says about the split, contamination and rows alike in meaning.
    """
    dedupe = row_set.data.dedupe
    if dedupe.exact:
        row_set.drop_exact()
    if dedupe.near != "off":
        row_set.find_near()
    row_set.drop_leaks()
    row_set.find_conflicts()
    contamination = guard(row_set, folder)
    sides, groups = row_set.divide()
    shared_runs = compare_with_heldout(row_set, sides, folder)
    if shared_runs is not None:
        contamination["heldout_ngram"] = shared_runs
    largest = int(groups.sizes.max()) if groups.sizes.size else 0
    split: SplitSummary = {"groups": groups.sizes.size, "largest_group": largest, "near_pairs_cut": groups.num_cut}
    arrangement: Arrangement = {"split": split, "contamination": contamination}
    if dedupe.semantic:
        arrangement["semantic"] = find_semantic(row_set, sides, dedupe.semantic)
    return sides, arrangement
