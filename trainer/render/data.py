"""Everything that is shown about the data, from data/report.json alone; a key that is missing is left out.

{"rows_read", "rows_train", "rows_validation", "rows_heldout", "rejected": {REASON: rows}, "formats": ...,
 "lint": [{"rule", "severity", "title", "detail", "count", "share", "rows": [place], "fix"}],
 "stats": {"prompt_chars" | "answer_chars": {"edges", "counts", "quantiles"}, "turns" | "languages" | "classes":
           {NAME: rows}, "system_prompts": [{"text", "rows"}], "worst_rows": [{"row", "rules"}]},
 "clean": {CHANGE: {"count": rows, "strings", "samples": [[before, after]]}},
 "pii": {TYPE: {"rows", "count": values, "action", "samples": [masked text]}},
 "duplicates" | "conflicts" | "patterns" | "semantic" | "contamination" | "contamination": {"heldout_ngram"}:
     {"samples": [{"row", "of", "text", "of_text", "similarity" or "reason" or "kind"}]}}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from markupsafe import Markup, escape

from trainer.render.charts import Bar, bar_chart, histogram
from trainer.render.difference import NumberChange, changes_of_findings, changes_of_rows, num_rows
from trainer.render.format import DASH, count_of, finite, title_of, write_number

MAX_BARS = 20
MIN_COMMON = 0.3
SPACES = re.compile(r"(\s+)")


@dataclass(frozen=True)
class FindingRow:
    """One line of the table of findings."""

    severity: str
    rule: str
    title: str
    detail: str
    rows: str
    share: str
    first: list[str]
    fix: str


@dataclass(frozen=True)
class ComparedRow:
    """One of several rows that are compared: its place, and how it is like the others."""

    place: str
    note: str
    text: Markup
    """Words that the other row does not say are marked."""


@dataclass(frozen=True)
class Samples:
    """What was done under one name: how often, and excerpts, each of one text or of two, before and after."""

    name: str
    rows: str
    action: str
    samples: list[list[str]]


@dataclass(frozen=True)
class DataView:
    """What the data page shows."""

    headline: str
    findings: list[FindingRow]
    is_linted: bool
    changes: list[NumberChange]
    finding_changes: list[NumberChange]
    has_previous: bool
    charts: list[tuple[str, Markup]]
    rejected: Markup
    rejected_rows: list[tuple[str, str]]
    system_prompts: list[tuple[str, str]]
    worst: list[tuple[str, str]]
    compared: list[tuple[str, list[tuple[ComparedRow, ComparedRow]]]]
    cleaned: list[Samples]
    pii: list[Samples]


def data_view(report: Mapping[str, Any], previous: Mapping[str, Any] | None = None) -> DataView:
    """Turn the report, and the one of the data's previous version, into what the page shows."""
    stats = report.get("stats") or {}
    return DataView(
        headline=headline(report),
        findings=finding_rows(report),
        is_linted="lint" in report,
        changes=changes_of_rows(previous, report) if previous else [],
        finding_changes=changes_of_findings(previous, report) if previous else [],
        has_previous=previous is not None,
        charts=_charts(stats),
        rejected=_bars(report.get("rejected"), title_of),
        rejected_rows=[
            (title_of(str(reason)), ", ".join(short_places([str(place) for place in places])))
            for reason, places in _items(report.get("rejected_rows"))
        ],
        system_prompts=[(str(one["text"]), write_number(one["rows"])) for one in stats.get("system_prompts") or []],
        worst=[(str(one["row"]), ", ".join(one["rules"])) for one in stats.get("worst_rows") or []],
        compared=[(title, pairs) for title, section in _compared(report) if (pairs := _pairs(section))],
        cleaned=_samples(report.get("clean"), "count"),
        pii=_samples(report.get("pii"), "rows"),
    )


def headline(report: Mapping[str, Any]) -> str:
    """Say in one sentence what became of the rows."""
    counts = num_rows(report)
    sides = [f"{rows:,} {name.removesuffix(' rows')}" for name, rows in counts.items() if rows and name != "rows read"]
    rejected = report.get("rejected")
    lost = sum(int(finite(rows) or 0) for rows in rejected.values()) if isinstance(rejected, Mapping) else 0
    read = f"{count_of(counts['rows read'], 'row')} read: " if "rows read" in counts else ""
    return f"{read}{', '.join(sides)}{f'; {lost:,} left out' if lost else ''}.{_alike(report)}" if sides else ""


def _alike(report: Mapping[str, Any]) -> str:
    found = report.get("semantic") or {}
    pairs, across = (int(finite(found.get(name)) or 0) for name in ("pairs", "pairs_across_sides"))
    said = f", {across:,} of them on different sides" if across else ""
    return f" {count_of(pairs, 'pair')} of rows alike in meaning{said}." if pairs else ""


def finding_rows(report: Mapping[str, Any]) -> list[FindingRow]:
    """Return the findings as text, in the order of the report."""
    return [
        FindingRow(
            severity=str(finding.get("severity")),
            rule=str(finding.get("rule")),
            title=str(finding.get("title")),
            detail=str(finding.get("detail") or ""),
            rows=write_number(finding.get("count")) if finding.get("count") else DASH,
            share=_percent(finding.get("share")) if finding.get("count") else "",
            first=short_places([str(place) for place in finding.get("rows") or []]),
            fix="" if finding.get("severity") == "info" else str(finding.get("fix") or ""),
        )
        for finding in report.get("lint") or []
    ]


