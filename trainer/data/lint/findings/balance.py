"""Report how the rows are mixed: number, classes, refusals, openings, pairs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from trainer.data.lint.facts.phrases import NONE_OF_THEM
from trainer.data.lint.facts.row import EDGE_CHARS
from trainer.data.lint.finding import Finding, LintContext
from trainer.data.lint.findings.labels import variants
from trainer.data.lint.findings.systems import system_findings
from trainer.data.lint.tally import RowTally
from trainer.recipe.lint import Lint

MIN_TABLE_ROWS = 20
MIN_LABEL_SHARE = 0.9
"""Least share of short answers in a classification."""
MAX_LABELS_SHARE = 0.2
MAX_SINGLE_SHARE = 0.05
"""Up to this share, answers that occur once are classes; more are other rows among the classes."""
MAX_QUOTED = 3
MIN_REFUSALS, FEW_REFUSALS = 3, 0.05
"""From this number and share of answers on, refusals are reported as a figure."""


def balance_findings(tally: RowTally, context: LintContext, section: Lint) -> Iterator[Finding]:
    """Yield findings of the rules B, and Q018 and Q003 about pairs and near conflicts."""
    if context.rows_train < section.min_rows:
        detail = f"{context.rows_train} training rows (at least {section.min_rows})"
        yield Finding("B001", detail, context.rows_train)
    yield from chain(
        system_findings(tally, section),
        _declining(tally, section),
        _class_sizes(tally, section),
        _spellings(tally),
        _same_answer(tally, context, section),
        _turns(tally),
        _openings(tally),
        _pairs(tally, section),
        _contradictions(tally, section),
        _near_conflicts(tally, context),
    )


def classes(tally: RowTally) -> dict[str, int]:
    """Return class -> rows if the rows are a classification: short answers, many rows for each; else nothing."""
    counts, total = tally.labels, tally.num_conversations()
    if total < MIN_TABLE_ROWS or counts.total < MIN_LABEL_SHARE * total or not counts.is_exact:
        return {}
    distinct = len(counts.counts)
    if distinct > max(2, MAX_LABELS_SHARE * total):
        return {}
    single = sum(rows == 1 for rows in counts.counts.values())
    least = 2 if single > max(1, MAX_SINGLE_SHARE * distinct) else 1
    return {name: rows for name, rows in counts.most_common() if rows >= least}


def _declining(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report conversations that never decline or ask back, and those that do so too often."""
    if names := classes(tally):
        if len(names) > 2 and not any(NONE_OF_THEM.search(name) for name in names):
            yield Finding("B003", f"none of the {len(names)} classes is for prompts that belong to no class", 0, 0.0)
        return
    prose, refusals, questions = (tally.counts[name] for name in ("prose", "refusal", "clarification"))
    total, count = tally.kinds["turns"], refusals + questions
    if total < MIN_TABLE_ROWS:
        return
    share = count / total
    rows = tuple((tally.first["refusal"] + tally.first["clarification"])[: section.max_rows_listed])
    detail = f"{refusals} answers decline, {questions} ask back ({share:.1%} of {total})"
    if share > section.max_refusal_share:
        yield Finding("B003", f"{detail}: the model will decline too often", count, share, rows, "warning")
    elif refusals >= MIN_REFUSALS and share > FEW_REFUSALS:
        yield Finding("B003", f"{detail}: meant so?", count, share, rows, fix="read them")
    elif count == 0 and prose >= 0.3 * total:
        yield Finding("B003", "no answer declines or asks back: the model will never say that it cannot know", 0, 0.0)


def _class_sizes(tally: RowTally, section: Lint) -> Iterator[Finding]:
    sizes = list(classes(tally).items())
    if len(sizes) > 1:
        (largest, most), (smallest, least) = sizes[0], sizes[-1]
        if most > section.max_class_ratio * least:
            names = f"{most} rows of {tally.quoted(largest)}, {least} of {tally.quoted(smallest)}"
            detail = f"{names} ({most / least:.0f} to 1)"
            yield Finding("B004", detail, least, least / sum(rows for _, rows in sizes))
        if small := [item for item in sizes if item[1] < section.min_class_rows]:
            detail = f"{len(small)} of {len(sizes)} classes have fewer than {section.min_class_rows} rows, such as "
            yield Finding("B004", detail + tally.quoted(small[-1][0]), sum(rows for _, rows in small))
    if tally.labels.total >= MIN_TABLE_ROWS:
        text, count = tally.labels.most_common(1)[0]
        if count > section.max_same_answer * len(tally):
            detail = f"{count} of {len(tally)} answers are {tally.quoted(text)}"
            yield Finding("B004", detail, count, count / len(tally))


