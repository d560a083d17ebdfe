"""Findings about the answers and the texts of all rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainer.data.lint.findings import Finding
from trainer.data.lint.rules import RULES
from trainer.data.lint.tally import Tally
from trainer.recipe.lint import Lint, Severity

MIN_ROWS_FOR_OUTLIERS = 100
FENCE_IQR = 3.0
"""Tukey's fence for values far out, on the logarithm of the length. Source: Tukey 1977, Exploratory Data Analysis."""
MIN_IQR = 0.35
"""Answers of one form differ little: without a floor, a few characters would be far out."""
MIN_CUT_ROWS = 5
MIN_TABLE_ROWS = 20
SYSTEMATIC_SHARE = 0.01
"""A few rows may quote a rendered text; from here on the data was rendered with somebody's template already."""
LEFT_OVER = "turns begin or end with tokens of a chat template, or hold the end of one turn and the begin of the next"


def quality_findings(tally: Tally, section: Lint) -> Iterator[Finding]:
    """Yield findings of the rules F and Q that rows break by themselves or against the others."""
    for rule in sorted(RULES):
        if rule != "Q008" and tally.counts[rule]:
            yield _counted(tally, rule, tally.counts[rule])
    yield from _cut(tally, section)
    yield from _outliers(tally)
    yield from _languages(tally, section)
    yield from _edges(tally, section)
    yield from _forms(tally, section)


def _counted(tally: Tally, rule: str, count: int) -> Finding:
    share = count / len(tally)
    is_systematic = rule == "F019" and share >= SYSTEMATIC_SHARE
    detail = LEFT_OVER if rule == "F019" else ""
    return Finding(rule, detail, count, share, tuple(tally.first[rule]), "error" if is_systematic else None)


def _cut(tally: Tally, section: Lint) -> Iterator[Finding]:
    """Report answers with an open fence or bracket, prose without an end, and many that end at one length."""
    count, unfinished, prose = tally.counts["Q008"], tally.counts["unfinished"], tally.counts["prose"]
    if count:
        yield Finding(
            "Q008",
            "a code fence or JSON that is never closed",
            count,
            count / len(tally),
            tuple(tally.first["Q008"]),
        )
    if unfinished and unfinished <= section.max_unfinished_share * prose:
        said = f"{unfinished} of {prose} long answers end without a stop"
        share = unfinished / len(tally)
        yield Finding("Q008", said, unfinished, share, tuple(tally.first["unfinished"]), "info")
    yield from _cut_at_a_limit(tally, section)


def _cut_at_a_limit(tally: Tally, section: Lint) -> Iterator[Finding]:
    """Report answers of one greatest length that stop without a stop: max_tokens of the model that wrote them."""
    lengths = tally.lengths("answer")
    longest = int(lengths.max())
    same = np.flatnonzero((lengths == longest) & (np.asarray(tally.is_open) == 1))
    if len(same) >= max(MIN_CUT_ROWS, 0.01 * len(lengths)):
        rows = tally.refs(same[: section.max_rows_listed].tolist())
        said = f"{len(same)} answers are exactly {longest} characters long, the greatest length: cut at a limit?"
        yield Finding("Q008", said, len(same), len(same) / len(tally), rows)


def _outliers(tally: Tally) -> Iterator[Finding]:
    if len(tally) < MIN_ROWS_FOR_OUTLIERS:
        return
    logs = np.log(np.maximum(tally.lengths("answer"), 1))
    low, high = np.quantile(logs, [0.25, 0.75])
    fence = FENCE_IQR * max(high - low, MIN_IQR)
    far = np.flatnonzero((logs < low - fence) | (logs > high + fence))
    if not len(far):
        return
    worst = far[np.argsort(-np.abs(logs[far] - np.median(logs)), kind="stable")][: tally.max_rows_listed]
    usual = f"usual are {np.exp(max(low - fence, 0)):.0f} to {np.exp(high + fence):.0f} characters"
    yield Finding("Q009", f"{len(far)} answers; {usual}", len(far), len(far) / len(tally), tally.refs(worst.tolist()))


def _languages(tally: Tally, section: Lint) -> Iterator[Finding]:
    total, mismatched = tally.languages.total(), tally.mismatched.total()
    if mismatched and mismatched <= section.max_mismatch_share * tally.num_language_pairs:
        (asked, answered), _ = sorted(tally.mismatched.items(), key=lambda item: (-item[1], item[0]))[0]
        share = mismatched / tally.num_language_pairs
        of = f"{mismatched} of {tally.num_language_pairs} identified rows"
        said = f"{of} answer in another language than the prompt's, most often {answered} to {asked}"
        yield Finding("Q012", said, mismatched, share, tuple(tally.first["mismatch"]))
    minor = sorted(name for name, rows in tally.languages.items() if rows < section.min_language_share * total)
    main = [f"{name} {rows / total:.0%}" for name, rows in sorted(tally.languages.items(), key=lambda i: (-i[1], i[0]))]
    if minor and total >= MIN_TABLE_ROWS:
        count = sum(tally.languages[name] for name in minor)
        rows = [ref for name in minor for ref in tally.first[f"language {name}"]][: section.max_rows_listed]
        rare = ", ".join(minor[:6])
        said = f"{count} of {total} identified rows are in rare languages ({rare}); most: {', '.join(main[:3])}"
        yield Finding("Q012", said, count, count / total, tuple(rows))


def _edges(tally: Tally, section: Lint) -> Iterator[Finding]:
    """Report answers that all begin or end alike; one constant answer is another matter (B004)."""
    for place, table in (("begin", tally.answer_openings), ("end", tally.answer_endings)):
        if table.total < MIN_TABLE_ROWS or table.total < 0.2 * len(tally):
            continue
        text, count = table.most_common(1)[0]
        if count > section.max_same_opening * table.total:
            said = f"{count} of {table.total} longer answers {place} with {text!r}"
            # Code and templates rightly begin alike; a common ending is most likely a stray token.
            severity: Severity | None = "info" if place == "begin" else None
            yield Finding("Q015", said, count, count / table.total, severity=severity)


def _forms(tally: Tally, section: Lint) -> Iterator[Finding]:
    """Report the odd ones out where most answers are JSON."""
    if tally.keys.total < MIN_TABLE_ROWS:
        return
    total, counts = tally.keys.total, tally.keys.most_common()
    plain = dict(counts).get("no JSON", 0)
    if total - plain < section.min_json_share * total:
        return
    if plain:
        said = f"{plain} of {total} answers are no valid JSON, the others are"
        yield Finding("Q017", said, plain, plain / total, tuple(tally.first["keys None"]))
    forms = [(keys, rows) for keys, rows in counts if keys != "no JSON"]
    usual, most = forms[0]
    rare = [(keys, rows) for keys, rows in forms[1:] if rows < 0.05 * total]
    if rare and most >= section.min_json_share * total:
        count = sum(rows for _, rows in rare)
        said = f"{count} answers have other keys than {usual!r}, such as {rare[0][0]!r}"
        rows = [ref for keys, _ in rare for ref in tally.first[f"keys {keys}"]][: section.max_rows_listed]
        yield Finding("Q017", said, count, count / total, tuple(rows))
