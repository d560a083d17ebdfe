"""`trainer data`: rows in, three clean files out, and a line for every row left out."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

import numpy as np
import orjson

import trainer
from trainer.data.cluster.launch import open_workers
from trainer.data.column_usage import Usage
from trainer.data.contamination_check import compare_with_heldout, guard
from trainer.data.dataset import Rows, RowSet
from trainer.data.embedding import find_model
from trainer.data.fact_table import FactTable
from trainer.data.lint.run import Linter, raise_errors
from trainer.data.lint_rows import lint
from trainer.data.peek import Peeked, peek, unseen
from trainer.data.pii.hide import Mask
from trainer.data.prepare import Prepared, Rules, chunks, prepare
from trainer.data.read.files import passed_over
from trainer.data.read.sources import Input, open_inputs, system_text
from trainer.data.records.kinds import KTO, PAIR, TEXT, Side
from trainer.data.rejections import NUM_LISTED, FileCount, RowCounts, no_usable_rows
from trainer.data.report import build_report
from trainer.data.row_file import RowFile
from trainer.data.semantic import find_semantic
from trainer.errors import DataError
from trainer.recipe.data import HUB_PREFIX
from trainer.recipe.metric import Metric
from trainer.recipe.pii import pseudonyms_pass_away
from trainer.render.data_page import render_data_page
from trainer.render.data_terminal import summary_text
from trainer.rundir import read_json
from trainer.scoring.question import ANSWER_KIND

if TYPE_CHECKING:
    from trainer.recipe.schema import Recipe
    from trainer.rundir import StageContext

ONE_ANSWER = "to train a conversation beside its rejected answer, set data.sources[].format: messages"
"""What to do about rows that are read as pairs and meant as single ones."""


def run(recipe: Recipe, run: StageContext) -> None:
    """Read, clean, deduplicate and split the rows of a recipe into `run.dir`.

    Raises:
        DataError: a file cannot be read, too many rows are malformed, rows do not fit the method, training rows give
            away what is tested, or none are left.
    """
    data = recipe.data
    if data.dedupe.semantic:
        find_model(data.dedupe.semantic.model)
    with (
        open_workers(data, run.dir) as workers,
        RowFile(run.dir / "rows.partial") as spool,
        RowFile(run.dir / "said.partial") as said,
        RowFile(run.dir / "facts.partial") as facts,
        RowCounts(run.dir / "rejected.jsonl") as ledger,
    ):
        desk = RowSet(data, FactTable(), spool, said, facts, workers, ledger, Mask(data.pii))
        if pseudonyms_pass_away(data.pii):
            run.say("pseudonyms are made with a key of this run alone: set data.pii.key_env to get the same ones again")
        _read_all(desk)
        _say_sources(desk, run)
        run.say(f"read {ledger.num_read} rows, {ledger.num_malformed()} malformed")
        _check_kinds(desk, recipe)
        sides, sections = _arrange(desk, run)
        _check_sides(desk, sides, sections["split"]["groups"])
        _write_results(run, desk, sides, sections, recipe.name)


def _arrange(desk: RowSet, run: StageContext) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Take out copies and leaks, and give every row a side.

    Returns:
        Rows of each side, and what `report.json` says about the split, contamination and rows alike in meaning.
    """
    dedupe = desk.data.dedupe
    if dedupe.exact:
        desk.drop_exact()
    if dedupe.near != "off":
        desk.find_near()
    desk.drop_leaks()
    desk.find_conflicts()
    contamination = guard(desk, run.dir)
    sides, groups = desk.divide()
    contamination |= compare_with_heldout(desk, sides, run.dir)
    largest = int(groups.sizes.max()) if groups.sizes.size else 0
    split = {"groups": groups.sizes.size, "largest_group": largest, "near_pairs_cut": groups.num_cut}
    sections = {"split": split, "contamination": contamination}
    if dedupe.semantic:
        sections["semantic"] = find_semantic(desk, sides, dedupe.semantic)
    return sides, sections


