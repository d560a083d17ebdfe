"""Run `trainer data`: read the rows, clean them, and write a file for each side of the split.

Writes `{train,validation,heldout}.jsonl`, `rejected.jsonl` with a line for every row left out, `report.json`, the page
`index.html`, and `previous.json`, the report of the data before.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson

import trainer
from trainer.data.cluster.launch import open_workers
from trainer.data.dataset import Rows, RowSet
from trainer.data.embedding import find_model
from trainer.data.fact_table import FactTable
from trainer.data.fit import check_kinds, check_split
from trainer.data.intake import arrange, read_all
from trainer.data.lint.run import raise_errors
from trainer.data.lint_rows import lint
from trainer.data.pii.hide import Mask
from trainer.data.read.files import passed_over
from trainer.data.rejections import NUM_LISTED, RowCounts
from trainer.data.report import build_report
from trainer.data.row_file import RowFile
from trainer.disk import read_json
from trainer.recipe import Recipe
from trainer.recipe.data import HUB_PREFIX
from trainer.recipe.pii import pseudonyms_pass_away
from trainer.render.data.page import render_data_page
from trainer.render.data.terminal import summary_text
from trainer.rundir import StageContext
from trainer.shapes.report import Arrangement, DataReport


def run(recipe: Recipe, context: StageContext) -> None:
    """Read, clean, deduplicate and split the rows of a recipe into `context.dir`.

    Raises:
        DataError: A file cannot be read, too many rows are malformed, rows do not fit the method, training rows hold
            test rows, or none are left.
    """
    data = recipe.data
    if data.dedupe.semantic:
        find_model(data.dedupe.semantic.model)
    with (
        open_workers(data, context.dir) as workers,
        RowFile(context.dir / "rows.partial") as spool,
        RowFile(context.dir / "texts.partial") as texts,
        RowFile(context.dir / "facts.partial") as facts,
        RowCounts(context.dir / "rejected.jsonl") as counts,
    ):
        row_set = RowSet(data, FactTable(), spool, texts, facts, workers, counts, Mask(data.pii))
        if pseudonyms_pass_away(data.pii):
            context.say(
                "pseudonyms are made with a key of this run alone: set data.pii.key_env to get the same ones again"
            )
        read_all(row_set)
        _say_sources(row_set, context)
        context.say(f"read {counts.num_read} rows, {counts.num_malformed()} malformed")
        check_kinds(row_set, recipe.method, has_system_prompt=recipe.data.system_prompt is not None)
        sides, arrangement = arrange(row_set, context.dir)
        check_split(row_set, sides, arrangement["split"]["groups"])
        _write_results(context, row_set, sides, arrangement, recipe.name)


def _say_sources(row_set: RowSet, context: StageContext) -> None:
    """Print a line about each source: layout, columns that are used and columns that are not."""
    for path, usage in row_set.counts.usages.items():
        context.say(usage.line(row_set.mask))
        if not path.startswith(HUB_PREFIX) and (files := passed_over(Path(path))):
            names = ", ".join(str(file.relative_to(path)) for file in files[:NUM_LISTED])
            context.say(f"{usage.name}: {len(files)} files that could hold rows are not read: {names}")


def _write_results(
    context: StageContext, row_set: RowSet, sides: dict[str, Rows], arrangement: Arrangement, recipe_name: str
) -> None:
    """Write the sides, the report and the page, show the findings.

    Raises:
        DataError: a finding is an error; the report is there all the same.
    """
    findings, stats = lint(row_set, sides, arrangement["contamination"])
    for side, indices in sides.items():
        _write_side(context.dir / f"{side}.jsonl", row_set, indices, is_train=side == "train")
    report = build_report(row_set, sides, arrangement, lint=[finding.to_json() for finding in findings], stats=stats)
    (context.dir / "report.json").write_bytes(write_report(report))
    previous = _keep_previous(context, report)
    page = render_data_page(report, previous, name=recipe_name, trainer_version=trainer.__version__)
    (context.dir / "index.html").write_text(page, encoding="utf-8")
    _note_numbers(context, row_set, sides)
    context.say(summary_text(report, previous))
    context.say(f"page: {_final(context.dir, report) / 'index.html'}")
    raise_errors(report["lint"])


def _final(folder: Path, report: DataReport) -> Path:
    """Return where the files will be: a stage with errors leaves them in its partial folder."""
    has_errors = any(finding["severity"] == "error" for finding in report["lint"])
    return folder if has_errors else folder.with_name(folder.name.removesuffix(".partial"))


def _note_numbers(context: StageContext, row_set: RowSet, sides: dict[str, Rows]) -> None:
    reasons = row_set.counts.reasons
    context.numbers["rows_read"] = row_set.counts.num_read
    context.numbers.update({f"rows_{side}": int(indices.size) for side, indices in sides.items()})
    context.numbers.update(
        rows_rejected=row_set.counts.num_rejected,
        duplicates=reasons["exact_duplicate"],
        near_duplicates=reasons["near_duplicate"],
        conflicts=len(row_set.copies.conflicts),
    )


def _keep_previous(context: StageContext, report: DataReport) -> DataReport | None:
    """Put the report of the data's previous version beside the new one, and return it; None where there is none."""
    path = context.input("data", "report.json")
    if not path.is_file():
        return None
    previous: DataReport | None = read_json(path)
    if previous == orjson.loads(write_report(report)):  # the same data again: its predecessor stays the previous one
        path = context.input("data", "previous.json")
        previous = read_json(path) if path.is_file() else None
    if previous is not None:
        shutil.copyfile(path, context.dir / "previous.json")
    return previous


def write_report(report: DataReport) -> bytes:
    """Return report.json."""
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _write_side(path: Path, row_set: RowSet, indices: Rows, *, is_train: bool) -> None:
    # Repeating is for training alone: a row counted twice in a measurement would weigh twice.
    repeats = [row_set.repeat_of[label] if is_train else 1.0 for label in row_set.table.labels]
    files = row_set.table.columns["file"][indices].tolist()
    with path.open("wb") as file:
        for number, line in zip(files, row_set.spool.lines(indices), strict=True):
            repeat = repeats[number]
            file.write(line if repeat == 1.0 else b'%b,"repeat":%b}\n' % (line[:-2], orjson.dumps(repeat)))