def short_places(places: list[str]) -> list[str]:
    """Leave out a file that was named just before: `a.jsonl:3`, `9`; of copies `a.jsonl:3 = 1`."""
    shown, known = [], ""
    for place in places:
        parts = []
        for part in place.split(" = "):
            file, _, line = part.rpartition(":")
            parts.append(line if file and file == known else part)
            known = file
        shown.append(" = ".join(parts))
    return shown


def verdict_of(findings: list[FindingRow]) -> str:
    """Count the findings in words, such as `1 error, 3 warnings, 4 notes`."""
    names = {"error": "error", "warning": "warning", "info": "note"}
    counts = {name: sum(finding.severity == key for finding in findings) for key, name in names.items()}
    said = [count_of(count, name) for name, count in counts.items() if count]
    return ", ".join(said) or "nothing found"


def _percent(share: object) -> str:
    number = finite(share)
    if number is None:
        return ""
    return "under 0.1%" if 0 < number < 0.001 else f"{number:.1%}"


def _charts(stats: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    charts = []
    for key, title in (("prompt_chars", "Length of prompts"), ("answer_chars", "Length of answers")):
        drawn = stats.get(key) or {}
        if drawn.get("counts"):
            chart = histogram(drawn["edges"], drawn["counts"], unit="characters")
            charts.append((f"{title}{_quantiles(drawn)}", chart))
    for key, title in (("turns", "Turns of a row"), ("languages", "Languages"), ("classes", "Classes")):
        charts.append((title, _bars(stats.get(key))))
    return [(title, chart) for title, chart in charts if chart]


def _quantiles(drawn: Mapping[str, Any]) -> str:
    marks = drawn.get("quantiles") or []
    return f": 90% of the rows have {marks[1]:,} to {marks[3]:,} characters, median {marks[2]:,}" if marks else ""


def _bars(counts: object, write: Callable[[str], str] = str) -> Markup:
    """Draw counts as bars, in their order where the names are numbers, else most frequent first."""
    known = {str(name): rows for name, value in _items(counts) if (rows := finite(value))}
    names = list(known)
    if not all(name.isdigit() for name in names):
        names.sort(key=lambda name: (-known[name], name))
    return bar_chart([Bar(write(name), known[name], write_number(known[name])) for name in names[:MAX_BARS]])


def _items(values: object) -> list[tuple[Any, Any]]:
    return list(values.items()) if isinstance(values, Mapping) else []


def _compared(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    leaks = report.get("contamination") or {}
    return [
        ("Near duplicates, and the rows that were kept", report.get("duplicates")),
        ("One prompt, several answers", report.get("conflicts")),
        ("Rows of one pattern, all kept", report.get("patterns")),
        ("Rows alike in meaning, both kept", report.get("semantic")),
        ("Training rows beside rows that are tested", leaks),
        ("Passages shared with held-out rows", leaks.get("heldout_ngram")),
    ]


def _pairs(section: Mapping[str, Any] | None) -> list[tuple[ComparedRow, ComparedRow]]:
    pairs = []
    for pair in (section or {}).get("samples") or []:
        text, of_text = mark_differences(str(pair.get("text") or ""), str(pair.get("of_text") or ""))
        pairs.append(
            (ComparedRow(str(pair.get("row")), _note(pair), text), ComparedRow(str(pair.get("of")), "", of_text))
        )
    return pairs


def mark_differences(left: str, right: str) -> tuple[Markup, Markup]:
    """Return two texts as HTML in which the words that differ are marked; texts with little in common stay plain."""
    words = SPACES.split(left), SPACES.split(right)
    matcher = SequenceMatcher(None, *words, autojunk=False)
    if matcher.ratio() < MIN_COMMON:
        return escape(left), escape(right)
    codes = matcher.get_opcodes()
    return (
        Markup("").join(_marked(words[0][begin:end], code != "equal") for code, begin, end, _, _ in codes),
        Markup("").join(_marked(words[1][begin:end], code != "equal") for code, _, _, begin, end in codes),
    )


def _marked(words: list[str], differs: bool) -> Markup:
    text = escape("".join(words))
    return Markup("<mark>") + text + Markup("</mark>") if differs and text.strip() else text


def _note(pair: Mapping[str, Any]) -> str:
    similarity = finite(pair.get("similarity"))
    reason = pair.get("reason") or pair.get("kind")
    return title_of(str(reason)) if reason else "" if similarity is None else f"{similarity:.0%} alike"


def _samples(section: object, count: str) -> list[Samples]:
    shown = []
    for name, entry in _items(section):
        if isinstance(entry, Mapping) and finite(entry.get(count)):
            samples = [_texts(sample) for sample in entry.get("samples") or []]
            action = str(entry.get("action") or "")
            shown.append(Samples(title_of(str(name)), write_number(entry[count]), action, samples))
    return shown


def _texts(sample: object) -> list[str]:
    return [str(text) for text in sample] if isinstance(sample, list | tuple) else [str(sample)]
