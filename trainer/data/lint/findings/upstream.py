"""Findings about what other steps of the stage have counted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from trainer.data.lint.finding import Finding, LintContext, Seen
from trainer.data.lint.rules import REASONS, RULES
from trainer.data.pii.types import is_ours, record_named
from trainer.recipe.lint import Lint, Severity

LEAKS = {"exact": "S001", "near": "S002", "prompt": "S003", "ngram": "S004"}
NO_FAULTS = ("exact_duplicate", "near_duplicate", "in_heldout", "in_validation", "contaminated", "personal_data")
"""Beginnings of reasons in rejected.jsonl that say nothing against the form of a row."""
MANY_COPIES = 0.05
"""Share of near copies from which somebody should look at them."""
ENOUGH_HELDOUT = 1_000
"""So many held-out rows give a share to within 3 points (95 %), whatever part of the data they are."""


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


def given_findings(context: LintContext, section: Lint) -> Iterator[Finding]:
    """Yield findings about rejected rows, sides, copies and personal data."""
    yield from _rejected(context)
    yield from _formats(context)
    for column, rows in context.telling.items():
        yield Finding("F021", column, rows, _share(rows, context.rows_read))
    yield from _sides(context, section)
    yield from _copies(context)
    yield from _personal(context)
    yield from _cleaned(context)
    for name, commit in sorted(context.unpinned.items()):
        fix = f"set data.sources[].revision: {commit}" if commit else None
        yield Finding("F020", f"{name}: another run may read other rows", fix=fix)


def _cleaned(context: LintContext) -> Iterator[Finding]:
    """Report what `data.clean` has put right: it is well now, and its source will bring it again."""
    for change, rows in sorted(context.cleaned.items()):
        if change in CLEANED and rows:
            said = f"{change.replace('_', ' ')}: put right by data.clean"
            yield Finding(CLEANED[change], said, rows, _share(rows, context.rows_read), severity="info", fix="")


def _rejected(context: LintContext) -> Iterator[Finding]:
    faults = {reason: seen for reason, seen in context.rejected.items() if not reason.startswith(NO_FAULTS)}
    by_rule = sorted((REASONS.get(reason, "F001"), reason, seen) for reason, seen in faults.items() if seen.count)
    for rule, group in groupby(by_rule, key=lambda item: item[0]):
        members = list(group)
        count = sum(seen.count for _, _, seen in members)
        said = ", ".join(f"{seen.count} {reason}" for _, reason, seen in members)
        rows = tuple(ref for _, _, seen in members for ref in seen.rows)
        yield Finding(rule, f"left out: {said}", count, _share(count, context.rows_read), rows)


def _formats(context: LintContext) -> Iterator[Finding]:
    mixed = {source: counts for source, counts in context.formats.items() if len(counts) > 1}
    for source, counts in mixed.items():
        common, *others = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        said = ", ".join(f"{rows} {name}" for name, rows in (common, *others))
        yield Finding("F004", f"{source}: {said}", sum(rows for _, rows in others))


def _sides(context: LintContext, section: Lint) -> Iterator[Finding]:
    for kind, rule in LEAKS.items():
        if (seen := context.leaks.get(kind)) and seen.count:
            yield _counted(rule, seen, context.rows_train, f"{seen.count} training rows")
    total = context.rows_train + context.rows_heldout
    share = context.rows_heldout / total if total else 0.0
    if total and share < section.min_heldout_share - 0.005:
        is_enough = context.rows_heldout >= ENOUGH_HELDOUT
        said = (
            f"{context.rows_heldout} held-out rows, {share:.1%} of {total} (at least {section.min_heldout_share:.0%})"
        )
        severity: Severity | None = "info" if is_enough else None
        yield Finding("S005", said, context.rows_heldout, share, severity=severity, fix="" if is_enough else None)
    elif total and context.rows_heldout < section.min_heldout_rows:
        said = (
            f"{context.rows_heldout} held-out rows (at least {section.min_heldout_rows}): no score of them is certain"
        )
        yield Finding("S007", said, context.rows_heldout)
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
        said = f"{len(sizes)} patterns, the largest of {sizes[0]} rows; all kept, and divided row by row"
        yield _counted("B010", context.patterns, total, said.replace("1 patterns", "1 pattern", 1))
    if context.same_prompt.count:
        yield _counted("B006", context.same_prompt, total, "rows that share their prompt with an earlier row")


def _near_copies(context: LintContext) -> Iterator[Finding]:
    """Report near copies; many of them are a warning, for whoever wrote the rows may have meant them to differ."""
    seen, total = context.near_duplicates, context.rows_read
    if not seen.count:
        return
    said = "removed: nothing that decides differs" if context.near_removed else "kept: data.dedupe.near is report"
    fix = (
        None if context.near_removed else "read them beside each other on the page; data.dedupe.near: drop removes them"
    )
    severity: Severity | None = "warning" if seen.count > MANY_COPIES * total else None
    yield Finding("Q002", said, seen.count, _share(seen.count, total), seen.rows, severity, fix)


def _personal(context: LintContext) -> Iterator[Finding]:
    for kind, found in sorted(context.pii.items()):
        if not found.rows.count:
            continue
        record = record_named(kind)
        rule = record.lint
        is_left = found.action in ("report", "error")
        what = "left in the rows" if is_left else f"action {found.action}"
        severity: Severity | None = None if is_left else "info"
        seen, total = found.rows, context.rows_read
        said = what if record.is_titled else f"{kind}, {what}"
        fix = _redaction(rule, kind) if is_left else ""
        yield Finding(rule, said, seen.count, _share(seen.count, total), seen.rows, severity, fix)


def _redaction(rule: str, kind: str) -> str | None:
    if rule == "P100":
        return "revoke them, and set data.pii.secrets: redact"
    if not is_ours(kind):
        return "look at them: what a model recognises is only reported"
    return f"set data.pii.types: {{{kind}: redact}}"


def _counted(rule: str, seen: Seen, total: int, said: str) -> Finding:
    assert rule in RULES
    return Finding(rule, said, seen.count, _share(seen.count, total), seen.rows)


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
