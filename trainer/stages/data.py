"""`trainer data`: rows in, three clean files out, and a line for every row left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from trainer.data.dedupe import find_exact_duplicates
from trainer.data.read import RawRow, read_rows
from trainer.data.reasons import MALFORMED, Reason, RowError
from trainer.data.records import MAPPABLE, Record, parse_row
from trainer.data.split import find_leaks, split_rows
from trainer.data.system import apply_system_prompt
from trainer.errors import DataError
from trainer.recipe.data import DataSection, Source, Split

if TYPE_CHECKING:
    from trainer.recipe.schema import Recipe
    from trainer.rundir import StageContext

MAX_ANSWER_CHARS = 200


@dataclass
class Ledger:
    """What became of every row read so far."""

    labels: dict[str, str]
    num_read: int = 0
    rejected: list[dict[str, object]] = field(default_factory=list)
    formats: dict[str, Counter[str]] = field(default_factory=dict)

    def reject(self, source: str, line: int, reason: Reason, *, of: str | None = None, detail: str = "") -> None:
        self.rejected.append({"source": source, "line": line, "reason": reason, "of": of, "detail": detail})

    def reasons(self) -> Counter[str]:
        return Counter(str(row["reason"]) for row in self.rejected)


def run(recipe: Recipe, run: StageContext) -> None:
    """Read, check, deduplicate and split the rows of a recipe into `run.dir`.

    Raises:
        DataError: a file cannot be read, too many rows are malformed, rows do not fit the method, or none are left.
    """
    data = recipe.data
    ledger = Ledger(_name_files(data))
    trained = [record for source in data.sources for record in read_source(source, data, ledger)]
    heldout = _read_side(data.split.heldout_path, data, ledger)
    validation = _read_side(data.split.validation_path, data, ledger)
    run.say(f"read {ledger.num_read} rows, {len(ledger.rejected)} malformed")
    _check_kinds([*trained, *heldout, *validation], recipe.method.kind, data)
    trained, heldout, validation = (_drop_duplicates(rows, data, ledger) for rows in (trained, heldout, validation))
    by = data.split.by
    trained = _drop_leaks(trained, heldout, "in_heldout", ledger, by)
    validation = _drop_leaks(validation, heldout, "in_heldout", ledger, by)
    trained = _drop_leaks(trained, validation, "in_validation", ledger, by)
    sides = divide(trained, heldout, validation, data.split)
    if not sides["train"]:
        raise DataError(
            "no training rows are left", hint="see data.sources and data.split; every row was dropped or set aside"
        )
    _check_sides(sides, data.split)
    _write_results(run, sides, ledger)


def _check_sides(sides: dict[str, list[Record]], split: Split) -> None:
    """Refuse a split whose share was asked for and came out empty: evaluation would find out after the training.

    Raises:
        DataError: A side is empty.
    """
    for side, share in (("heldout", split.heldout), ("validation", split.validation)):
        if share and not sides[side]:
            raise DataError(
                f"data.split.{side} is {share:g} and no row could be set aside: all {len(sides['train'])} rows ask the "
                "same prompt (system turns do not count) or share one value of data.split.by",
                hint=f"bring more rows, give data.split.{side}_path, or set data.split.{side}: 0",
            )


def _name_files(data: DataSection) -> dict[str, str]:
    """Name each file as rows carry it: its base name, with the folder where two files share one.

    Absolute paths would make the same data differ between machines.
    """
    extra = (data.split.heldout_path, data.split.validation_path)
    paths = sorted({source.path for source in data.sources} | {path for path in extra if path})
    shared = Counter(Path(path).name for path in paths)
    return {path: "/".join(Path(path).parts[-2:]) if shared[Path(path).name] > 1 else Path(path).name for path in paths}


def _read_side(path: str | None, data: DataSection, ledger: Ledger) -> list[Record]:
    return read_source(Source(path=path), data, ledger) if path else []


def read_source(source: Source, data: DataSection, ledger: Ledger) -> list[Record]:
    """Read one file; its malformed rows go to the ledger.

    Raises:
        DataError: the file cannot be read, or more of its rows are malformed than the recipe allows.
    """
    _check_mapping(source)
    parse = _row_parser(source, data, ledger)
    records, num_read, first_rejected = [], 0, len(ledger.rejected)
    for raw in read_rows(Path(source.path)):
        num_read += 1
        if (record := parse(raw)) is not None:
            records.append(record)
    ledger.num_read += num_read
    _check_malformed(source.path, ledger.rejected[first_rejected:], num_read, data.max_rejected)
    return records


def _check_mapping(source: Source) -> None:
    if unknown := sorted(set(source.mapping) - MAPPABLE):
        raise DataError(
            f"data.sources: {source.path}: mapping: unknown name {unknown[0]!r}",
            hint=f"mapping is `our name: column`; our names: {', '.join(sorted(MAPPABLE))}",
        )


def _row_parser(source: Source, data: DataSection, ledger: Ledger) -> Callable[[RawRow], Record | None]:
    """Build the function from a raw row to a finished record, or to None and a line in the ledger."""
    label, system = ledger.labels[source.path], _system_text(data)
    formats = ledger.formats.setdefault(label, Counter())

    def parse(raw: RawRow) -> Record | None:
        try:
            if raw.error:
                raise raw.error
            layout, record = parse_row(
                raw.value, source=label, line=raw.line, format=source.format, mapping=source.mapping
            )
        except RowError as error:
            ledger.reject(label, raw.line, error.reason, detail=error.detail)
            return None
        formats[layout] += 1
        if data.system_prompt and system is not None:
            record = apply_system_prompt(record, system, when=data.system_prompt.when)
        return record if source.repeat == 1.0 else {**record, "repeat": source.repeat}

    return parse


def _system_text(data: DataSection) -> str | None:
    if data.system_prompt is None or data.system_prompt.path is None:
        return data.system_prompt.text if data.system_prompt else None
    path = data.system_prompt.path
    try:
        return Path(path).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.system_prompt.path: {path}: {error}", hint="name a readable UTF-8 file") from error


def _check_malformed(path: str, rejected: Sequence[dict[str, object]], num_read: int, limit: float) -> None:
    malformed = [row for row in rejected if row["reason"] in MALFORMED]
    if num_read == 0:
        raise DataError(f"{path}: no rows", hint="give a file with at least one row")
    if len(malformed) <= limit * num_read:
        return
    listed = "\n".join(f"{path}:{row['line']}: {row['reason']}: {row['detail']}" for row in malformed[:3])
    raise DataError(
        f"{listed}\n{path}: {len(malformed)} of {num_read} rows are malformed "
        f"({len(malformed) / num_read:.1%}; data.max_rejected allows {limit:.1%})",
        hint="correct the rows, or raise data.max_rejected",
    )


def _check_kinds(records: Sequence[Record], method: str, data: DataSection) -> None:
    """Check that the rows are all pairs or all not, and fit the method.

    Raises:
        DataError: naming the first row that does not fit.
    """
    if not records:
        raise DataError("no usable rows", hint="see data.sources and data.max_rejected: every row was malformed")
    pair = next((place(record) for record in records if "chosen" in record), None)
    single = next((place(record) for record in records if "chosen" not in record), None)
    text = next((place(record) for record in records if "text" in record), None)
    if pair and single:
        raise DataError(
            f"{pair} is a preference pair, {single} is not", hint="use one kind of rows in a run: split data.sources"
        )
    if pair and method == "sft":
        raise DataError(f"{pair}: a preference pair, but method.kind is sft", hint="set method.kind: dpo")
    if single and method != "sft":
        raise DataError(
            f"{single}: no preference pair, but method.kind is {method}",
            hint="give rows with prompt, chosen and rejected, or set method.kind: sft",
        )
    if text and data.system_prompt:
        raise DataError(f"{text}: a text row has no place for data.system_prompt", hint="remove data.system_prompt")


def place(record: Record) -> str:
    """Return `source:line` of a row."""
    return f"{record['source']}:{record['line']}"


def _drop_duplicates(records: list[Record], data: DataSection, ledger: Ledger) -> list[Record]:
    return (
        drop(records, find_exact_duplicates(records), records, "exact_duplicate", ledger)
        if data.dedupe.exact
        else records
    )


def _drop_leaks(
    records: list[Record], protected: list[Record], reason: Reason, ledger: Ledger, by: str | None
) -> list[Record]:
    return drop(records, find_leaks(records, protected, by=by), protected, reason, ledger)


def drop(
    records: list[Record], found: dict[int, int], kept: list[Record], reason: Reason, ledger: Ledger
) -> list[Record]:
    """Leave out the rows in `found` (index -> index in `kept` of the row that says the same)."""
    for index, other in found.items():
        ledger.reject(records[index]["source"], records[index]["line"], reason, of=place(kept[other]))
    return [record for index, record in enumerate(records) if index not in found]


def divide(
    records: list[Record], heldout: list[Record], validation: list[Record], split: Split
) -> dict[str, list[Record]]:
    """Put each row on a side; a side that has a file of its own takes no share."""
    sides: dict[str, list[Record]] = {"train": [], "validation": validation, "heldout": heldout}
    given = split_rows(
        records,
        validation=0.0 if split.validation_path else split.validation,
        heldout=0.0 if split.heldout_path else split.heldout,
        seed=split.seed,
        by=split.by,
    )
    for record, side in zip(records, given, strict=True):
        sides[side].append(record)
    # Repeating is for training alone: a row counted twice in a measurement would weigh twice.
    for side in ("validation", "heldout"):
        sides[side] = [{key: value for key, value in row.items() if key != "repeat"} for row in sides[side]]
    return sides


def _write_results(run: StageContext, sides: dict[str, list[Record]], ledger: Ledger) -> None:
    for side, records in sides.items():
        _write_lines(run.dir / f"{side}.jsonl", records)
    _write_lines(run.dir / "rejected.jsonl", ledger.rejected)
    report = _build_report(sides, ledger)
    (run.dir / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    reasons = ledger.reasons()
    run.numbers["rows_read"] = ledger.num_read
    run.numbers.update({f"rows_{side}": len(rows) for side, rows in sides.items()})
    run.numbers.update(rows_rejected=len(ledger.rejected), duplicates=reasons["exact_duplicate"])
    counts = ", ".join(f"{len(rows)} {side}" for side, rows in sides.items())
    run.say(f"{counts} rows; {len(ledger.rejected)} left out ({reasons['exact_duplicate']} duplicates)")


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for row in rows:
            # Parquet columns may hold dates, decimals and bytes: kept as text, they are metadata only.
            file.write(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS))


def _build_report(sides: dict[str, list[Record]], ledger: Ledger) -> dict[str, object]:
    turns = Counter(_count_turns(row) for rows in sides.values() for row in rows if "text" not in row)
    return {
        "rows_read": ledger.num_read,
        **{f"rows_{side}": len(rows) for side, rows in sides.items()},
        "rejected": dict(sorted(ledger.reasons().items())),
        "formats": {source: dict(sorted(counts.items())) for source, counts in sorted(ledger.formats.items())},
        "turns": {str(number): turns[number] for number in sorted(turns)},
        "most_frequent_answer": _most_frequent_answer(sides["train"]),
    }


def _count_turns(record: Record) -> int:
    """Count the turns of a row, without the system turn; of a pair, the prompt's and the chosen answer's."""
    turns = record["messages"] if "messages" in record else record["prompt"] + record["chosen"]
    return sum(turn["role"] != "system" for turn in turns)


def _most_frequent_answer(records: Sequence[Record]) -> dict[str, object] | None:
    """Return the final answer that most rows share: what a model would score by always saying it."""
    answers = Counter(
        (row.get("messages") or row["chosen"])[-1]["content"].strip() for row in records if "text" not in row
    )
    if not answers:
        return None
    text, count = answers.most_common(1)[0]
    shown = {"text": text} if len(text) <= MAX_ANSWER_CHARS else {}
    return {**shown, "share": count / sum(answers.values())}
