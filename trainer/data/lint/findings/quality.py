"""Report faults of answers and texts: those of single rows, and those that show beside the other rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

import numpy as np

from trainer.data.lint.finding import Finding
from trainer.data.lint.findings.forms import form_findings
from trainer.data.lint.frequent import by_count
from trainer.data.lint.rules import RULES
from trainer.data.lint.tally import EDGES, Edge, Ints, RowTally, edge_sum
from trainer.recipe.lint import Lint

MIN_ROWS_FOR_OUTLIERS = 50
FENCE_IQR = 3.0
"""Tukey's fence for values far out, on the logarithm of the length. Source: Tukey 1977, Exploratory Data Analysis."""
MIN_IQR = 0.35
"""Answers of one form differ little: without a floor, a few characters would be far out."""
MIN_CUT_ROWS = 5
SPIKE_CHARS = 25
"""Lengths of free text differ: 51 neighbouring lengths together have far more answers than one of them."""
MIN_TABLE_ROWS = 20
PLAIN_WORDS = re.compile(r"[^\W\d_]+(?:[ ,'’-]+[^\W\d_]+)*[.!?]?")
PATTERN_IQR = 0.15
"""Largest spread in length of answers that fill the slots of one pattern (interquartile range of the logarithm).

0 to 0.02 in templated rows, 0.6 and more for a fixed phrase before or after free text.
"""
SYSTEMATIC_SHARE = 0.01
"""Below this share, rows may quote a rendered text; above it, the data is rendered with a template already."""
LEFT_OVER = "turns begin or end with tokens of a chat template, or hold the end of one turn and the begin of the next"

CHECKED = {"Q022": "code", "Q023": "sum"}
"""Rule -> trait of the rows that it is checked in."""
MIN_STOCK_ROWS = 5