def _check_sides(desk: RowSet, sides: dict[str, Rows], num_groups: int) -> None:
    """Refuse a split whose share was asked for and came out empty: evaluation would find out after the training.

    Raises:
        DataError: A side is empty.
    """
    split = desk.data.split
    if not sides["train"].size:
        raise DataError(
            "no training rows are left", hint="see data.sources and data.split; every row was dropped or set aside"
        )
    for side, share in (("heldout", split.heldout), ("validation", split.validation)):
        if share and not sides[side].size:
            raise DataError(
                f"data.split.{side} is {share:g} and no row could be set aside: {_why_undivided(desk, num_groups)}",
                hint=f"bring more rows, give data.split.{side}_path, or set data.split.{side}: 0",
            )


def _why_undivided(desk: RowSet, num_groups: int) -> str:
    """Say what is left of the rows, and what ties these together."""
    rows = desk.rows[Side.SOURCE]
    num_copies = desk.ledger.reasons["exact_duplicate"] + desk.ledger.reasons["near_duplicate"]
    left = f"{rows.size} rows are left after {num_copies} copies were removed" if num_copies else f"{rows.size} rows"
    if rows.size == 1:
        return left.replace("rows are", "row is", 1).replace("1 rows", "1 row", 1)
    if np.unique(desk.table.columns["prompt"][rows]).size == 1:
        return f"{left}, and all of them ask the same prompt (system turns do not count)"
    if num_groups == 1:
        by_values = f"values of data.split.by {desk.data.split.by!r} or " if desk.data.split.by else ""
        return f"{left}, and shared {by_values}prompts and near copies tie all of them together"
    return f"{left} in {num_groups} groups that stay on one side each"


# Reading


def _read_all(desk: RowSet) -> None:
    """Read every file of the recipe, and put its finished rows into the table and onto disk."""
    rules = Rules.of(desk.data, system_text(desk.data))
    for input_file in open_inputs(desk.data):
        label = input_file.origin.label
        usage = _usage(desk, input_file)
        desk.repeat_of[label] = input_file.repeat
        results = desk.workers.map(prepare, chunks(input_file.rows, rules, input_file.origin))
        _read_file(desk, input_file.path, input_file.side, label, usage, results)
    desk.spool.close_writing()
    desk.said.close_writing()
    desk.facts.close_writing()
    desk.begin()


def _usage(desk: RowSet, input_file: Input) -> Usage:
    """Return the counts of a file's source; those of benchmarks are not shown."""
    usage = Usage(input_file.source_name)
    if input_file.side != Side.BENCHMARK:
        usage = desk.ledger.usages.setdefault(input_file.source, usage)
    usage.files.append(input_file.origin.label)
    usage.how += Counter([input_file.how] if input_file.how else [])
    return usage


def _say_sources(desk: RowSet, run: StageContext) -> None:
    """Print a line about each source: layout, columns that are used and columns that are not."""
    for path, usage in desk.ledger.usages.items():
        run.say(usage.line(desk.mask))
        if not path.startswith(HUB_PREFIX) and (files := passed_over(Path(path))):
            names = ", ".join(str(file.relative_to(path)) for file in files[:NUM_LISTED])
            run.say(f"{usage.name}: {len(files)} files that could hold rows are not read: {names}")


def _read_file(desk: RowSet, path: str, side: Side, label: str, usage: Usage, results: Iterator[Prepared]) -> None:
    counted = FileCount()
    for result in results:
        if result.refusal:
            raise DataError(result.refusal[0], hint=result.refusal[1])
        counted.add(result)
        usage.add(result)
        if side != Side.BENCHMARK:
            desk.ledger.note(result, label)
        desk.spool.append(result.lines, result.columns["size"])
        desk.said.append(result.said, result.columns["said_size"])
        desk.facts.append(result.facts, np.array([len(result.facts)]))
        desk.table.add(result, label, side)
    counted.check(path, desk.data.max_rejected)


