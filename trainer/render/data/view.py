"""Turn data/report.json into what the data page shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from trainer.render.charts import Bar, bar_chart, histogram
from trainer.render.data.changes import NumberChange, changes_of_findings, changes_of_rows, row_counts
from trainer.render.data.compared import ComparedRow, compared_rows
from trainer.render.data.findings import FindingRow, finding_rows, short_refs
from trainer.render.numbers import count_of, title_of, write_number
from trainer.shapes.report import DataReport, LengthHistogram, RowPair, RowStatistics

MAX_BARS = 20
COUNTS: tuple[Literal["rows_read", "rows_train", "rows_validation", "rows_heldout"], ...] = (
    "rows_read",
    "rows_train",
    "rows_validation",
    "rows_heldout",
)


@dataclass(frozen=True)
class Samples:
    """What was done under one name: how often, and excerpts, each of one text or of two, before and after."""

    name: str
    rows: str
    action: str
    samples: Sequence[Sequence[str]]


@dataclass(frozen=True)
class DataView:
    """What the data page shows."""

    headline: str
    findings: list[FindingRow]
    changes: list[NumberChange]
    """Since the data's previous version."""
    has_previous: bool
    charts: list[tuple[str, Markup]]
    rejected: Markup
    rejected_rows: list[tuple[str, str]]
    system_prompts: list[tuple[str, str]]
    worst: list[tuple[str, str]]
    compared: list[tuple[str, list[tuple[ComparedRow, ComparedRow]]]]
    cleaned: list[Samples]
    pii: list[Samples]


def data_view(report: DataReport, previous: DataReport | None = None) -> DataView:
    """Turn the report, and the one of the data's previous version, into what the page shows."""
    stats = report["stats"]
    changes = [*changes_of_rows(previous, report), *changes_of_findings(previous, report)] if previous else []
    return DataView(
        headline=headline(report),
        findings=finding_rows(report["lint"]),
        changes=changes,
        has_previous=previous is not None,
        charts=_charts(stats),
        rejected=_bars(report["rejected"], title_of),
        rejected_rows=[
            (title_of(reason), ", ".join(short_refs(refs))) for reason, refs in report["rejected_rows"].items()
        ],
        system_prompts=[(prompt["text"], write_number(prompt["rows"])) for prompt in stats["system_prompts"]],
        worst=[(row["row"], ", ".join(row["rules"])) for row in stats["worst_rows"]],
        compared=[(title, compared_rows(pairs)) for title, pairs in _pairs(report) if pairs],
        cleaned=[
            Samples(title_of(name), write_number(change["count"]), "", change["samples"])
            for name, change in report["clean"].items()
        ],
        pii=[
            Samples(
                title_of(kind), write_number(values["rows"]), values["action"], [[text] for text in values["samples"]]
            )
            for kind, values in report["pii"].items()
        ],
    )


def headline(report: DataReport) -> str:
    """Say in one sentence what became of the rows."""
    read, *sides = row_counts(report).items()
    counts = ", ".join(f"{rows:,} {name.removesuffix(' rows')}" for name, rows in sides if rows)
    rejected = sum(report["rejected"].values())
    left_out = f"; {rejected:,} left out" if rejected else ""
    return f"{count_of(read[1], 'row')} read: {counts}{left_out}.{_alike(report)}"


def _alike(report: DataReport) -> str:
    if "semantic" not in report or not report["semantic"]["pairs"]:
        return ""
    pairs, across = report["semantic"]["pairs"], report["semantic"]["pairs_across_sides"]
    sides = f", {across:,} of them on different sides" if across else ""
    return f" {count_of(pairs, 'pair')} of rows alike in meaning{sides}."


def _charts(stats: RowStatistics) -> list[tuple[str, Markup]]:
    charts = [
        (f"{title}{_quantiles(lengths)}", histogram(lengths["edges"], lengths["counts"], unit="characters"))
        for title, lengths in (
            ("Length of prompts", stats["prompt_chars"]),
            ("Length of answers", stats["answer_chars"]),
        )
        if lengths
    ]
    charts += [
        ("Turns of a row", _bars(stats["turns"])),
        ("Languages", _bars(stats["languages"])),
        ("Classes", _bars(stats["classes"])),
    ]
    return [(title, chart) for title, chart in charts if chart]


def _quantiles(lengths: LengthHistogram) -> str:
    _, low, median, high, _ = lengths["quantiles"]
    return f": 90% of the rows have {low:,} to {high:,} characters, median {median:,}"


def _bars(counts: Mapping[str, int], write: Callable[[str], str] = str) -> Markup:
    """Draw counts as bars, in their order where the names are numbers, else most frequent first."""
    names = [name for name, rows in counts.items() if rows]
    if not all(name.isdigit() for name in names):
        names.sort(key=lambda name: (-counts[name], name))
    return bar_chart([Bar(write(name), counts[name], write_number(counts[name])) for name in names[:MAX_BARS]])


def _pairs(report: DataReport) -> list[tuple[str, list[RowPair]]]:
    leaks = report["contamination"]
    return [
        ("Near duplicates, and the rows that were kept", report["duplicates"]["samples"]),
        ("One prompt, several answers", report["conflicts"]["samples"]),
        ("Rows of one pattern, all kept", report["patterns"]["samples"]),
        ("Rows alike in meaning, both kept", report["semantic"]["samples"] if "semantic" in report else []),
        ("Training rows beside rows that are tested", leaks["samples"]),
        ("Passages shared with held-out rows", leaks["heldout_ngram"]["samples"] if "heldout_ngram" in leaks else []),
    ]


def count_pairs(report: DataReport) -> list[tuple[str, str]]:
    """Return the counts of rows, the rejected ones in all, and the rows of each format, as pairs of text.

    Sources are left out: they may be paths of this machine.
    """
    formats: dict[str, int] = {}
    for counts in report["formats"].values():
        for name, rows in counts.items():
            formats[name] = formats.get(name, 0) + rows
    pairs = [(title_of(key), write_number(report[key])) for key in COUNTS]
    pairs.append(("rows rejected", write_number(sum(report["rejected"].values()))))
    written = ", ".join(f"{name} ({write_number(rows)})" for name, rows in formats.items())
    return [*pairs, ("formats", written)] if formats else pairs