def quality_findings(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Yield findings of the rules F and Q."""
    for rule in sorted(RULES):
        if rule != "Q008" and tally.counts[rule]:
            yield _counted(tally, rule)
    yield from chain(
        _cut(tally, section),
        _cut_at_a_limit(tally),
        _outliers(tally),
        _mismatched_languages(tally, section),
        _rare_languages(tally, section),
        _edges(tally, section),
        _stock(tally, section),
        _reasoning(tally),
        form_findings(tally, section),
    )


def _counted(tally: RowTally, rule: str) -> Finding:
    """Count the rows that break a rule on their own."""
    count = tally.counts[rule]
    share = count / len(tally)
    is_systematic = rule == "F019" and share >= SYSTEMATIC_SHARE
    detail = LEFT_OVER if rule == "F019" else ""
    if (trait := CHECKED.get(rule)) and tally.counts[trait] < len(tally):
        share = count / max(tally.counts[trait], 1)
        detail = f"of {tally.counts[trait]} answers that were checked ({trait})"
    return Finding(rule, detail, count, share, tuple(tally.first[rule]), "error" if is_systematic else None)


def _cut(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report answers with an open fence or bracket, and prose without an end."""
    count, unfinished, prose = tally.counts["Q008"], tally.counts["unfinished"], tally.counts["prose"]
    if count:
        detail = "the last word begins something, as `and the` does, or a code fence or JSON is never closed"
        yield Finding("Q008", detail, count, count / len(tally), tuple(tally.first["Q008"]))
    if unfinished and unfinished <= section.max_unfinished_share * prose:
        detail = f"{unfinished} of {prose} long answers end without a stop"
        share = unfinished / len(tally)
        yield Finding("Q008", detail, unfinished, share, tuple(tally.first["unfinished"]), "info")


def _cut_at_a_limit(tally: RowTally) -> Iterator[Finding]:
    """Report answers of one length without a stop: a limit of tokens, or the width of a column, cut them.

    That length is the greatest, or many more answers have it than the lengths around it.
    """
    lengths = tally.lengths("answer")
    is_open = np.asarray(tally.is_open) == 1
    values, counts = np.unique(lengths[is_open], return_counts=True)
    if not values.size:
        return
    length = int(values[np.argmax(counts)])
    same = np.flatnonzero((lengths == length) & is_open)
    around = np.count_nonzero((np.abs(lengths - length) <= SPIKE_CHARS) & is_open) - len(same)
    is_longest = length == int(lengths.max())
    is_spike = is_longest or len(same) > around
    if is_spike and not _fill_a_pattern(tally, same) and len(same) >= max(MIN_CUT_ROWS, 0.01 * len(lengths)):
        extreme = ", the greatest length" if is_longest else ""
        detail = f"{len(same)} answers without an end are exactly {length} characters long{extreme}: cut at a limit?"
        rows = tally.refs(same[: tally.max_rows_listed].tolist())
        yield Finding("Q008", detail, len(same), len(same) / len(tally), rows)


def _fill_a_pattern(tally: RowTally, rows: Ints) -> bool:
    """Tell answers of one pattern, which begin and end alike but for numbers, from text cut anywhere."""
    return all(2 * np.unique(tally.edges(edge)[rows]).size <= len(rows) for edge in EDGES)


def _outliers(tally: RowTally) -> Iterator[Finding]:
    if len(tally) < MIN_ROWS_FOR_OUTLIERS:
        return
    logs = np.log(np.maximum(tally.lengths("answer"), 1))  # (rows,)
    low, high = np.quantile(logs, [0.25, 0.75])
    fence = FENCE_IQR * max(high - low, MIN_IQR)
    far = np.flatnonzero((logs < low - fence) | (logs > high + fence))
    if len(far):
        farthest = far[np.argsort(-np.abs(logs[far] - np.median(logs)), kind="stable")][: tally.max_rows_listed]
        usual = f"usual are {np.exp(max(low - fence, 0)):.0f} to {np.exp(high + fence):.0f} characters"
        rows = tally.refs(farthest.tolist())
        yield Finding("Q009", f"{len(far)} answers; {usual}", len(far), len(far) / len(tally), rows)


def _mismatched_languages(tally: RowTally, section: Lint) -> Iterator[Finding]:
    main = max(tally.prompt_languages, key=lambda name: (tally.prompt_languages[name], name), default="")
    # A likely language counts if it is that of most prompts.
    pairs = {pair: rows for pair, rows in tally.mismatches.items() if pair.is_sure or pair.prompt == main}
    count, total = sum(pairs.values()), tally.num_language_pairs
    if count and count <= section.max_mismatch_share * total:
        frequent = min(pairs, key=lambda pair: (-pairs[pair], pair))
        detail = (
            f"{count} of {total} identified rows answer in another language than the prompt's, "
            f"most often {frequent.answer} to {frequent.prompt}"
        )
        rows = tally.first_of(f"mismatch {pair.prompt} {pair.is_sure}" for pair in pairs)
        yield Finding("Q012", detail, count, count / total, rows, "warning")


def _rare_languages(tally: RowTally, section: Lint) -> Iterator[Finding]:
    total = tally.languages.total()
    rare = sorted(name for name, rows in tally.languages.items() if rows < section.min_language_share * total)
    if rare and total >= MIN_TABLE_ROWS:
        count = sum(tally.languages[name] for name in rare)
        most = ", ".join(f"{name} {rows / total:.0%}" for name, rows in by_count(tally.languages)[:3])
        detail = f"{count} of {total} identified rows are in rare languages ({', '.join(rare[:6])}); most: {most}"
        yield Finding("Q012", detail, count, count / total, tally.first_of(f"language {name}" for name in rare))


def _edges(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report answers that all begin or end alike. One constant answer is B004."""
    for edge, table in zip(EDGES, (tally.answer_openings, tally.answer_endings), strict=True):
        if table.total < MIN_TABLE_ROWS or table.total < 0.2 * len(tally):
            continue
        text, count = table.most_common(1)[0]
        if count > section.max_same_opening * table.total and not _is_pattern(tally, edge, text):
            detail = f"{count} of {table.total} longer answers {edge} with {tally.quoted(text)}"
            # Code and templates rightly begin alike; a common ending is most likely a stray token.
            yield Finding("Q015", detail, count, count / table.total, severity="info" if edge == "begin" else None)


def _is_pattern(tally: RowTally, edge: Edge, text: str) -> bool:
    """Tell answers that fill the slots of one pattern from free text behind a phrase.

    They hardly differ in length, and are alike at the other end too, or begin or end in plain words.
    """
    rows = np.flatnonzero(tally.edges(edge) == edge_sum(text))
    low, high = np.quantile(np.log(tally.lengths("answer")[rows]), [0.25, 0.75])
    opposite = np.unique(tally.edges("end" if edge == "begin" else "begin")[rows])
    is_alike = 2 * opposite.size <= rows.size or PLAIN_WORDS.fullmatch(text) is not None
    return bool(high - low < PATTERN_IQR) and is_alike


def _stock(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report a sentence that opens or closes many answers, and phrases of assistants in many of them."""
    total, max_share = tally.answer_openings.total, section.max_stock_share
    for edge, table in zip(EDGES, (tally.first_sentences, tally.last_sentences), strict=True):
        (text, count), *_ = table.most_common(1) or [("", 0)]
        if count >= MIN_STOCK_ROWS and count > max_share * total >= max_share * MIN_TABLE_ROWS:
            detail = f"{count} of {total} longer answers {edge} with {tally.quoted(text)}"
            yield Finding("Q026", detail, count, count / total)
    stock = tally.counts["stock"]
    if stock > 2 * max_share * total >= 2 * max_share * MIN_TABLE_ROWS:
        detail = f"{stock} of {total} longer answers begin or end with a phrase of assistants, as `Certainly!`"
        yield Finding("Q026", detail, stock, stock / total, tuple(tally.first["stock"]))


def _reasoning(tally: RowTally) -> Iterator[Finding]:
    """Report rows with reasoning beside rows without, where no setting of the row switches it."""
    thinking = tally.counts["thinking"]
    plain = tally.num_conversations() - thinking - tally.counts["switched"]
    if thinking and plain:
        detail = f"{thinking} rows reason before they answer, {plain} do not"
        count = min(thinking, plain)
        yield Finding("F027", detail, count, count / (thinking + plain), tuple(tally.first["thinking"]))
