"""Report what other steps of the stage counted: rejected rows, copies, leaks, cleaning, personal data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, groupby

from trainer.data.lint.finding import CountedRows, Finding, LintContext
from trainer.data.lint.rules import REASONS
from trainer.recipe.lint import Lint
from trainer.shapes.report import Severity

LEAKS = {"exact": "S001", "near": "S002", "prompt": "S003", "ngram": "S004"}
NO_FAULTS = ("exact_duplicate", "near_duplicate", "in_heldout", "in_validation", "contaminated", "personal_data")
"""Beginnings of reasons in rejected.jsonl that are no fault of a row's form."""
MANY_COPIES = 0.05
"""From this share on, near copies are a warning."""
ENOUGH_HELDOUT = 1_000
"""This number of held-out rows gives a share to within 3 points (95 %), whatever part of the data they are."""


CLEANED = {
    "encoding": "Q004",
    "control_characters": "F013",
    "invisible_characters": "Q005",
    "hidden_characters": "Q019",
    "unicode_form": "Q005",
    "line_ends": "Q007",
    "trailing_space": "Q007",
    "outer_space": "Q007",
    "html": "Q006",
    "special_tokens": "F019",
    "empty_turns": "F011",
    "trailing_turns": "F009",
    "joined_turns": "F010",
}
"""Change by `data.clean` -> rule that the row broke."""


def upstream_findings(context: LintContext, section: Lint) -> Iterator[Finding]:
    """Yield findings about rejected rows, sides, copies and personal data."""
    yield from chain(_rejected(context), _formats(context))
    for column, rows in context.unused_columns.items():
        yield Finding("F021", column, rows, _share(rows, context.rows_read))
    yield from chain(_sides(context, section), _copies(context), _personal(context), _cleaned(context))
    for name, commit in sorted(context.unpinned.items()):
        fix = f"set data.sources[].revision: {commit}" if commit else None
        yield Finding("F020", f"{name}: another run may read other rows", fix=fix)


def _cleaned(context: LintContext) -> Iterator[Finding]:
    """Report repairs of `data.clean`: the source will bring the faults again."""
    for change, rows in sorted(context.cleaned.items()):
        if change in CLEANED and rows:
            detail = f"{change.replace('_', ' ')}: put right by data.clean"
            yield Finding(CLEANED[change], detail, rows, _share(rows, context.rows_read), severity="info", fix="")


def _rejected(context: LintContext) -> Iterator[Finding]:
    by_rule = sorted(
        (REASONS.get(reason, "F001"), reason, rows)
        for reason, rows in context.rejected.items()
        if rows.count and not reason.startswith(NO_FAULTS)
    )
    for rule, group in groupby(by_rule, key=lambda item: item[0]):
        members = list(group)
        count = sum(rows.count for _, _, rows in members)
        detail = ", ".join(f"{rows.count} {reason}" for _, reason, rows in members)
        refs = tuple(ref for _, _, rows in members for ref in rows.rows)
        yield Finding(rule, f"left out: {detail}", count, _share(count, context.rows_read), refs)


def _formats(context: LintContext) -> Iterator[Finding]:
    for source, counts in context.formats.items():
        if len(counts) > 1:
            ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            detail = ", ".join(f"{rows} {name}" for name, rows in ranked)
            yield Finding("F004", f"{source}: {detail}", sum(rows for _, rows in ranked[1:]))


def _sides(context: LintContext, section: Lint) -> Iterator[Finding]:
    for kind, rule in LEAKS.items():
        if (rows := context.leaks.get(kind)) and rows.count:
            yield _counted(rule, rows, context.rows_train, f"{rows.count} training rows")
    total, heldout = context.rows_train + context.rows_heldout, context.rows_heldout
    share = heldout / total if total else 0.0
    if total and share < section.min_heldout_share - 0.005:
        is_enough = heldout >= ENOUGH_HELDOUT
        detail = f"{heldout} held-out rows, {share:.1%} of {total} (at least {section.min_heldout_share:.0%})"
        severity: Severity | None = "info" if is_enough else None
        yield Finding("S005", detail, heldout, share, severity=severity, fix="" if is_enough else None)
    elif total and heldout < section.min_heldout_rows:
        detail = f"{heldout} held-out rows (at least {section.min_heldout_rows}): no score of them is certain"
        yield Finding("S007", detail, heldout)
    if context.missing_classes:
        names = ", ".join(context.missing_classes[:5])
        yield Finding("S006", f"{len(context.missing_classes)} classes: {names}", len(context.missing_classes))


def _copies(context: LintContext) -> Iterator[Finding]:
    total = context.rows_read
    if context.exact_duplicates.count:
        yield _counted("Q001", context.exact_duplicates, total, "removed")
    yield from _near_copies(context)
    if context.conflicts.count:
        yield _counted("Q003", context.conflicts, total, "kept")
    if context.patterns.count:
        sizes = context.pattern_sizes
        number = "1 pattern" if len(sizes) == 1 else f"{len(sizes)} patterns"
        detail = f"{number}, the largest of {sizes[0]} rows; all kept, and divided row by row"
        yield _counted("B010", context.patterns, total, detail)
    if context.same_prompt.count:
        yield _counted("B006", context.same_prompt, total, "rows that share their prompt with an earlier row")


def _near_copies(context: LintContext) -> Iterator[Finding]:
    """Report near copies. Many of them are a warning: the author may have intended their differences."""
    rows, total = context.near_duplicates, context.rows_read
    if not rows.count:
        return
    if context.near_removed:
        detail, fix = "removed: nothing that decides differs", None
    else:
        detail = "kept: data.dedupe.near is report"
        fix = "read them beside each other on the page; data.dedupe.near: drop removes them"
    severity: Severity | None = "warning" if rows.count > MANY_COPIES * total else None
    yield Finding("Q002", detail, rows.count, _share(rows.count, total), rows.rows, severity, fix)


def _personal(context: LintContext) -> Iterator[Finding]:
    if not context.pii:
        return
    from trainer.data.pii.types import record_named  # noqa: PLC0415  detectors are slow to import

    for kind, personal in sorted(context.pii.items()):
        rows, record = personal.rows, record_named(kind)
        if not rows.count:
            continue
        is_left = personal.action in ("report", "error")
        result = "left in the rows" if is_left else f"action {personal.action}"
        detail = result if record.is_titled else f"{kind}, {result}"
        fix = _redaction(record.lint, kind) if is_left else ""
        share = _share(rows.count, context.rows_read)
        yield Finding(record.lint, detail, rows.count, share, rows.rows, None if is_left else "info", fix)


def _redaction(rule: str, kind: str) -> str:
    from trainer.data.pii.types import is_ours  # noqa: PLC0415  detectors are slow to import

    if rule == "P100":
        return "revoke them, and set data.pii.secrets: redact"
    if not is_ours(kind):
        return "look at them: what a model recognises is only reported"
    return f"set data.pii.types: {{{kind}: redact}}"


def _counted(rule: str, rows: CountedRows, total: int, detail: str) -> Finding:
    return Finding(rule, detail, rows.count, _share(rows.count, total), rows.rows)


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
