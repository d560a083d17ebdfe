"""Build `report.json` of the data stage."""

from __future__ import annotations

from collections import Counter

import numpy as np

from trainer.data.clean.strings import length_shared
from trainer.data.dataset import Rows, RowSet
from trainer.data.duplicates.texts import answer_text, prompt_text, reply_text
from trainer.data.records.kinds import TEXT, TOKENS
from trainer.data.rejections import RowCounts
from trainer.shapes.report import (
    Arrangement,
    CleanedRows,
    Conflicts,
    DataReport,
    Duplicates,
    FrequentAnswer,
    LintFinding,
    Patterns,
    PersonalDataFound,
    RowPair,
    RowStatistics,
)

MAX_LISTED, MAX_GROUPS = 20, 1000
MAX_ANSWER_CHARS = 200
MAX_SAMPLE_CHARS, SHARED_CHARS = 500, 120


def build_report(
    row_set: RowSet, sides: dict[str, Rows], arrangement: Arrangement, *, lint: list[LintFinding], stats: RowStatistics
) -> DataReport:
    """Return `report.json`; the same rows give the same report."""
    columns, counts = row_set.table.columns, row_set.counts
    rows = np.concatenate(list(sides.values()))
    turns = Counter(columns["num_turns"][rows[~np.isin(columns["kind"][rows], (TEXT, TOKENS))]].tolist())
    return {
        "rows_read": counts.num_read,
        "rows_train": int(sides["train"].size),
        "rows_validation": int(sides["validation"].size),
        "rows_heldout": int(sides["heldout"].size),
        "rejected": dict(sorted(counts.reasons.items())),
        "rejected_rows": dict(sorted(counts.listed.items())),
        "formats": {source: dict(sorted(counts.items())) for source, counts in sorted(counts.formats.items())},
        "sources": {usage.name: usage.to_json(row_set.mask) for usage in counts.usages.values()},
        "turns": {str(number): turns[number] for number in sorted(turns)},
        "most_frequent_answer": _most_frequent_answer(row_set, sides["train"]),
        "clean": _cleaned(counts),
        "pii": _personal(counts),
        "duplicates": _duplicates(row_set),
        "conflicts": _conflicts(row_set),
        "patterns": _patterns(row_set),
        **arrangement,
        "lint": lint,
        "stats": stats,
    }


def _cleaned(counts: RowCounts) -> dict[str, CleanedRows]:
    return {
        change: {
            "count": counts.changed_rows[change],
            "strings": counts.changes[change],
            "samples": counts.samples.get(change, []),
        }
        for change in sorted(counts.changed_rows)
    }


def _personal(counts: RowCounts) -> dict[str, PersonalDataFound]:
    return {
        kind: {"count": values.num_values, "rows": values.num_rows, "action": values.action, "samples": values.samples}
        for kind, values in sorted(counts.pii.items())
    }


def _duplicates(row_set: RowSet) -> Duplicates:
    copies = row_set.copies
    samples: list[RowPair] = [
        {**_pair(row_set, row, original), "similarity": round(score, 3)}
        for row, (original, score) in list(copies.near.items())[:MAX_LISTED]
    ]
    action = row_set.data.dedupe.near
    return {"exact": len(copies.exact), "near": len(copies.near), "near_action": action, "samples": samples}


def _patterns(row_set: RowSet) -> Patterns:
    """Show two rows of each of the largest patterns beside each other: the slots are where they differ."""
    groups = row_set.copies.patterns
    samples: list[RowPair] = [
        {**_pair(row_set, int(group[0]), int(group[group.size // 2])), "reason": f"{group.size} rows of one pattern"}
        for group in groups[:MAX_LISTED]
    ]
    sizes = [int(group.size) for group in groups]
    return {"patterns": len(groups), "rows": sum(sizes), "sizes": sizes[:MAX_LISTED], "samples": samples}


def _conflicts(row_set: RowSet) -> Conflicts:
    groups = row_set.copies.conflicts
    samples: list[RowPair] = [
        {**_pair(row_set, *group[:2]), "reason": _prompt_relation(row_set, group)} for group in groups[:MAX_LISTED]
    ]
    refs = [[row_set.table.ref(row) for row in group] for group in groups[:MAX_GROUPS]]
    return {"groups": len(groups), "rows": len(set().union(*groups)), "places": refs, "samples": samples}


def _prompt_relation(row_set: RowSet, group: list[int]) -> str:
    is_same = len(set(row_set.table.columns["prompt"][group].tolist())) == 1
    return f"{len(group)} rows with this prompt" if is_same else "nearly the same prompt"


def _pair(row_set: RowSet, row: int, of: int) -> RowPair:
    table = row_set.table
    text, of_text = windows(excerpt_of(row_set, row), excerpt_of(row_set, of))
    return {"row": table.ref(row), "of": table.ref(of), "text": text, "of_text": of_text}


def excerpt_of(row_set: RowSet, row: int) -> str:
    """Return what a row says, personal data masked: before it is cut, so that no half of a value is left."""
    record = row_set.spool.row(row)
    text = " \u2192 ".join(part for part in (prompt_text(record), answer_text(record)) if part)
    return row_set.mask(" ".join(text.split()))


def windows(left: str, right: str) -> tuple[str, str]:
    """Cut two texts to the same length, from shortly before they begin to differ."""
    shared = length_shared(left, right)
    start = 0
    if max(len(left), len(right)) > MAX_SAMPLE_CHARS and shared > SHARED_CHARS:
        start = left.rfind(" ", 0, shared - SHARED_CHARS) + 1
    return _window(left, start), _window(right, start)


def _window(text: str, start: int) -> str:
    end = start + MAX_SAMPLE_CHARS
    return ("\u2026 " if start else "") + text[start:end] + (" \u2026" if len(text) > end else "")


def _most_frequent_answer(row_set: RowSet, rows: Rows) -> FrequentAnswer | None:
    """Return the final answer that most rows share: what a model would score by always saying it."""
    replies = row_set.table.columns["reply"][rows]
    rows, replies = rows[replies != 0], replies[replies != 0]
    if not rows.size:
        return None
    values, first, counts = np.unique(replies, return_index=True, return_counts=True)
    # Of equally frequent answers the one that comes first.
    best = min(range(values.size), key=lambda index: (-int(counts[index]), int(first[index])))
    text = row_set.mask(reply_text(row_set.spool.row(int(rows[first[best]]))))
    share = int(counts[best]) / rows.size
    return {"text": text, "share": share} if len(text) <= MAX_ANSWER_CHARS else {"share": share}
