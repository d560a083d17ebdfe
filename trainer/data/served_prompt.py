"""Choose the system prompt of questions that have none: the recipe's, or the usual one of the training rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from trainer import exact_json
from trainer.data.clean.cleaner import Cleaner
from trainer.data.pii.hide import scanner
from trainer.data.read.sources import system_text
from trainer.data.records.kinds import Message, Record
from trainer.data.rows.system_prompt import has_system_turn
from trainer.recipe.data import DataSection

USUAL_SHARE = 0.9
"""A system prompt of at least this share of the training rows is the one that questions without one get."""
EXCERPT_CHARS = 60


@dataclass(frozen=True)
class ServedSystem:
    """What a question without a system turn is asked with."""

    text: str | None
    sentence: str = ""
    """A sentence for logs; empty where training knew no system prompts."""
    is_needed: bool = False
    """Every training row had one, and none is usual: a question without one is asked as nothing in training was."""


def served_system(data: DataSection, train_rows: Path) -> ServedSystem:
    """Return the system prompt that questions without a system turn get.

    Args:
        data: The recipe's section; its `system_prompt` is used where there is one, in the form that the rows have.
        train_rows: `train.jsonl` as the data stage wrote it; else the prompt that nearly all of its rows open with.
    """
    text = system_text(data)
    openings: Counter[str | None] = _openings(train_rows) if train_rows.is_file() else Counter()
    if text is None:
        return _usual(openings)
    trained = _as_trained(text, data, openings)
    changed = "" if trained == text.strip() else " as the training rows have it, cleaned"
    lost = ", which no training row has" if openings and trained not in openings else ""
    return ServedSystem(
        trained, f"a question without a system turn gets data.system_prompt{changed} ({_excerpt(trained)}){lost}"
    )


def replaces(data: DataSection) -> bool:
    """Tell whether the recipe's system prompt takes the place of those that rows and questions bring."""
    return data.system_prompt is not None and data.system_prompt.when == "replace"


def _as_trained(text: str, data: DataSection, openings: Counter[str | None]) -> str:
    """Return the recipe's system prompt as rows have it: they were cleaned, and personal data in them dealt with."""
    turns: list[Message] = [
        {"role": "system", "content": text},
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "!"},
    ]
    record: Record = {"messages": turns, "source": "", "line": 1}
    cleaned = Cleaner(data.clean)(record).record or record
    forms = [str(row["messages"][0]["content"]) for row in (record, cleaned)]
    if not openings or set(forms) & set(openings):
        return next((form for form in forms if form in openings), forms[-1])
    actions = {data.pii.action, data.pii.secrets, *data.pii.types.values()}
    scanned = None if "pseudonymise" in actions else scanner(data.pii)(cleaned).record  # pseudonyms take a key
    if scanned and scanned["messages"][0]["content"] in openings:
        return str(scanned["messages"][0]["content"])
    usual = next((opening for opening, _ in openings.most_common() if opening), None)
    return usual if replaces(data) and usual else forms[-1]


def _openings(path: Path) -> Counter[str | None]:
    """Count the system prompts of rows that have turns; None: without one."""
    counts: Counter[str | None] = Counter()
    with path.open("rb") as file:
        for line in file:
            row = exact_json.loads(line)
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
        sentence = f"a question without a system turn gets the one of {of} training rows ({_excerpt(text)})"
        return ServedSystem(text, sentence)
    several = f"{len(set(counts) - {None}):,} different system prompts"
    if without:
        sentence = f"{without:,} of {total:,} training rows have no system turn, the others {several}: "
        return ServedSystem(None, sentence + "a question without a system turn is asked without one")
    sentence = f"the {total:,} training rows have {several}, none of them in {USUAL_SHARE:.0%}: give a system turn"
    return ServedSystem(None, f"{sentence} with every question", is_needed=True)


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= EXCERPT_CHARS else f"{line[:EXCERPT_CHARS]}...")
