"""Report system prompts that are missing, or that differ where they should not."""

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
"""Above this share of the rows, different system prompts are deliberate: each holds a document or a persona."""
MIN_FORM_ROWS = 2


def system_findings(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Yield B002 and B013."""
    total = tally.num_conversations()
    if not total:
        return
    missing = total - tally.num_systems
    if tally.num_systems and missing:
        detail = f"{missing} of {total} rows have no system prompt, the others do"
        yield Finding("B002", detail, missing, missing / total, tuple(tally.first["system "]))
    keys = [key for key, _ in tally.systems.most_common() if key]
    if len(keys) > max(3, FEW_SYSTEMS_SHARE * total):
        yield from _differing_in_little(tally, keys)
    elif len(keys) > 1:
        rare = sum(tally.systems[key] for key in keys[1:])
        alike = _num_near_identical(tally, keys)
        detail = f"{len(keys)} different system prompts" + (f"; {alike} of them nearly the same" if alike else "")
        yield Finding("B002", detail, rare, rare / total, _refs(tally, keys[1:]))
    yield from _differing_from_served(tally, section, total)


def _differing_in_little(tally: RowTally, keys: list[str]) -> Iterator[Finding]:
    """Report one system prompt with other numbers, dates or words in each row. Documents differ in more than that."""
    (_, most), *_ = tally.system_forms.most_common(1)
    num_systems = tally.num_systems
    if most >= max(0.5 * num_systems, MIN_FORM_ROWS):
        detail = f"{len(keys)} system prompts, {most} of {num_systems} the same but for numbers and punctuation"
        yield Finding("B013", detail, most, most / num_systems, _refs(tally, keys))
        return
    texts = [tally.system_texts[key] for key in keys[:MAX_COMPARED]]
    # Excerpts of long texts tell nothing about their ends.
    if any(len(text) >= SYSTEM_CHARS for text in texts) or len(texts) < MAX_COMPARED // 2:
        return
    alike = sum(is_alike(texts[0], text) for text in texts[1:])
    if alike >= 0.8 * (len(texts) - 1):
        detail = f"{len(keys)} system prompts that differ in a few words ({alike + 1} of {len(texts)} compared)"
        yield Finding("B013", detail, num_systems, 1.0, _refs(tally, keys))


def _refs(tally: RowTally, keys: list[str]) -> tuple[str, ...]:
    return tally.first_of(f"system {key}" for key in keys)


def is_alike(first: str, second: str) -> bool:
    """Tell whether most of two texts is the same."""
    return SequenceMatcher(None, first, second).ratio() >= SAME_RATIO


def _num_near_identical(tally: RowTally, keys: list[str]) -> int:
    """Count system prompts that hardly differ from a more frequent one: slips, most likely."""
    texts = [tally.system_texts[key] for key in keys[:MAX_COMPARED]]
    return sum(any(is_alike(text, frequent) for frequent in texts[:rank]) for rank, text in enumerate(texts))


def _differing_from_served(tally: RowTally, section: Lint, total: int) -> Iterator[Finding]:
    if section.serving_system_prompt is None:
        return
    served = section.serving_system_prompt.strip()
    excerpts = {key: text.strip() for key, text in tally.system_texts.items()}
    same = sum(tally.systems[key] for key, text in excerpts.items() if text and served.startswith(text))
    if same < total:
        detail = f"{total - same} of {total} rows have another system prompt than data.lint.serving_system_prompt"
        yield Finding("B002", detail, total - same, (total - same) / total)
