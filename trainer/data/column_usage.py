"""Count the used and unused columns of each source, and print them in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from trainer.data.pii.hide import masked_names
from trainer.data.prepare import Prepared
from trainer.data.rows.columns import is_class_column, meaning_of
from trainer.shapes.report import SourceUsage

NOTES = {
    "json_text": "values that are no text written as JSON text",
    "python_text": "lists or objects in Python's notation read",
    "first_answer": "the first of several accepted answers taken",
    "calls_as_text": "tool calls that are written as text kept as text",
    "asked_marked": "turns that are not the assistant's marked as trained, which they are with pack.loss_on: all only",
    "best_and_worst": "the best and the worst of several answers taken (format: ranked_pairs takes all pairs)",
}
"""Id of what was done to the values of a row -> in words."""
NUM_NAMED = 12
"""Columns named in a line."""


@dataclass
class Usage:
    """Layouts and columns of one source."""

    name: str
    """Of its file or folder, as reports carry it."""
    files: list[str] = field(default_factory=list)
    """Names of its files, as rows carry them."""
    how: Counter[str] = field(default_factory=Counter)
    """How files are read, where their names do not say it -> files."""
    num_rows: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, prepared: Prepared) -> None:
        """Count the rows of a chunk."""
        self.num_rows += prepared.num_read
        self.formats += prepared.formats
        self.used += prepared.used
        self.unused += prepared.unused
        self.notes += prepared.notes

    def line(self, mask: Callable[[str], str] = str) -> str:
        """Say in one line what was read, and what became of the columns; `mask` hides personal data in their names."""
        files = f" ({len(self.files)} files)" if len(self.files) > 1 else ""
        parts = [
            f"{self.name}{files}: {self.num_rows} rows",
            *sorted(self.how),
            f"format {' and '.join(sorted(self.formats)) or 'unknown'}",
            f"columns used: {_listed(self.used, mask)}",
            f"not used: {_listed(self.unused, mask)}",
            *(f"{NOTES[note]} in {count} rows" for note, count in sorted(self.notes.items())),
        ]
        return "; ".join(parts)

    def unused_meaningful(self, ignored: Iterable[str]) -> Iterator[tuple[str, str, int]]:
        """Yield columns that are not used though their names say what they mean: name, meaning, rows."""
        is_raw = set(self.formats) == {"text"}
        for name, count in sorted(self.unused.items()):
            meaning = meaning_of(name) or ("label" if is_raw and is_class_column(name) else "")
            if name not in set(ignored) and meaning:
                yield name, meaning, count

    def to_json(self, mask: Callable[[str], str] = str) -> SourceUsage:
        """Return the entry of `report.json`; `mask` hides personal data in names of columns."""
        return {
            "rows": self.num_rows,
            "read_as": sorted(self.how),
            "formats": dict(sorted(self.formats.items())),
            "used": dict(sorted(masked_names(self.used, mask).items())),
            "unused": dict(sorted(masked_names(self.unused, mask).items())),
            "notes": dict(sorted(self.notes.items())),
        }


def _listed(columns: Counter[str], mask: Callable[[str], str]) -> str:
    names = [name for name, _ in sorted(columns.items(), key=lambda item: (-item[1], item[0]))]
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return (", ".join(map(mask, names[:NUM_NAMED])) or "none") + more
