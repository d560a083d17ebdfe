"""Findings about the answers and the texts of all rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from trainer.data.lint.finding import Finding
from trainer.data.lint.findings.forms import form_findings
from trainer.data.lint.rules import RULES
from trainer.data.lint.tally import Ints, RowTally, edge_sum
from trainer.recipe.lint import Lint, Severity

MIN_ROWS_FOR_OUTLIERS = 50
FENCE_IQR = 3.0
"""Tukey's fence for values far out, on the logarithm of the length. Source: Tukey 1977, Exploratory Data Analysis."""
MIN_IQR = 0.35
"""Answers of one form differ little: without a floor, a few characters would be far out."""
MIN_CUT_ROWS = 5
SPIKE_CHARS = 25
"""Lengths of free text differ: 51 neighbouring lengths together hold far more answers than one of them."""
MIN_TABLE_ROWS = 20
PLAIN_WORDS = re.compile(r"[^\W\d_]+(?:[ ,'’-]+[^\W\d_]+)*[.!?]?")
PATTERN_IQR = 0.15
"""Answers that fill the slots of one pattern differ so little in length (interquartile range of its logarithm): 0 to
0.02 in templated rows, 0.6 and more where a fixed phrase stands before or after free text."""
SYSTEMATIC_SHARE = 0.01
"""A few rows may quote a rendered text; from here on the data was rendered with somebody's template already."""
LEFT_OVER = "turns begin or end with tokens of a chat template, or hold the end of one turn and the begin of the next"

CHECKED = {"Q022": "code", "Q023": "sum"}
"""Rule -> trait of the rows that it was checked in."""
MIN_STOCK_ROWS = 5