class FirstRows(NamedTuple):
    """What can be known of the rows before any time is spent."""

    lines: list[str]
    """Rows that will be left out, and sources that were not looked at."""
    refusal: DataError | None
    """Why `data` will not take a file of which some rows are sound: the rest of `check` is worth saying first."""


def check_first_rows(recipe: Recipe) -> FirstRows:
    """Look whether `data` will take the first rows of each local file.

    Raises:
        DataError: As `data` would raise it: a file cannot be read, none of its rows can be used, or the rows do not fit
            the method or the split.
        HardwareError: The key of the pseudonyms is not there.
    """
    Linter(recipe.data.lint)  # knows the rules that data.lint may name
    files = list(peek(recipe.data))
    sides = [file for file in files if file.given.side != Side.BENCHMARK]
    kinds = {kind: ref for file in reversed(sides) for kind, ref in file.kinds.items()}
    reasons = sum((file.reasons for file in sides), Counter[str]())
    if reasons and not kinds and not unseen(recipe.data):
        listed = {reason: ref for file in reversed(sides) for reason, ref in file.listed.items()}
        raise no_usable_rows(reasons, listed, "")
    _check_fit(kinds, recipe)
    lines = [sentence for file in files if (sentence := file.sentence())]
    lines += _unknown_fields(sides, recipe)
    lines += [f"{path}: not looked at: `trainer data` downloads it" for path in unseen(recipe.data)]
    return FirstRows(lines, next(_refusals(files, recipe.data.max_rejected), None))


def _unknown_fields(files: list[Peeked], recipe: Recipe) -> list[str]:
    """Say which fields that the evaluation asks for no row has.

    Raises:
        DataError: Every row was looked at.
    """
    key_of_field = dict.fromkeys(recipe.eval.slices, "eval.slices")
    metrics = [metric for metric in recipe.eval.metrics if isinstance(metric, Metric)]
    key_of_field |= {name: "eval.metrics[].when" for metric in metrics for name in metric.when or ()}
    row_fields = {ANSWER_KIND}.union(*(file.fields for file in files))
    missing = {name: key for name, key in key_of_field.items() if name not in row_fields}
    sentences = [f"no row has the field {name!r}, which {key} names" for name, key in missing.items()]
    if sentences and all(file.is_whole for file in files) and not unseen(recipe.data):
        raise DataError(sentences[0], hint=f"name a field of the rows: {', '.join(sorted(row_fields)) or 'none'}")
    return [f"among the first rows {text}" for text in sentences]


def _refusals(files: list[Peeked], limit: float) -> Iterator[DataError]:
    for file in files:
        try:
            file.check(limit)
        except DataError as error:
            yield error


def _check_kinds(desk: RowSet, recipe: Recipe) -> None:
    """Check that there are rows, all of one kind, and that they fit the method.

    Raises:
        DataError: naming the first row that does not fit.
    """
    kinds = desk.table.columns["kind"][desk.table.columns["side"] != Side.BENCHMARK]
    first = {kind: desk.table.ref(int(np.argmax(kinds == kind))) for kind in np.unique(kinds).tolist()}
    if not first:
        listed = {reason: refs[0] for reason, refs in desk.ledger.listed.items()}
        raise no_usable_rows(desk.ledger.reasons, listed, f"; {desk.ledger.path} says why of each row")
    _check_fit(first, recipe)


