"""Count the rows that quote special tokens of the model: they are trained as plain text, which somebody should know."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from trainer import exact_json
from trainer.tokens.chat import Renderer
from trainer.tokens.content import Row
from trainer.tokens.encode import place


@dataclass
class Quotes:
    """Rows of a file that quote special tokens."""

    places: list[str] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    """Token -> rows."""
    ends: list[str] = field(default_factory=list)
    """Places of rows in which a turn ends with the model's own end token."""


def quotes_of(source: Path, renderer: Renderer) -> Quotes:
    """Look through a JSONL file of rows; lines are only parsed where a token is written in them."""
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
            row: Row = exact_json.loads(line)
            if "input_ids" in row or guard.row(row) is row:
                continue
            quotes.places.append(place(row))
            quotes.tokens.update({written[match] for match in tokens.findall(line)})
            if _ends_twice(row, renderer.end_tokens):
                quotes.ends.append(place(row))
    return quotes


def _ends_twice(row: Row, ends: tuple[str, ...]) -> bool:
    """Whether an answer ends with an end token of its own, beside the template's."""
    turns = [turn for name in ("messages", "chosen", "rejected") for turn in row.get(name, ())]
    answers = (
        turn["content"] for turn in turns if turn["role"] == "assistant" and isinstance(turn.get("content"), str)
    )
    return any(answer.rstrip().endswith(ends) for answer in answers if answer.strip() not in ends)
