"""Count rows, and write a line of `rejected.jsonl` for every row left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from trainer.data.column_usage import Usage
from trainer.data.prepare import Prepared
from trainer.data.records.kinds import write_line
from trainer.data.records.reasons import MALFORMED, fix_for
from trainer.errors import DataError

NUM_LISTED = 5


@dataclass
class FileCount:
    """Rows of one file."""

    num_read: int = 0
    num_malformed: int = 0
    first: list[str] = field(default_factory=list)
    """`line: reason: detail` of the first malformed rows."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why rows are malformed -> rows."""

    def add(self, prepared: Prepared) -> None:
        """Count the rows of a chunk."""
        self.num_read += prepared.num_read
        malformed = [row for row in prepared.rejected if row["reason"] in MALFORMED]
        self.num_malformed += len(malformed)
        self.reasons.update(str(row["reason"]) for row in malformed)
        self.first += [f"{row['line']}: {row['reason']}: {row['detail']}" for row in malformed[: 3 - len(self.first)]]

    def check(self, path: str, limit: float, *, is_whole: bool = True) -> None:
        """Check that a file has rows, and not more malformed ones than the recipe allows.

        Args:
            path: Of the file.
            limit: `data.max_rejected`.
            is_whole: False where only the first rows were read.

        Raises:
            DataError: It has none, or too many malformed ones; the first of them are named.
        """
        if self.num_read == 0:
            raise DataError(f"{path}: no rows", hint="give a file with at least one row")
        if self.num_malformed <= limit * self.num_read:
            return
        listed = "\n".join(f"{path}:{line}" for line in self.first)
        raise DataError(
            f"{listed}\n{path}: {self.num_malformed} of {'' if is_whole else 'the first '}{self.num_read} rows are "
            f"malformed ({self.num_malformed / self.num_read:.1%}; data.max_rejected allows {limit:.1%})",
            hint=fix_for(self.reasons),
        )


def no_usable_rows(reasons: Counter[str], listed: Mapping[str, str], hint_tail: str) -> DataError:
    """Return the error about rows that were all left out, for reasons with counts and the place of each first row."""
    why = ", ".join(f"{rows} {reason} ({listed[reason]})" for reason, rows in reasons.most_common())
    return DataError(f"no usable rows: {why}", hint=f"{fix_for(reasons)}{hint_tail}")


@dataclass
class PiiCount:
    """Personal data of one type."""

    action: str
    num_values: int = 0
    num_rows: int = 0
    rows: list[str] = field(default_factory=list)
    """`source:line` of the first rows."""
    samples: list[str] = field(default_factory=list)
    """The first values, masked."""
    _last: str = ""

    def add(self, ref: str, sample: str) -> None:
        """Count a value; the values of a row come one after the other."""
        self.num_values += 1
        if ref != self._last:
            self.num_rows += 1
            self.rows += [ref] if len(self.rows) < NUM_LISTED else []
            self.samples += [sample] if len(self.samples) < NUM_LISTED else []
        self._last = ref


@dataclass
class RowCounts:
    """Counts of all rows; the lines of rows left out are written at once."""

    path: Path
    num_read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    listed: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> `source:line` of the first rows."""
    formats: dict[str, Counter[str]] = field(default_factory=dict)
    """File -> layout -> rows."""
    changes: Counter[str] = field(default_factory=Counter)
    """Change by cleaning -> strings."""
    changed_rows: Counter[str] = field(default_factory=Counter)
    """Change by cleaning -> rows."""
    samples: dict[str, list[list[str]]] = field(default_factory=dict)
    """Change by cleaning -> [before, after] of the first texts changed."""
    usages: dict[str, Usage] = field(default_factory=dict)
    """Path of a source -> its layouts and columns."""
    pii: dict[str, PiiCount] = field(default_factory=dict)
    """Type of personal data -> what was found."""

    def __enter__(self) -> RowCounts:
        self._file = self.path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def reject(self, row: dict[str, object]) -> None:
        """Write down a row that is left out, see `prepare.rejected`."""
        self._file.write(write_line(row))
        reason = str(row["reason"])
        self.reasons[reason] += 1
        listed = self.listed.setdefault(reason, [])
        if len(listed) < NUM_LISTED:
            listed.append(f"{row['source']}:{row['line']}")

    def note(self, prepared: Prepared, label: str) -> None:
        """Count the rows of a chunk and write down those that it rejected."""
        self.num_read += prepared.num_read
        self.formats.setdefault(label, Counter()).update(prepared.formats)
        self.changes += prepared.changes
        self.changed_rows += prepared.changed_rows
        for change, before, after in prepared.samples:
            listed = self.samples.setdefault(change, [])
            if len(listed) < NUM_LISTED:
                listed.append([before, after])
        for ref, finding in prepared.pii:
            self.pii.setdefault(finding.type, PiiCount(finding.action)).add(ref, finding.sample)
        for row in prepared.rejected:
            self.reject(row)

    @property
    def num_rejected(self) -> int:
        return self.reasons.total()

    def num_malformed(self) -> int:
        """Count the rows that are at fault themselves."""
        return sum(count for reason, count in self.reasons.items() if reason in MALFORMED)
