"""Report values of a row without showing them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.types import mask
from trainer.data.pii.walk import Leaf
from trainer.data.records.kinds import Record
from trainer.data.records.reasons import RowError
from trainer.errors import DataError

Verdict = Literal["keep", "drop", "error"]

SAMPLE_CHARS = 20
"""Characters on each side of a masked value in a report."""
MAX_VALUE_CHARS, VALUE_CHARS = 40, 12
"""A longer masked value is cut to so many characters."""


class PiiFinding(NamedTuple):
    """One value, masked.

    Args:
        type: type of the value.
        path: its place in the row.
        action: the action, or `residual` for a value left after the action.
        sample: masked value with a little text around it.
    """

    type: str
    path: str
    action: str
    sample: str


class Scanned(NamedTuple):
    """A row after the scan.

    Args:
        record: the row; the same object if nothing was replaced, None if it is dropped or refused.
        verdict: keep, drop, or error: the stage must stop.
        counts: type -> number of values.
        findings: one for each value.
    """

    record: Record | None
    verdict: Verdict
    counts: dict[str, int]
    findings: list[PiiFinding]

    def require_record(self, source: str, line: int) -> Record:
        """Return the row if the recipe keeps it.

        Raises:
            RowError: The recipe drops the row.
            DataError: The row stops the stage.
        """
        if self.verdict == "error":
            raise refusal(source, line, self.findings)
        if self.record is None:
            raise RowError("personal_data", ", ".join(sorted(self.counts)))
        return self.record


class LeafMatches(NamedTuple):
    """The values in one leaf."""

    leaf: Leaf
    matches: list[Match]

    def samples(self) -> Iterator[tuple[Match, str]]:
        """Yield each match with a sample of the text in which all values are masked."""
        pieces, spans, end = "", [], 0
        for match in self.matches:
            pieces += self.leaf.text[end : match.start]
            hidden = mask(match.type, self.leaf.text[match.start : match.end])
            spans.append((len(pieces), len(pieces) + len(hidden)))
            pieces, end = pieces + hidden, match.end
        pieces += self.leaf.text[end:]
        yield from zip(self.matches, (sample(pieces, *span) for span in spans), strict=True)


def sample(masked_text: str, start: int, end: int) -> str:
    """Cut out the masked value with a little text around it, and hide numbers of that text too.

    Example:
        >>> sample("My zip is 94110, mail a***@c***.de now", 22, 33)
        'zip is #####, mail a***@c***.de now'
    """
    value = masked_text[start:end]
    if len(value) > MAX_VALUE_CHARS:
        value = value[:VALUE_CHARS] + "***"
    before = _quiet(masked_text[max(0, start - SAMPLE_CHARS) : start])
    after = _quiet(masked_text[end : end + SAMPLE_CHARS])
    return " ".join(f"{before}{value}{after}".split())


def _quiet(text: str) -> str:
    """Hide digits, and words that may be the rest of a value after the cut."""
    return re.sub(r"\d", "#", re.sub(r"\S*@\S*|[\w+/=-]{18,}", "***", text))


def refusal(source: str, line: int, findings: Sequence[PiiFinding]) -> DataError:
    """Build the error that stops the stage. It shows no value.

    Args:
        source: file of the row.
        line: its line.
        findings: its findings, one of them `error` or `residual`.
    """
    stopping = [finding for finding in findings if finding.action in ("error", "residual")]
    first = stopping[0]
    why = "left after the action" if first.action == "residual" else "found"
    more = f" and {len(stopping) - 1} more" if len(stopping) > 1 else ""
    return DataError(
        f"{source}:{line}: {first.path}: {first.type} {why}{more}: {first.sample}",
        hint="correct or remove the row, name the value under data.pii.allow, or set "
        + ("data.pii.on_residual: drop" if first.action == "residual" else f"data.pii.types: {{{first.type}: redact}}"),
    )
