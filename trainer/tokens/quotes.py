"""Count the rows that quote special tokens of the model, which are trained as plain text."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from trainer import exact_json
from trainer.data.records.kinds import Record, TurnList
from trainer.tokens.chat import Renderer
from trainer.tokens.encode import location


@dataclass
class Quotes:
    """Rows of a file that quote special tokens."""

    locations: list[str] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    """Token -> number of rows."""
    ends: list[str] = field(default_factory=list)
    """Locations of rows with a turn that ends with the model's end token."""


def quotes_of(source: Path, renderer: Renderer) -> Quotes:
    """Search a JSONL file of rows; only lines with the spelling of a token are parsed."""
    guard, quotes = renderer.guard, Quotes()
    written = {json.dumps(token, ensure_ascii=False)[1:-1].encode(): token for token in guard.names}
    firsts = sorted({token[:1] for token in written})
    tokens = re.compile(
        b"|".join(re.escape(token) for token in sorted(written, key=lambda token: (-len(token), token)))
    )
    if not written:
        return quotes
    with source.open("rb") as file:
        for line in file:
            if not any(first in line for first in firsts) or not tokens.search(line):
                continue
            row: Record = exact_json.loads(line)
            if "input_ids" in row or guard.row(row) is row:
                continue
            quotes.locations.append(location(row))
            quotes.tokens.update({written[match] for match in tokens.findall(line)})
            if _ends_twice(row, renderer.end_tokens):
                quotes.ends.append(location(row))
    return quotes


def _ends_twice(row: Record, ends: tuple[str, ...]) -> bool:
    """Tell whether an answer ends with an end token beside the template's."""
    lists: tuple[TurnList, ...] = ("messages", "chosen", "rejected")
    turns = [turn for name in lists for turn in row.get(name, ())]
    answers = (
        turn["content"] for turn in turns if turn["role"] == "assistant" and isinstance(turn.get("content"), str)
    )
    return any(answer.rstrip().endswith(ends) for answer in answers if answer.strip() not in ends)
