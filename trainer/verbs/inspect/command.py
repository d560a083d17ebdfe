"""Run `trainer inspect`: choose rows, explain the choice, print them. No torch until tokens or losses are needed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from trainer.disk import read_json
from trainer.errors import DataError, StageError
from trainer.recipe import Recipe
from trainer.rundir import RunFolder
from trainer.shapes.report import LintFinding
from trainer.verbs.inspect.collect import add_to_suite
from trainer.verbs.inspect.rejected import Rejected, rejected_rows
from trainer.verbs.inspect.rows import (
    TRAITS,
    InspectedRow,
    Suspicion,
    is_position,
    read_rows,
    rows_at,
    rows_with_rule,
    rows_with_trait,
)
from trainer.verbs.inspect.show import row_text, show_beside, show_record, show_spans

if TYPE_CHECKING:  # it loads a tokenizer
    from trainer.verbs.inspect.tokens import TokenView

LABEL_ERRORS = "label-errors"
FLAGS = (*TRAITS, LABEL_ERRORS)
PLAIN_WIDTH = 100


@dataclass(frozen=True)
class InspectOptions:
    """Which rows are asked for; nothing: the first training rows."""

    row: str | None = None
    rule: str | None = None
    flag: str | None = None
    rejected: str | None = None
    """A reason, "" for any."""
    limit: int = 5
    suite: str | None = None
    """Suite file that the row is added to."""


def inspect(recipe: Recipe, run: RunFolder, request: InspectOptions, *, arguments: str) -> None:
    """Print rows of a run.

    Args:
        recipe: for the tokenizer, and for the files of rows that were left out.
        run: the run folder.
        request: which rows.
        arguments: the command line's recipe and run folder, for the fixes that are printed.

    Raises:
        StageError: `data/` is missing.
        DataError: There are no such rows.
    """
    if request.limit < 1:
        raise DataError(f"--limit {request.limit}: at least one row", hint="leave it out to see 5")
    if request.suite is not None and request.row is None:
        raise DataError("--add-to-suite adds one row, and none is named", hint="give --row FILE:LINE")
    folder = data_folder(run, arguments)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    if request.rejected is not None:
        for left_out in rejected_rows(folder, recipe.data, request.rejected, request.limit):
            _show_rejected(console, left_out)
        return
    chosen = _chosen(recipe, run, folder, request)
    notice = missing_tokens(run, folder)
    if notice:
        console.print(Text(f"{notice}: text instead of tokens; trainer pack {arguments} makes them", style="dim"))
    tokens = None if notice else _token_view(recipe, run)
    for row in chosen:
        _show_row(console, row, tokens)
    if request.suite is not None:
        _add(console, chosen, Path(request.suite))


def _add(console: Console, chosen: list[InspectedRow], suite: Path) -> None:
    """Add the one row that was shown to a suite, and say so."""
    if len(chosen) > 1:
        positions = ", ".join(row.position for row in chosen)
        raise DataError(
            f"--add-to-suite adds one row, and these are {len(chosen)}: {positions}", hint="--row FILE:LINE"
        )
    added = add_to_suite(chosen[0], suite)
    state = f"added to {added.items}" if added.is_new else f"is in {suite} already"
    trained = "" if chosen[0].side == "heldout" else f"; it is a {chosen[0].side} row, so training sees its answer"
    console.print(Text(f"\n{added.id} {state}{trained}"), soft_wrap=True)


def data_folder(run: RunFolder, arguments: str) -> Path:
    """Return the folder of the rows; of a data stage that ended with errors, what it had written by then.

    Raises:
        StageError: There is neither.
    """
    partial = run.path / "data.partial"
    if (partial / "report.json").is_file():
        return partial
    if run.record("data") is None:
        raise StageError(f"{run.stage_dir('data')} is not there: no rows to show", hint=f"trainer data {arguments}")
    return run.stage_dir("data")


def missing_tokens(run: RunFolder, folder: Path) -> str:
    """Say why there are no tokens of these rows; empty where there are."""
    record = run.record("pack")
    if record is None:
        return "pack has not run"
    rows = folder / "train.jsonl"
    is_same = rows.is_file() and record.inputs.get("data/train.jsonl") == run.hashes.file(rows)
    return "" if is_same else "pack was made from other rows"


def _token_view(recipe: Recipe, run: RunFolder) -> TokenView:
    from trainer.verbs.inspect.tokens import TokenView  # noqa: PLC0415  needs torch

    return TokenView(recipe, run)


def _chosen(recipe: Recipe, run: RunFolder, folder: Path, request: InspectOptions) -> list[InspectedRow]:
    if request.row is not None:
        return _rows_at(folder, request.row)[: request.limit]
    if request.rule is not None:
        return rows_with_rule(folder, _findings(run, folder), request.rule, request.limit)
    if request.flag == LABEL_ERRORS:
        return _label_errors(recipe, run, request.limit)
    if request.flag is not None:
        if request.flag not in FLAGS:
            raise DataError(f"no flag {request.flag!r}", hint=f"the flags are {', '.join(FLAGS)}")
        rows = rows_with_trait(folder, request.flag, request.limit)
        if not rows:
            raise DataError(f"no row has the flag {request.flag}", hint=f"other flags are {', '.join(FLAGS)}")
        return rows
    return [row for _, row in zip(range(request.limit), read_rows(folder), strict=False)]


def _findings(run: RunFolder, folder: Path) -> list[LintFinding]:
    """Return the findings of the data stage, and those of pack where it was made from the same rows."""
    reports = [folder / "report.json"]
    if not missing_tokens(run, folder):
        reports.append(run.stage_dir("pack") / "report.json")
    return [finding for path in reports for finding in read_json(path).get("lint") or []]


def _rows_at(folder: Path, position: str) -> list[InspectedRow]:
    if not is_position(position):
        raise DataError(f"{position!r} is no place of a row", hint="give --row FILE:LINE or --row LINE")
    rows = rows_at(folder, [position])
    if not rows:
        raise DataError(
            f"no row {position} in {folder}", hint="it may have been left out: trainer inspect RECIPE --rejected"
        )
    return rows


def _label_errors(recipe: Recipe, run: RunFolder, limit: int) -> list[InspectedRow]:
    from trainer.verbs.inspect.losses import label_errors  # noqa: PLC0415  needs torch

    ranked = {suspicion["row"]: suspicion for suspicion in label_errors(recipe, run)[:limit]}
    rows = {
        row.index: InspectedRow(row.side, row.index, row.record, ranked[row.index])
        for row in read_rows(run.stage_dir("data"), sides=("train",))
        if row.index in ranked
    }
    return [rows[index] for index in ranked if index in rows]


def _suspicion(entry: Suspicion, tokens: TokenView | None) -> str:
    if "margin" in entry:
        preferred = "; it prefers the rejected answer" if entry["margin"] < 0 else ""
        return (
            f"the model prefers chosen to rejected by {entry['margin']:+.3f} nats, "
            f"{entry['score']:+.1f} deviations less than in the median pair{preferred}"
        )
    loss = f"loss {entry['loss']:.3f} nats a token, {entry['score']:+.1f} deviations from the median"
    if entry["says"] is None or tokens is None:
        return loss
    answer, prediction = (
        tokens.tokenizer.decode(entry[key], skip_special_tokens=True).strip() for key in ("given", "says")
    )
    return f"given {answer!r}, the model says {prediction!r} ({entry['probability']:.0%}); {loss}"


def _show_row(console: Console, row: InspectedRow, tokens: TokenView | None) -> None:
    view = tokens.spans(row.side, row.index) if tokens is not None else None
    counted = f", {view[1]} tokens, {view[2]} trained" if view else ""
    missing = ", left out by pack (too long)" if tokens is not None and view is None else ""
    console.print(Text(f"\n{row.position}  {row.side}{counted}{missing}", style="bold"), soft_wrap=True)
    if row.suspicion:
        console.print(Text(_suspicion(row.suspicion, tokens), style="yellow"), soft_wrap=True)
    if view:
        show_spans(console, view[0])
    else:
        show_record(console, row.record)


def _show_rejected(console: Console, left_out: Rejected) -> None:
    detail = f": {left_out.detail}" if left_out.detail else ""
    console.print(Text(f"\n{left_out.position}  {left_out.reason}{detail}", style="bold"), soft_wrap=True)
    if left_out.record is not None and left_out.of:
        kept_text = row_text(left_out.survivor.record) if left_out.survivor else "(left out as well)"
        show_beside(
            console, (f"left out {left_out.position}", row_text(left_out.record)), (f"kept {left_out.of}", kept_text)
        )
    elif left_out.record is not None:
        show_record(console, left_out.record)
