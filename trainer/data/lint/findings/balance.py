"""Findings about what the rows are made of: how many, which classes, which system prompts, how they decline."""

from __future__ import annotations

from collections.abc import Iterator

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
"""From so many short answers on, the rows may be a classification."""
MAX_LABELS_SHARE = 0.2
MAX_SINGLE_SHARE = 0.05
"""More answers than this share that occur once are no classes but other rows among them."""
MAX_NAMED = 3
MIN_REFUSALS, FEW_REFUSALS = 3, 0.05
"""From so many answers, and so large a share, refusals are worth a look."""


def balance_findings(tally: RowTally, context: LintContext, section: Lint) -> Iterator[Finding]:
    """Yield findings of the rules B."""
    if context.rows_train < section.min_rows:
        said = f"{context.rows_train} training rows (at least {section.min_rows})"
        yield Finding("B001", said, context.rows_train)
    yield from system_findings(tally, section)
    yield from _declining(tally, section)
    yield from _classes(tally, section)
    yield from _spellings(tally, section)
    yield from _same_answer(tally, context, section)
    yield from _turns(tally)
    yield from _openings(tally)
    yield from _pairs(tally, section)
    yield from _contradictions(tally, section)
    yield from _near_conflicts(tally, context)


def classes(tally: RowTally) -> dict[str, int]:
    """Return class -> rows where the rows are a classification: short answers, many rows for each; else nothing."""
    counts, asked = tally.labels, len(tally) - tally.kinds["text"] - tally.kinds["tokens"]
    if asked < MIN_TABLE_ROWS or counts.total < MIN_LABEL_SHARE * asked or not counts.is_exact:
        return {}
    distinct = len(counts.counts)
    if distinct > max(2, MAX_LABELS_SHARE * asked):
        return {}
    single = sum(rows == 1 for rows in counts.counts.values())
    least = 2 if single > max(1, MAX_SINGLE_SHARE * distinct) else 1
    return {name: rows for name, rows in counts.most_common() if rows >= least}


