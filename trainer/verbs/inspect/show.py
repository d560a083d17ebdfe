"""Print rows in the terminal: trained tokens in colour, or between marks where there is no colour."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from trainer import exact_json
from trainer.data.records.kinds import Record

OPEN, CLOSE = "⟦", "⟧"
TRAINED, CONTEXT = "bold green", "dim"

Span = tuple[str, bool]
"""A piece of text, and whether it is trained."""


def readable(text: str) -> str:
    r"""Return a text with control and direction characters written out: a row must not move the cursor.

    Example:
        >>> print(readable("red\x1b[31m"))
        red\u001b[31m
    """
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf") or character == "\u200d"
        else f"\\u{ord(character):04x}"
        for character in text
    )


def show_spans(console: Console, spans: Iterable[Span]) -> None:
    """Print what the model reads, what it is trained on standing out."""
    has_colour = console.is_terminal and not console.no_color
    text = Text()
    for piece, is_trained in spans:
        visible = readable(piece)
        if has_colour:
            text.append(visible, style=TRAINED if is_trained else CONTEXT)
        else:
            text.append(f"{OPEN}{visible}{CLOSE}" if is_trained else visible)
    console.print(text, soft_wrap=True)


def show_record(console: Console, record: Record) -> None:
    """Print the turns of a row as they stand in the file."""
    for role, text in turns_of(record):
        console.print(Text(f"{role}:", style="cyan"), soft_wrap=True)
        console.print(Text(readable(text)), soft_wrap=True)


def turns_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield who says what; tools come first, as templates put them."""
    if "text" in record:
        yield "text", record["text"]
    if "input_ids" in record:
        yield "input_ids", str(record["input_ids"])
    if record.get("tools"):
        yield "tools", exact_json.dumps(record["tools"]).decode()
    conversations = [
        ("", record.get("messages")),
        ("", record.get("prompt")),
        ("completion ", record.get("completion")),
    ]
    answers = [("chosen ", record.get("chosen")), ("rejected ", record.get("rejected"))]
    for prefix, turns in conversations + answers:
        for turn in turns or []:
            calls = f"\n{exact_json.dumps(turn['tool_calls']).decode()}" if turn.get("tool_calls") else ""
            yield f"{prefix}{turn['role']}", f"{turn['content']}{calls}".strip("\n")


def show_beside(console: Console, left: tuple[str, str], right: tuple[str, str]) -> None:
    """Print two texts with their headings: side by side in a terminal, one after the other elsewhere."""
    if console.is_terminal and console.width >= 80:
        width = console.width // 2 - 1
        panels = [Panel(Text(readable(text)), title=Text(title), width=width) for title, text in (left, right)]
        console.print(Columns(panels, padding=(0, 1)))
        return
    for title, text in (left, right):
        console.print(Text(f"{title}:"), soft_wrap=True)
        console.print(Text(readable(text)), soft_wrap=True)


def row_text(record: Record) -> str:
    """Return a row as one text, without its tools, which similar rows share."""
    return "\n".join(f"{role}: {text}" for role, text in turns_of(record) if role != "tools")