def quality_findings(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Yield findings of the rules F and Q that rows break by themselves or against the others."""
    for rule in sorted(RULES):
        if rule != "Q008" and tally.counts[rule]:
            yield _counted(tally, rule, tally.counts[rule])
    yield from _cut(tally, section)
    yield from _outliers(tally)
    yield from _languages(tally, section)
    yield from _edges(tally, section)
    yield from _stock(tally, section)
    yield from _reasoning(tally)
    yield from form_findings(tally, section)


def _counted(tally: RowTally, rule: str, count: int) -> Finding:
    share = count / len(tally)
    is_systematic = rule == "F019" and share >= SYSTEMATIC_SHARE
    said = LEFT_OVER if rule == "F019" else ""
    if (trait := CHECKED.get(rule)) and tally.counts[trait] < len(tally):
        share = count / max(tally.counts[trait], 1)
        said = f"of {tally.counts[trait]} answers that were checked ({trait})"
    return Finding(rule, said, count, share, tuple(tally.first[rule]), "error" if is_systematic else None)


def _cut(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report answers with an open fence or bracket, prose without an end, and many that end at one length."""
    count, unfinished, prose = tally.counts["Q008"], tally.counts["unfinished"], tally.counts["prose"]
    if count:
        yield Finding(
            "Q008",
            "the last word begins something, as `and the` does, or a code fence or JSON is never closed",
            count,
            count / len(tally),
            tuple(tally.first["Q008"]),
        )
    if unfinished and unfinished <= section.max_unfinished_share * prose:
        said = f"{unfinished} of {prose} long answers end without a stop"
        share = unfinished / len(tally)
        yield Finding("Q008", said, unfinished, share, tuple(tally.first["unfinished"]), "info")
    yield from _cut_at_a_limit(tally, section)


def _cut_at_a_limit(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report answers of one length that stop without a stop: max_tokens, or a column's width, where they came from.

    The greatest length, or one that many more answers have than the lengths around it.
    """
    lengths = tally.lengths("answer")
    is_open = np.asarray(tally.is_open) == 1
    values, counts = np.unique(lengths[is_open], return_counts=True)
    if not values.size:
        return
    length = int(values[np.argmax(counts)])
    same = np.flatnonzero((lengths == length) & is_open)
    around = np.count_nonzero((np.abs(lengths - length) <= SPIKE_CHARS) & is_open) - len(same)
    is_spike = length == int(lengths.max()) or len(same) > around
    if is_spike and not _fill_a_pattern(tally, same) and len(same) >= max(MIN_CUT_ROWS, 0.01 * len(lengths)):
        rows = tally.refs(same[: section.max_rows_listed].tolist())
        longest = ", the greatest length" if length == int(lengths.max()) else ""
        said = f"{len(same)} answers without an end are exactly {length} characters long{longest}: cut at a limit?"
        yield Finding("Q008", said, len(same), len(same) / len(tally), rows)


def _fill_a_pattern(tally: RowTally, rows: Ints) -> bool:
    """Tell answers of one length that begin and end alike but for their slots from text that was cut anywhere."""
    return all(2 * np.unique(tally.edges(place)[rows]).size <= len(rows) for place in ("begin", "end"))


def _outliers(tally: RowTally) -> Iterator[Finding]:
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


def _languages(tally: RowTally, section: Lint) -> Iterator[Finding]:
    total = tally.languages.total()
    main = max(tally.prompt_languages, key=lambda name: (tally.prompt_languages[name], name), default="")
    # A likely language counts where the prompts have it anyway.
    pairs = {pair: rows for pair, rows in tally.mismatched.items() if pair[2] or pair[0] == main}
    mismatched = sum(pairs.values())
    if mismatched and mismatched <= section.max_mismatch_share * tally.num_language_pairs:
        asked, answered, _ = min(pairs, key=lambda pair: (-pairs[pair], pair))
        share = mismatched / tally.num_language_pairs
        of = f"{mismatched} of {tally.num_language_pairs} identified rows"
        said = f"{of} answer in another language than the prompt's, most often {answered} to {asked}"
        refs = [ref for name, _, sure in pairs for ref in tally.first[f"mismatch {name} {sure}"]]
        yield Finding("Q012", said, mismatched, share, tuple(dict.fromkeys(refs))[: section.max_rows_listed], "warning")
    minor = sorted(name for name, rows in tally.languages.items() if rows < section.min_language_share * total)
    most = [f"{name} {rows / total:.0%}" for name, rows in sorted(tally.languages.items(), key=lambda i: (-i[1], i[0]))]
    if minor and total >= MIN_TABLE_ROWS:
        count = sum(tally.languages[name] for name in minor)
        rows = [ref for name in minor for ref in tally.first[f"language {name}"]][: section.max_rows_listed]
        rare = ", ".join(minor[:6])
        said = f"{count} of {total} identified rows are in rare languages ({rare}); most: {', '.join(most[:3])}"
        yield Finding("Q012", said, count, count / total, tuple(rows))


def _edges(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report answers that all begin or end alike; one constant answer is another matter (B004)."""
    for place, table in (("begin", tally.answer_openings), ("end", tally.answer_endings)):
        if table.total < MIN_TABLE_ROWS or table.total < 0.2 * len(tally):
            continue
        text, count = table.most_common(1)[0]
        if count > section.max_same_opening * table.total and not _is_pattern(tally, place, text):
            said = f"{count} of {table.total} longer answers {place} with {tally.quoted(text)}"
            # Code and templates rightly begin alike; a common ending is most likely a stray token.
            severity: Severity | None = "info" if place == "begin" else None
            yield Finding("Q015", said, count, count / table.total, severity=severity)


def _is_pattern(tally: RowTally, place: str, text: str) -> bool:
    """Tell answers that are alike as wholes, whose beginning or end is theirs, from a phrase or token around free text.

    They hardly differ in length, and are alike at the other end too, or begin or end in plain words.
    """
    rows = np.flatnonzero(tally.edges(place) == edge_sum(text))
    low, high = np.quantile(np.log(tally.lengths("answer")[rows]), [0.25, 0.75])
    others = np.unique(tally.edges("end" if place == "begin" else "begin")[rows])
    return bool(high - low < PATTERN_IQR) and (2 * others.size <= rows.size or PLAIN_WORDS.fullmatch(text) is not None)


def _stock(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report a sentence that opens or closes many answers, and phrases of assistants in many of them."""
    longer = tally.answer_openings.total
    for place, table in (("begin", tally.first_sentences), ("end", tally.last_sentences)):
        (text, count), *_ = table.most_common(1) or [("", 0)]
        if (
            count >= MIN_STOCK_ROWS
            and count > section.max_stock_share * longer >= section.max_stock_share * MIN_TABLE_ROWS
        ):
            yield Finding(
                "Q026", f"{count} of {longer} longer answers {place} with {tally.quoted(text)}", count, count / longer
            )
    stock = tally.counts["stock"]
    if stock > 2 * section.max_stock_share * longer >= 2 * section.max_stock_share * MIN_TABLE_ROWS:
        said = f"{stock} of {longer} longer answers begin or end with a phrase of assistants, as `Certainly!`"
        yield Finding("Q026", said, stock, stock / longer, tuple(tally.first["stock"]))


def _reasoning(tally: RowTally) -> Iterator[Finding]:
    """Report rows with reasoning beside rows without, where nothing in the row tells which it is."""
    thinking = tally.counts["thinking"]
    asked = len(tally) - tally.kinds["text"] - tally.kinds["tokens"]
    plain = asked - thinking - tally.counts["switched"]
    if thinking and plain:
        said = f"{thinking} rows reason before they answer, {plain} do not"
        count = min(thinking, plain)
        yield Finding("F027", said, count, count / (thinking + plain), tuple(tally.first["thinking"]))
