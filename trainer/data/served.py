"""Choose the system prompt of questions that have none: the recipe's, or the usual one of the training rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from trainer.data import exact
from trainer.data.sources import system_text
from trainer.data.system import has_system_turn
from trainer.recipe.data import DataSection

USUAL_SHARE = 0.9
"""A system prompt of at least this share of the training rows is the one that questions without one get."""
EXCERPT_CHARS = 60


@dataclass(frozen=True)
class ServedSystem:
    """What a question without a system turn is asked with."""

    text: str | None
    said: str = ""
    """A sentence for logs; empty where training knew no system prompts."""
    is_needed: bool = False
    """Every training row had one, and none is usual: a question without one is asked as nothing in training was."""


def served_system(data: DataSection, train_rows: Path) -> ServedSystem:
    """Return the system prompt that questions without a system turn get.

    Args:
        data: The recipe's section; its `system_prompt` is used where there is one.
        train_rows: `train.jsonl` as the data stage wrote it; else the prompt that nearly all of its rows open with.
    """
    text = system_text(data)
    if text is not None:
        return ServedSystem(text, f"a question without a system turn gets data.system_prompt ({_excerpt(text)})")
    return _usual(_openings(train_rows)) if train_rows.is_file() else ServedSystem(None)


def _openings(path: Path) -> Counter[str | None]:
    """Count the system prompts of rows that have turns; None: without one."""
    counts: Counter[str | None] = Counter()
    with path.open("rb") as file:
        for line in file:
            row = exact.loads(line)
            if turns := row.get("prompt") or row.get("messages"):
                counts[turns[0]["content"] if has_system_turn(turns) else None] += 1
    return counts


def _usual(counts: Counter[str | None]) -> ServedSystem:
    if not set(counts) - {None}:
        return ServedSystem(None)
    total, without = counts.total(), counts[None]
    [(text, rows)] = counts.most_common(1)
    if text is not None and rows >= USUAL_SHARE * total:
        of = f"all {total:,}" if rows == total else f"{rows:,} of {total:,}"
        said = f"a question without a system turn gets the one of {of} training rows ({_excerpt(text)})"
        return ServedSystem(text, said)
    several = f"{len(set(counts) - {None}):,} different system prompts"
    if without:
        said = f"{without:,} of {total:,} training rows have no system turn, the others {several}: "
        return ServedSystem(None, said + "a question without a system turn is asked without one")
    said = f"the {total:,} training rows have {several}, none of them in {USUAL_SHARE:.0%}: give a system turn"
    return ServedSystem(None, f"{said} with every question", is_needed=True)


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= EXCERPT_CHARS else f"{line[:EXCERPT_CHARS]}...")
