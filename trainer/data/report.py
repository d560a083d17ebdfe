"""`report.json` of the data stage: what was read, changed, left out and found."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from trainer.data.dataset import Rows, RowSet
from trainer.data.duplicates.texts import answer_text, prompt_text, reply_text
from trainer.data.records.kinds import TEXT, TOKENS
from trainer.data.rejections import RowCounts

MAX_LISTED, MAX_GROUPS = 20, 1000
MAX_ANSWER_CHARS = 200
MAX_SAMPLE_CHARS, SHARED_CHARS = 500, 120


def build_report(desk: RowSet, sides: dict[str, Rows], facts: dict[str, Any]) -> dict[str, Any]:
    """Return `report.json`; the same rows give the same report.

    Args:
        desk: everything about the rows.
        sides: rows of each side.
        facts: further sections.
    """
    columns, ledger = desk.table.columns, desk.ledger
    kept = np.concatenate(list(sides.values()))
    turns = Counter(columns["num_turns"][kept[~np.isin(columns["kind"][kept], (TEXT, TOKENS))]].tolist())
    return {
        "rows_read": ledger.num_read,
        **{f"rows_{side}": int(rows.size) for side, rows in sides.items()},
        "rejected": dict(sorted(ledger.reasons.items())),
        "rejected_rows": dict(sorted(ledger.listed.items())),
        "formats": {source: dict(sorted(counts.items())) for source, counts in sorted(ledger.formats.items())},
        "sources": {usage.name: usage.to_json(desk.mask) for usage in ledger.usages.values()},
        "turns": {str(number): turns[number] for number in sorted(turns)},
        "most_frequent_answer": _most_frequent_answer(desk, sides["train"]),
        "clean": _cleaned(ledger),
        "pii": _personal(ledger),
        "duplicates": _duplicates(desk),
        "conflicts": _conflicts(desk),
        "patterns": _patterns(desk),
        **facts,
    }


def _cleaned(ledger: RowCounts) -> dict[str, Any]:
    return {
        change: {
            "count": ledger.changed_rows[change],
            "strings": ledger.changes[change],
            "samples": ledger.samples.get(change, []),
        }
        for change in sorted(ledger.changed_rows)
    }


def _personal(ledger: RowCounts) -> dict[str, Any]:
    return {
        kind: {"count": found.num_values, "rows": found.num_rows, "action": found.action, "samples": found.samples}
        for kind, found in sorted(ledger.pii.items())
    }


def _duplicates(desk: RowSet) -> dict[str, Any]:
    copies = desk.copies
    samples = [
        _pair(desk, row, kept) | {"similarity": round(score, 3)}
        for row, (kept, score) in list(copies.near.items())[:MAX_LISTED]
    ]
    action = desk.data.dedupe.near
    return {"exact": len(copies.exact), "near": len(copies.near), "near_action": action, "samples": samples}


def _patterns(desk: RowSet) -> dict[str, Any]:
    """Show two rows of each of the largest patterns beside each other: the slots are where they differ."""
    groups = desk.copies.patterns
    samples = [
        _pair(desk, int(group[0]), int(group[group.size // 2])) | {"reason": f"{group.size} rows of one pattern"}
        for group in groups[:MAX_LISTED]
    ]
    sizes = [int(group.size) for group in groups]
    return {"patterns": len(groups), "rows": sum(sizes), "sizes": sizes[:MAX_LISTED], "samples": samples}


def _conflicts(desk: RowSet) -> dict[str, Any]:
    groups = desk.copies.conflicts
    samples = [_pair(desk, *group[:2]) | {"reason": _asked(desk, group)} for group in groups[:MAX_LISTED]]
    places = [[desk.table.ref(row) for row in group] for group in groups[:MAX_GROUPS]]
    return {"groups": len(groups), "rows": len(set().union(*groups)), "places": places, "samples": samples}


def _asked(desk: RowSet, group: list[int]) -> str:
    is_same = len(set(desk.table.columns["prompt"][group].tolist())) == 1
    return f"{len(group)} rows with this prompt" if is_same else "nearly the same prompt"


def _pair(desk: RowSet, row: int, of: int) -> dict[str, Any]:
    table = desk.table
    text, of_text = windows(said_by(desk, row), said_by(desk, of))
    return {"row": table.ref(row), "of": table.ref(of), "text": text, "of_text": of_text}


def said_by(desk: RowSet, row: int) -> str:
    """Return what a row says, personal data masked: before it is cut, so that no half of a value is left."""
    record = desk.spool.row(row)
    said = " \u2192 ".join(part for part in (prompt_text(record), answer_text(record)) if part)
    return desk.mask(" ".join(said.split()))


def windows(left: str, right: str) -> tuple[str, str]:
    """Cut two texts to the same length, from shortly before they begin to differ."""
    shared = next(
        (place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other),
        min(len(left), len(right)),
    )
    start = 0
    if max(len(left), len(right)) > MAX_SAMPLE_CHARS and shared > SHARED_CHARS:
        start = left.rfind(" ", 0, shared - SHARED_CHARS) + 1
    return _window(left, start), _window(right, start)


def _window(text: str, start: int) -> str:
    end = start + MAX_SAMPLE_CHARS
    return ("\u2026 " if start else "") + text[start:end] + (" \u2026" if len(text) > end else "")


def _most_frequent_answer(desk: RowSet, rows: Rows) -> dict[str, object] | None:
    """Return the final answer that most rows share: what a model would score by always saying it."""
    replies = desk.table.columns["reply"][rows]
    rows, replies = rows[replies != 0], replies[replies != 0]
    if not rows.size:
        return None
    values, first, counts = np.unique(replies, return_index=True, return_counts=True)
    # Of equally frequent answers the one that comes first.
    best = min(range(values.size), key=lambda place: (-int(counts[place]), int(first[place])))
    text = desk.mask(reply_text(desk.spool.row(int(rows[first[best]]))))
    shown = {"text": text} if len(text) <= MAX_ANSWER_CHARS else {}
    return {**shown, "share": int(counts[best]) / rows.size}
