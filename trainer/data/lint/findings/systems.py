"""Findings about system prompts: missing ones, and ones that differ where they should not."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from trainer.data.lint.facts.row import SYSTEM_CHARS
from trainer.data.lint.finding import Finding
from trainer.data.lint.tally import RowTally
from trainer.recipe.lint import Lint

MAX_COMPARED = 20
SAME_RATIO = 0.9
FEW_SYSTEMS_SHARE = 0.05
"""More different system prompts than this share of the rows are meant so: each holds a document or a persona."""
MIN_FORM_ROWS = 2


def system_findings(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Yield B002 and B013."""
    asked = len(tally) - tally.kinds["text"] - tally.kinds["tokens"]
    if not asked:
        return
    missing = asked - tally.num_systems
    if tally.num_systems and missing:
        said = f"{missing} of {asked} rows have no system prompt, the others do"
        yield Finding("B002", said, missing, missing / asked, tuple(tally.first["system "]))
    variants = [(key, rows) for key, rows in tally.systems.most_common() if key]
    if len(variants) > max(3, FEW_SYSTEMS_SHARE * asked):
        yield from _differing_in_little(tally, variants, section)
    elif len(variants) > 1:
        rare = sum(rows for _, rows in variants[1:])
        alike = _near_identical(tally, variants)
        said = f"{len(variants)} different system prompts" + (f"; {alike} of them nearly the same" if alike else "")
        yield Finding("B002", said, rare, rare / asked, _refs(tally, variants[1:], section))
    yield from _served(tally, section, asked)


def _differing_in_little(tally: RowTally, variants: list[tuple[str, int]], section: Lint) -> Iterator[Finding]:
    """Report one system prompt with other numbers, dates or words in each row; documents differ in more than that."""
    (_, most), *_ = tally.system_forms.most_common(1)
    if most >= max(0.5 * tally.num_systems, MIN_FORM_ROWS):
        said = f"{len(variants)} system prompts, {most} of {tally.num_systems} the same but for numbers and punctuation"
        yield Finding("B013", said, most, most / tally.num_systems, _refs(tally, variants, section))
        return
    sample = variants[:MAX_COMPARED]
    texts = [tally.system_texts[key] for key, _ in sample]
    whole = [text for text in texts if len(text) < SYSTEM_CHARS]
    if len(whole) < len(texts) or len(texts) < MAX_COMPARED // 2:
        return
    alike = sum(SequenceMatcher(None, whole[0], text).ratio() >= SAME_RATIO for text in whole[1:])
    if alike >= 0.8 * (len(whole) - 1):
        said = f"{len(variants)} system prompts that differ in a few words ({alike + 1} of {len(whole)} compared)"
        yield Finding("B013", said, tally.num_systems, 1.0, _refs(tally, variants, section))


def _refs(tally: RowTally, variants: list[tuple[str, int]], section: Lint) -> tuple[str, ...]:
    return tuple(
        [ref for key, _ in variants for ref in tally.first.get(f"system {key}", [])][: section.max_rows_listed]
    )


def _near_identical(tally: RowTally, variants: list[tuple[str, int]]) -> int:
    """Count the variants that hardly differ from a more frequent one: slips of the pen, most likely."""
    texts = [tally.system_texts[key] for key, _ in variants[:MAX_COMPARED]]
    return sum(
        any(SequenceMatcher(None, text, other).ratio() >= SAME_RATIO for other in texts[:index])
        for index, text in enumerate(texts)
    )


def _served(tally: RowTally, section: Lint, asked: int) -> Iterator[Finding]:
    if section.serving_system_prompt is None:
        return
    served = section.serving_system_prompt.strip()
    excerpt = {key for key, text in tally.system_texts.items() if _is_beginning(text, served)}
    other = asked - sum(tally.systems[key] for key in excerpt if key)
    if other > 0:
        said = f"{other} of {asked} rows have another system prompt than data.lint.serving_system_prompt"
        yield Finding("B002", said, other, other / asked)


def _is_beginning(excerpt: str, text: str) -> bool:
    return bool(excerpt.strip()) and text[: len(excerpt.strip())] == excerpt.strip()
