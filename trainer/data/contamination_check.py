"""Contamination of the training rows: found, and then an error, left out or reported, as the recipe says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.contamination import Hit, find_shared_runs
from trainer.data.dataset import Rows, RowSet
from trainer.data.duplicates.texts import answer_text, prompt_text
from trainer.data.records.kinds import Side
from trainer.errors import DataError

MAX_SHOWN, MAX_LISTED = 3, 20
EXCERPT_CHARS = 160
MAX_HELDOUT_ROWS = 20_000
"""Held-out rows whose word runs are looked for: evenly spaced ones of more; it is only reported."""


def guard(desk: RowSet, folder: Path) -> dict[str, Any]:
    """Compare training rows with benchmarks and given held-out files, and do what the recipe says about hits.

    Returns:
        `contamination` of report.json: action, rows by kind, and the first pairs.

    Raises:
        DataError: there are hits and the action is error; the message shows both rows.
    """
    section = desk.data.contamination
    hits = sorted([*_exact_hits(desk), *_near_hits(desk), *_run_hits(desk, folder)])
    first = {hit.row: hit for hit in reversed(hits)}
    if first and section.action == "error":
        raise _error(desk, list(dict(sorted(first.items())).values()))
    if section.action == "drop":
        for row, hit in sorted(first.items()):
            desk.reject(row, "contaminated", hit.other, hit.kind)
        desk.rows[Side.SOURCE] = desk.rows[Side.SOURCE][~np.isin(desk.rows[Side.SOURCE], list(first))]
    kinds = Counter(hit.kind for hit in first.values())
    listed = [_listed(desk, first[row]) for row in sorted(first)[:MAX_LISTED]]
    return {"action": section.action, "hits": dict(sorted(kinds.items())), "samples": listed}


def _exact_hits(desk: RowSet) -> Iterator[Hit]:
    if desk.data.contamination.exact:
        for row, other in desk.same_prompts(Side.SOURCE, Side.BENCHMARK).items():
            yield Hit(row, other, "exact", 1.0)


def _near_hits(desk: RowSet) -> Iterator[Hit]:
    """Yield training rows that say nearly the same as a protected one, or ask nearly what a bare question asks."""
    edges = desk.copies.edges
    if not desk.data.contamination.near or edges is None:
        return
    edges = desk.still_in(edges)
    side, answer = desk.table.columns["side"], desk.table.columns["answer"]
    for (left, right), score, is_copy, is_conflict in zip(
        edges.pairs.tolist(),
        edges.score.tolist(),
        (edges.duplicate | edges.alike).tolist(),
        edges.conflict.tolist(),
        strict=True,
    ):
        row, other = (left, right) if side[left] == Side.SOURCE else (right, left)
        is_question = is_conflict and answer[other] == 0
        if side[row] == Side.SOURCE and side[other] != Side.SOURCE and (is_copy or is_question):
            yield Hit(row, other, "near", score)


def _run_hits(desk: RowSet, folder: Path) -> list[Hit]:
    rows, protected = desk.rows[Side.SOURCE], desk.rows[Side.BENCHMARK]
    num_words = desk.data.contamination.ngram
    if not num_words or not protected.size:
        return []
    return find_shared_runs(desk.said, desk.workers, rows, protected, num_words=num_words, folder=folder)


def compare_with_heldout(desk: RowSet, sides: dict[str, Rows], folder: Path) -> dict[str, Any]:
    """Count the training rows that share word runs with held-out rows: the same document may be behind both."""
    num_words, heldout = desk.data.contamination.ngram, sides["heldout"]
    if not num_words or not heldout.size or not sides["train"].size:
        return {}
    sample = heldout[:: -(-heldout.size // MAX_HELDOUT_ROWS)]
    hits = find_shared_runs(desk.said, desk.workers, sides["train"], sample, num_words=num_words, folder=folder)
    pairs = [_listed(desk, hit) for hit in hits[:MAX_LISTED]]
    return {"heldout_ngram": {"rows": len(hits), "heldout_rows_compared": int(sample.size), "samples": pairs}}


def _listed(desk: RowSet, hit: Hit) -> dict[str, Any]:
    return {
        "row": desk.table.ref(hit.row),
        "of": desk.table.ref(hit.other),
        "reason": hit.kind,
        **({"runs": int(hit.score)} if hit.kind == "ngram" else {"similarity": round(hit.score, 3)}),
        "text": excerpt(desk, hit.row),
        "of_text": excerpt(desk, hit.other),
    }


def excerpt(desk: RowSet, row: int) -> str:
    """Return the beginning of what a row says, personal data masked."""
    record = desk.spool.row(row)
    said = " | ".join(part for part in (prompt_text(record), answer_text(record)) if part)
    return desk.mask(" ".join(said.split()))[:EXCERPT_CHARS]


def _error(desk: RowSet, hits: list[Hit]) -> DataError:
    shown = "\n".join(
        f"{desk.table.ref(hit.row)} ({_described(hit)} {desk.table.ref(hit.other)}):\n"
        f"  train: {excerpt(desk, hit.row)}\n  tested on: {excerpt(desk, hit.other)}"
        for hit in hits[:MAX_SHOWN]
    )
    return DataError(
        f"{shown}\n{len(hits)} training rows give away rows that the model is tested on",
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