def _spellings(tally: RowTally) -> Iterator[Finding]:
    """Report classes with several spellings, among other answers too."""
    mixed = list(variants(tally.labels.counts)) if tally.labels.total >= MIN_TABLE_ROWS else []
    if mixed:
        count = sum(sum(slips.values()) for _, slips in mixed)
        quotes = "; ".join(f"{tally.quoted(usual)}: {_listed(tally, slips)}" for usual, slips in mixed[:MAX_QUOTED])
        rows = tally.first_of(f"label {label}" for _, slips in mixed for label in slips)
        yield Finding("B011", f"{len(mixed)} classes: {quotes}", count, count / tally.labels.total, rows)


def _listed(tally: RowTally, spellings: dict[str, int]) -> str:
    return ", ".join(f"{rows} {tally.quoted(label)}" for label, rows in list(spellings.items())[:MAX_QUOTED])


def _same_answer(tally: RowTally, context: LintContext, section: Lint) -> Iterator[Finding]:
    """Report one answer to very many prompts, except in a classification: the model learns only this answer."""
    same, total = context.same_answer, tally.kinds["turns"]
    if total >= MIN_TABLE_ROWS and same.count >= section.max_repeated_answer * total and not classes(tally):
        yield Finding("B012", f"{same.count} of {total} rows", same.count, same.count / total, same.rows)


def _turns(tally: RowTally) -> Iterator[Finding]:
    single = sum(rows for turns, rows in tally.turns.items() if turns <= 2)
    several = sum(rows for turns, rows in tally.turns.items() if turns > 2)
    if single and several:
        rarer = min(single, several)
        yield Finding("B005", f"{single} single-turn, {several} multi-turn rows", rarer, rarer / (single + several))


def _openings(tally: RowTally) -> Iterator[Finding]:
    table = tally.prompt_openings
    if table.total >= MIN_TABLE_ROWS and table.total >= 0.5 * len(tally) and table.top_share() > 0.8:
        text, count = table.most_common(1)[0]
        detail = f"{count} of {table.total} longer prompts begin with {tally.quoted(text)}"
        yield Finding("B007", f"{detail} ({EDGE_CHARS} characters compared)", count, count / table.total)


def _near_conflicts(tally: RowTally, context: LintContext) -> Iterator[Finding]:
    """Report nearly the same prompts with different answers: one of two classes is wrong, most free answers are right.

    `What is a PCR test?` and `What is the KPMG company?` differ by two words inside a long common frame.
    """
    near = context.near_conflicts
    if not near.count:
        return
    share = near.count / context.rows_read if context.rows_read else None
    if classes(tally):
        detail = "prompts that are nearly the same, of different classes; kept"
        yield Finding("Q003", detail, near.count, share, near.rows)
    else:
        detail = "the prompts are only nearly the same, and may rightly have different answers; kept"
        fix = "look at them; where two ask the same, delete one"
        yield Finding("Q003", detail, near.count, share, near.rows, "info", fix)


def _contradictions(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report pairs whose chosen answer another pair with the same prompt rejects."""
    chosen, rejected = (np.asarray(keys, dtype=np.uint64) for keys in (tally.chosen, tally.rejected))  # (pairs,)
    both = np.intersect1d(chosen, rejected)
    if not both.size:
        return
    num_rows = np.count_nonzero(np.isin(chosen, both) | np.isin(rejected, both))
    # Reversed, so that the first pair with a key wins.
    first_rejecting = {key: pair for pair, key in reversed(list(enumerate(rejected.tolist())))}
    listed = []
    for pair in np.flatnonzero(np.isin(chosen, both))[: section.max_rows_listed].tolist():
        rows = [tally.pair_rows[pair], tally.pair_rows[first_rejecting[int(chosen[pair])]]]
        listed.append(" = ".join(tally.refs(rows)))
    yield Finding("Q018", "", int(num_rows), int(num_rows) / chosen.size, tuple(listed))


def _pairs(tally: RowTally, section: Lint) -> Iterator[Finding]:
    pairs = tally.num_longer.total()
    for side in ("chosen", "rejected"):
        count = tally.num_longer[side]
        if pairs >= MIN_TABLE_ROWS and count > section.max_chosen_longer * pairs:
            share = count / pairs
            detail = f"the {side} answer is longer in {share:.0%} of {pairs} pairs: length alone tells them apart"
            yield Finding("B008", detail, count, share)
    labelled = tally.num_good.total()
    rarer = min(tally.num_good[True], tally.num_good[False])
    if labelled and rarer < section.min_label_share * labelled:
        detail = f"{tally.num_good[True]} good, {tally.num_good[False]} bad answers"
        yield Finding("B009", detail, rarer, rarer / labelled)