def _declining(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report conversations that never decline or ask back, and those that do it too often."""
    if named := classes(tally):
        if len(named) > 2 and not any(NONE_OF_THEM.search(name) for name in named):
            yield Finding("B003", f"none of the {len(named)} classes is for prompts that belong to no class", 0, 0.0)
        return
    prose, refusals, questions = (tally.counts[name] for name in ("prose", "refusal", "clarification"))
    if tally.kinds["turns"] < MIN_TABLE_ROWS:
        return
    share = (refusals + questions) / tally.kinds["turns"]
    rows = tuple((tally.first["refusal"] + tally.first["clarification"])[: section.max_rows_listed])
    said = f"{refusals} answers decline, {questions} ask back ({share:.1%} of {tally.kinds['turns']})"
    if share > section.max_refusal_share:
        yield Finding("B003", f"{said}: the model will decline too often", refusals + questions, share, rows, "warning")
    elif refusals >= MIN_REFUSALS and share > FEW_REFUSALS:
        yield Finding("B003", f"{said}: meant so?", refusals + questions, share, rows, fix="read them")
    elif refusals + questions == 0 and prose >= 0.3 * tally.kinds["turns"]:
        yield Finding("B003", "no answer declines or asks back: the model will never say that it cannot know", 0, 0.0)


def _classes(tally: RowTally, section: Lint) -> Iterator[Finding]:
    named = classes(tally)
    total = sum(named.values())
    if len(named) > 1:
        by_size = list(named.items())
        (largest, most), (smallest, least) = by_size[0], by_size[-1]
        few = [name for name, rows in named.items() if rows < section.min_class_rows]
        if most > section.max_class_ratio * least:
            said = (
                f"{most} rows of {tally.quoted(largest)}, {least} of {tally.quoted(smallest)} ({most / least:.0f} to 1)"
            )
            yield Finding("B004", said, least, least / total)
        if few:
            said = f"{len(few)} of {len(named)} classes have fewer than {section.min_class_rows} rows, such as "
            said += tally.quoted(few[-1])
            yield Finding("B004", said, sum(named[name] for name in few))
    if tally.labels.total >= MIN_TABLE_ROWS:
        text, count = tally.labels.most_common(1)[0]
        if count > section.max_same_answer * len(tally):
            yield Finding(
                "B004", f"{count} of {len(tally)} answers are {tally.quoted(text)}", count, count / len(tally)
            )


def _spellings(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report classes that are spelled in several ways, among other answers too."""
    mixed = list(variants(tally.labels.counts)) if tally.labels.total >= MIN_TABLE_ROWS else []
    if mixed:
        count = sum(sum(others.values()) for _, others in mixed)
        named = "; ".join(f"{tally.quoted(usual)}: {_listed(tally, others)}" for usual, others in mixed[:MAX_NAMED])
        rows = [ref for _, others in mixed for label in others for ref in tally.first[f"label {label}"]]
        listed = tuple(rows)[: section.max_rows_listed]
        yield Finding("B011", f"{len(mixed)} classes: {named}", count, count / tally.labels.total, listed)


def _listed(tally: RowTally, spellings: dict[str, int]) -> str:
    return ", ".join(f"{rows} {tally.quoted(label)}" for label, rows in list(spellings.items())[:MAX_NAMED])


def _same_answer(tally: RowTally, context: LintContext, section: Lint) -> Iterator[Finding]:
    """Report one answer to very many prompts where the rows are no classification: the model learns to say only it."""
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
        said = f"{count} of {table.total} longer prompts begin with {tally.quoted(text)}"
        said += f" ({EDGE_CHARS} characters compared)"
        yield Finding("B007", said, count, count / table.total)


def _near_conflicts(tally: RowTally, context: LintContext) -> Iterator[Finding]:
    """Report nearly the same prompts with different answers: among classes one is wrong, among others most are right.

    `What is a PCR test?` and `What is the KPMG company?` differ by two words inside a long common frame.
    """
    near = context.near_conflicts
    if not near.count:
        return
    share = near.count / context.rows_read if context.rows_read else None
    if classes(tally):
        said = "prompts that are nearly the same, of different classes; kept"
        yield Finding("Q003", said, near.count, share, near.rows)
        return
    said = "the prompts are only nearly the same, and may rightly have different answers; kept"
    fix = "look at them; where two ask the same, delete one"
    yield Finding("Q003", said, near.count, share, near.rows, "info", fix)


def _contradictions(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report pairs whose chosen answer another pair with the same prompt rejects."""
    chosen, rejected = (np.asarray(keys, dtype=np.uint64) for keys in (tally.chosen, tally.rejected))
    both = np.intersect1d(chosen, rejected)
    if not both.size:
        return
    rows = np.flatnonzero(np.isin(chosen, both) | np.isin(rejected, both))
    of_rejected = {int(key): row for row, key in reversed(list(enumerate(rejected.tolist())))}
    places = np.asarray(tally.pair_rows, dtype=np.int64)
    named = []
    for row in np.flatnonzero(np.isin(chosen, both))[: section.max_rows_listed].tolist():
        one, other = tally.refs(places[[row, of_rejected[int(chosen[row])]]].tolist())
        named.append(f"{one} = {other}")
    yield Finding("Q018", "", len(rows), len(rows) / chosen.size, tuple(named))


def _pairs(tally: RowTally, section: Lint) -> Iterator[Finding]:
    pairs = tally.num_longer.total()
    for side in ("chosen", "rejected"):
        count = tally.num_longer[side]
        if pairs >= MIN_TABLE_ROWS and count > section.max_chosen_longer * pairs:
            said = f"the {side} answer is longer in {count / pairs:.0%} of {pairs} pairs: length alone tells them apart"
            yield Finding("B008", said, count, count / pairs)
    labelled = tally.num_good.total()
    rarer = min(tally.num_good[True], tally.num_good[False])
    if labelled and rarer < section.min_label_share * labelled:
        said = f"{tally.num_good[True]} good, {tally.num_good[False]} bad answers"
        yield Finding("B009", said, rarer, rarer / labelled)
