"""Look at the first rows of every file as `trainer data` will treat them, before any time is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from trainer.data.clean.cleaner import Cleaner
from trainer.data.dataset import missing_field
from trainer.data.pii.hide import Mask, scanner
from trainer.data.prepare import Prepared, canonical, field_key, parse_benchmark
from trainer.data.read.raw_row import RawRow
from trainer.data.read.sources import Input, open_inputs, system_text
from trainer.data.records.kinds import Record, Side, kind_of_row, rejected
from trainer.data.records.reasons import RowError
from trainer.data.rejections import FileCount
from trainer.data.row_failure import naming
from trainer.recipe.data import HUB_PREFIX, DataSection

NUM_PEEKED = 20
NUM_SETTLED = 20_000
"""Rows read of a file whose first rows have more faults than the recipe allows, to know what `data` will say of it."""
STOPPING = frozenset(("error", "drop", "pseudonymise"))
"""Actions on personal data that may refuse a row, or need a key; for others the rows are not scanned."""


class Taker:
    """Reads, cleans and, where that may refuse a row, scans rows as `data` does.

    Raises:
        DataError: The file of the system prompt cannot be read.
        HardwareError: The key of the pseudonyms is not there.
    """

    def __init__(self, data: DataSection) -> None:
        self.data, self.system, self.clean = data, system_text(data), Cleaner(data.clean)
        actions = {data.pii.action, data.pii.secrets, *data.pii.types.values()}
        self.scan = scanner(data.pii) if actions & STOPPING else None

    @cached_property
    def mask(self) -> Mask:
        """Hides personal data in what is said of a row."""
        return Mask(self.data.pii)

    def take(self, raw: RawRow, input_file: Input) -> Record:
        """Return the row as it would be kept.

        Raises:
            RowError: It is left out.
            DataError: It stops `data`.
        """
        if input_file.origin.is_benchmark:
            return parse_benchmark(raw, input_file.origin.label)
        cleaned = self.clean(canonical(raw, input_file.origin, self.data, self.system).record)
        if cleaned.record is None:
            assert cleaned.error is not None
            raise cleaned.error
        if self.scan is None:
            return cleaned.record
        return self.scan(cleaned.record).require_record(input_file.origin.label, raw.line)


@dataclass
class Peeked:
    """What the first rows of one file came to."""

    input_file: Input
    counted: FileCount = field(default_factory=FileCount)
    is_whole: bool = False
    """There are no further rows."""
    fields: set[str] = field(default_factory=set)
    """Names of fields that rows have, those carried along included."""
    kinds: dict[int, str] = field(default_factory=dict)
    """Kind of row -> `source:line` of the first one."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why rows are left out -> rows."""
    listed: dict[str, str] = field(default_factory=dict)
    """Why rows are left out -> `source:line` of the first one."""

    def add(self, raw: RawRow, taker: Taker) -> None:
        """Take in one row.

        Raises:
            DataError: It stops `data`, or lacks the field that the split asks for.
        """
        label = self.input_file.origin.label
        counted_row = Prepared(num_read=1)
        try:
            with naming(label, raw.line):
                record = taker.take(raw, self.input_file)
        except RowError as error:
            self.reasons[error.reason] += 1
            self.listed.setdefault(error.reason, f"{label}:{raw.line}")
            counted_row.rejected.append(rejected(label, raw.line, error.reason, detail=error.render(taker.mask)))
        else:
            self.fields.update(record, record.get("metadata") or ())
            self.kinds.setdefault(kind_of_row(record), f"{label}:{raw.line}")
            if self.input_file.side == Side.SOURCE:
                _check_fields(record, f"{label}:{raw.line}", taker.data)
        self.counted.add(counted_row)

    def check(self, limit: float) -> None:
        """Refuse what `data` will refuse: of a file read to its end by its own rule, else where no row can be used.

        Raises:
            DataError: As `data` words it.
        """
        if self.is_whole or self.is_unusable:
            self.counted.check(self.input_file.path, limit, is_whole=self.is_whole)

    @property
    def is_unusable(self) -> bool:
        """Tell a file of which no row was sound."""
        return self.counted.num_malformed == self.counted.num_read

    def sentence(self) -> str | None:
        """Say how many rows are left out, and why; None where all are taken."""
        if not self.reasons:
            return None
        why = ", ".join(f"{rows} {reason} ({self.listed[reason]})" for reason, rows in self.reasons.most_common())
        of = "" if self.is_whole else "the first "
        label, num_read = self.input_file.origin.label, self.counted.num_read
        return f"{label}: {self.reasons.total()} of {of}{num_read} rows will be left out: {why}"


def _check_fields(record: Record, ref: str, data: DataSection) -> None:
    for key, name in (("by", data.split.by), ("stratify", data.split.stratify)):
        if name and field_key(record, name) == 0:
            raise missing_field(ref, record, key, name)


def peek(data: DataSection) -> Iterator[Peeked]:
    """Yield what becomes of the first rows of each local file; a data set of the hub is not downloaded for that.

    Raises:
        DataError: A file cannot be read, or none of its rows can be used.
        HardwareError: The key of the pseudonyms is not there.
    """
    taker = Taker(data)
    for input_file in open_inputs(data, with_hub=False):
        peeked = Peeked(input_file)
        for raw in islice(input_file.rows, NUM_PEEKED):
            peeked.add(raw, taker)
        if peeked.counted.num_malformed > data.max_rejected * peeked.counted.num_read:
            for raw in islice(input_file.rows, NUM_SETTLED - NUM_PEEKED):
                peeked.add(raw, taker)
        peeked.is_whole = next(input_file.rows, None) is None
        if peeked.is_unusable:
            peeked.check(data.max_rejected)
        yield peeked


def unseen(data: DataSection) -> list[str]:
    """Return the sources that `peek` passes over."""
    return [source.path for source in data.sources if source.path.startswith(HUB_PREFIX)]
