"""Report, drop or refuse training rows that give away test rows, as `data.contamination.action` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer.data.contamination import Hit, find_shared_runs
from trainer.data.dataset import Rows, RowSet
from trainer.data.duplicates.texts import answer_text, prompt_text
from trainer.data.records.kinds import Side
from trainer.errors import DataError
from trainer.shapes.report import ContaminationSummary, HeldoutRuns, RowPair

MAX_SHOWN, MAX_LISTED = 3, 20
EXCERPT_CHARS = 160
MAX_HELDOUT_ROWS = 20_000
"""Held-out rows whose word runs are looked for: evenly spaced ones of more; it is only reported."""


def guard(row_set: RowSet, folder: Path) -> ContaminationSummary:
    """Compare training rows with benchmarks and given held-out files, and do what the recipe says about hits.

    Returns:
        `contamination` of report.json: action, rows by kind, and the first pairs.

    Raises:
        DataError: there are hits and the action is error; the message shows both rows.
    """
    section = row_set.data.contamination
    hits = sorted([*_exact_hits(row_set), *_near_hits(row_set), *_run_hits(row_set, folder)])
    first = {hit.row: hit for hit in reversed(hits)}
    if first and section.action == "error":
        raise _error(row_set, list(dict(sorted(first.items())).values()))
    if section.action == "drop":
        for row, hit in sorted(first.items()):
            row_set.reject(row, "contaminated", hit.tested, hit.kind)
        row_set.rows[Side.SOURCE] = row_set.rows[Side.SOURCE][~np.isin(row_set.rows[Side.SOURCE], list(first))]
    kinds = Counter(hit.kind for hit in first.values())
    listed = [_listed(row_set, first[row]) for row in sorted(first)[:MAX_LISTED]]
    return {"action": section.action, "hits": dict(sorted(kinds.items())), "samples": listed}


def _exact_hits(row_set: RowSet) -> Iterator[Hit]:
    if row_set.data.contamination.exact:
        for row, tested in row_set.same_prompts(Side.SOURCE, Side.BENCHMARK).items():
            yield Hit(row, tested, "exact", 1.0)


def _near_hits(row_set: RowSet) -> Iterator[Hit]:
    """Yield training rows that say nearly the same as a protected one, or ask nearly what a bare question asks."""
    edges = row_set.copies.edges
    if not row_set.data.contamination.near or edges is None:
        return
    edges = row_set.still_in(edges)
    side, answer = row_set.table.columns["side"], row_set.table.columns["answer"]
    for (left, right), score, is_copy, is_conflict in zip(
        edges.pairs.tolist(),
        edges.score.tolist(),
        (edges.duplicate | edges.alike).tolist(),
        edges.conflict.tolist(),
        strict=True,
    ):
        row, tested = (left, right) if side[left] == Side.SOURCE else (right, left)
        is_question = is_conflict and answer[tested] == 0
        if side[row] == Side.SOURCE and side[tested] != Side.SOURCE and (is_copy or is_question):
            yield Hit(row, tested, "near", score)


def _run_hits(row_set: RowSet, folder: Path) -> list[Hit]:
    rows, protected = row_set.rows[Side.SOURCE], row_set.rows[Side.BENCHMARK]
    num_words = row_set.data.contamination.ngram
    if not num_words or not protected.size:
        return []
    return find_shared_runs(row_set.texts, row_set.workers, rows, protected, num_words=num_words, folder=folder)


def compare_with_heldout(row_set: RowSet, sides: dict[str, Rows], folder: Path) -> HeldoutRuns | None:
    """Count the training rows that share word runs with held-out rows: the same document may be behind both.

    Returns:
        None where nothing can be compared.
    """
    num_words, heldout = row_set.data.contamination.ngram, sides["heldout"]
    if not num_words or not heldout.size or not sides["train"].size:
        return None
    sample = heldout[:: -(-heldout.size // MAX_HELDOUT_ROWS)]
    hits = find_shared_runs(row_set.texts, row_set.workers, sides["train"], sample, num_words=num_words, folder=folder)
    pairs = [_listed(row_set, hit) for hit in hits[:MAX_LISTED]]
    return {"rows": len(hits), "heldout_rows_compared": int(sample.size), "samples": pairs}


def _listed(row_set: RowSet, hit: Hit) -> RowPair:
    pair: RowPair = {
        "row": row_set.table.ref(hit.row),
        "of": row_set.table.ref(hit.tested),
        "reason": hit.kind,
        "text": excerpt(row_set, hit.row),
        "of_text": excerpt(row_set, hit.tested),
    }
    if hit.kind == "ngram":
        pair["runs"] = int(hit.score)
    else:
        pair["similarity"] = round(hit.score, 3)
    return pair


def excerpt(row_set: RowSet, row: int) -> str:
    """Return the beginning of what a row says, personal data masked."""
    record = row_set.spool.row(row)
    text = " | ".join(part for part in (prompt_text(record), answer_text(record)) if part)
    return row_set.mask(" ".join(text.split()))[:EXCERPT_CHARS]


def _error(row_set: RowSet, hits: list[Hit]) -> DataError:
    examples = "\n".join(
        f"{row_set.table.ref(hit.row)} ({_described(hit)} {row_set.table.ref(hit.tested)}):\n"
        f"  train: {excerpt(row_set, hit.row)}\n  tested on: {excerpt(row_set, hit.tested)}"
        for hit in hits[:MAX_SHOWN]
    )
    return DataError(
        f"{examples}\n{len(hits)} training rows give away rows that the model is tested on",
        hint="remove them with data.contamination.action: drop, or only report them with action: report",
    )


def _described(hit: Hit) -> str:
    match hit.kind:
        case "exact":
            return "same prompt as"
        case "near":
            return f"similarity {hit.score:.2f} with"
        case "ngram":
            return f"{hit.score:.0f} runs of words shared with"