def _check_fit(first: dict[int, str], recipe: Recipe) -> None:
    """Check the kinds of row that there are, each with the place of its first row."""
    method = recipe.method.kind
    if judged := first.get(KTO):
        raise DataError(
            f"{judged}: an answer with a true/false label (KTO), and no method.kind uses such labels",
            hint="to train on every answer, set data.sources[].format: prompt_completion or messages; to learn from "
            "the labels, join good and bad answers of one prompt to pairs (chosen, rejected) and set method.kind: dpo",
        )
    pair = first.get(PAIR)
    single = next((ref for kind, ref in sorted(first.items()) if kind != PAIR), None)
    if pair and single:
        raise DataError(
            f"{pair} is a preference pair, {single} is not",
            hint=f"use one kind of rows in a run: split data.sources; {ONE_ANSWER}",
        )
    match recipe.method.shape:
        case "single":
            if pair:
                raise DataError(
                    f"{pair}: a preference pair, but method.kind is {method}",
                    hint=f"set method.kind: dpo; {ONE_ANSWER}",
                )
        case "pair":
            if single:
                raise DataError(
                    f"{single}: no preference pair, but method.kind is {method}",
                    hint="give rows with prompt, chosen and rejected (where `output` holds two texts, the better one "
                    "first, set data.sources[].format: preference), or set method.kind: sft",
                )
        case _:
            assert_never(recipe.method.shape)
    if TEXT in first and recipe.data.system_prompt:
        raise DataError(
            f"{first[TEXT]}: a text row has no place for data.system_prompt", hint="remove data.system_prompt"
        )


# Writing


def _write_results(
    run: StageContext, desk: RowSet, sides: dict[str, Rows], sections: dict[str, Any], recipe_name: str
) -> None:
    """Write the sides, the report and the page, show the findings.

    Raises:
        DataError: a finding is an error; the report is there all the same.
    """
    findings, stats = lint(desk, sides, sections["contamination"])
    for side, rows in sides.items():
        _write_side(run.dir / f"{side}.jsonl", desk, rows, is_train=side == "train")
    sections |= {"lint": [finding.to_json() for finding in findings], "stats": stats}
    report = build_report(desk, sides, sections)
    (run.dir / "report.json").write_bytes(write_report(report))
    previous = _keep_previous(run, report)
    page = render_data_page(report, previous, name=recipe_name, trainer_version=trainer.__version__)
    (run.dir / "index.html").write_text(page, encoding="utf-8")
    _note_numbers(run, desk, sides)
    run.say(summary_text(report, previous))
    run.say(f"page: {_final(run.dir, report) / 'index.html'}")
    raise_errors(report["lint"])


def _final(folder: Path, report: dict[str, Any]) -> Path:
    """Return where the files will be: a stage with errors leaves them in its partial folder."""
    has_errors = any(finding["severity"] == "error" for finding in report["lint"])
    return folder if has_errors else folder.with_name(folder.name.removesuffix(".partial"))


def _note_numbers(run: StageContext, desk: RowSet, sides: dict[str, Rows]) -> None:
    reasons = desk.ledger.reasons
    run.numbers["rows_read"] = desk.ledger.num_read
    run.numbers.update({f"rows_{side}": int(rows.size) for side, rows in sides.items()})
    run.numbers.update(
        rows_rejected=desk.ledger.num_rejected,
        duplicates=reasons["exact_duplicate"],
        near_duplicates=reasons["near_duplicate"],
        conflicts=len(desk.copies.conflicts),
    )


def _keep_previous(run: StageContext, report: dict[str, Any]) -> dict[str, Any] | None:
    """Put the report of the data's previous version beside the new one, and return it; None where there is none."""
    path = run.input("data", "report.json")
    if not path.is_file():
        return None
    previous = read_json(path)
    if previous == orjson.loads(
        write_report(report)
    ):  # the same data again: what came before is still what came before
        path = run.input("data", "previous.json")
        previous = read_json(path) if path.is_file() else None
    if previous is not None:
        shutil.copyfile(path, run.dir / "previous.json")
    return previous


def write_report(report: dict[str, Any]) -> bytes:
    """Return report.json."""
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _write_side(path: Path, desk: RowSet, rows: Rows, *, is_train: bool) -> None:
    # Repeating is for training alone: a row counted twice in a measurement would weigh twice.
    repeats = [desk.repeat_of[label] if is_train else 1.0 for label in desk.table.labels]
    files = desk.table.columns["file"][rows].tolist()
    with path.open("wb") as file:
        for number, line in zip(files, desk.spool.lines(rows), strict=True):
            repeat = repeats[number]
            file.write(line if repeat == 1.0 else b'%b,"repeat":%b}\n' % (line[:-2], orjson.dumps(repeat)))
