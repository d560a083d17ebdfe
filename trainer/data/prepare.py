"""Turn raw rows into finished rows, chunk by chunk, in any process."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.clean.cleaner import Cleaner
from trainer.data.clean.strings import Sample
from trainer.data.duplicates.keys import digest, number
from trainer.data.duplicates.minhash import Bands, band_texts
from trainer.data.duplicates.texts import (
    OPENING_WORDS,
    RowKeys,
    comparable_of,
    keys_of,
    num_turns,
    openings_of,
    pack_texts,
    texts_of_row,
)
from trainer.data.lint.facts.row import row_facts
from trainer.data.pii.hide import Mask, scanner
from trainer.data.read.raw_row import RawRow
from trainer.data.records.kinds import Origin, Record, kind_of_row, rejected, write_line
from trainer.data.records.reasons import RowError
from trainer.data.row_failure import naming
from trainer.data.rows.checks import strings_of
from trainer.data.rows.parse import Parsed, parse_row
from trainer.data.rows.system_prompt import apply_system_prompt
from trainer.errors import DataError
from trainer.recipe.data import DataSection
from trainer.recipe.pii import CHANGING

if TYPE_CHECKING:  # slow to import, see `mask.scanner`
    from trainer.data.pii.findings import PiiFinding, Scanned
    from trainer.data.pii.scan import Scanner

CHUNK_ROWS, CHUNK_CHARS = 1000, 8_000_000
SAMPLES_PER_CHUNK = 3


@dataclass(frozen=True)
class Rules:
    """What is done to every row, in a form that travels to other processes cheaply."""

    data: str
    """The recipe's data section, as JSON."""
    system: str | None
    """Text of the system prompt."""
    scanner: bytes = field(repr=False)
    """The pickled scanner: all processes must draw pseudonyms with one key, which is never written down."""

    @classmethod
    def of(cls, data: DataSection, system: str | None) -> Rules:
        """Take the rules from a recipe.

        Raises:
            HardwareError: The key of the pseudonyms is not there.
        """
        return cls(data.model_dump_json(), system, pickle.dumps(scanner(data.pii)))


@dataclass(frozen=True)
class Tools:
    """What works on rows; made once in each process."""

    data: DataSection
    clean: Cleaner
    scan: Scanner
    mask: Mask


@lru_cache(maxsize=1)
def tools_for(rules: Rules) -> Tools:
    """Make the tools that a recipe asks for."""
    data = DataSection.model_validate_json(rules.data)
    return Tools(data, Cleaner(data.clean), pickle.loads(rules.scanner), Mask(data.pii))


@dataclass(frozen=True)
class Chunk:
    """Raw rows of one file, to be prepared in one go."""

    rules: Rules
    origin: Origin
    rows: list[RawRow]


@dataclass
class Prepared:
    """What became of a chunk: lines, and a column for each fact that later steps compare."""

    num_read: int
    rejected: list[dict[str, object]] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    """Column -> rows that are made of it."""
    unused: Counter[str] = field(default_factory=Counter)
    """Column or key of turns -> rows in which it holds something that is not used."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was done to values, see `usage.NOTES` -> rows."""
    lines: bytes = b""
    """JSON lines of the finished rows."""
    texts: bytes = b""
    """The texts of each row that are compared, see `compared.pack_said`."""
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Name -> (rows,), see `COLUMNS`."""
    prompts: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Prompt keys of all rows, `columns["num_prompts"]` for each."""
    bands: Bands | None = None
    changes: Counter[str] = field(default_factory=Counter)
    """Change by cleaning -> strings changed."""
    changed_rows: Counter[str] = field(default_factory=Counter)
    """Change by cleaning, or fault that is only counted -> rows."""
    samples: list[Sample] = field(default_factory=list)
    """Changes by cleaning, a few of each kind."""
    facts: bytes = b""
    """Pickled list: what the linter has to know about each row."""
    pii: list[tuple[str, PiiFinding]] = field(default_factory=list)
    """`source:line` and each value found, masked."""
    refusal: tuple[str, str] | None = None
    """Message and hint where a row must stop the stage."""


OPENINGS = tuple(f"opening_{count}" for count in OPENING_WORDS)
COLUMNS: dict[str, type] = {
    "line": np.int64,
    "size": np.int64,
    "texts_size": np.int64,
    "kind": np.uint8,
    "content": np.uint64,
    "prompt": np.uint64,
    "num_prompts": np.int64,
    "answer": np.uint64,
    "reply": np.uint64,
    "context": np.uint64,
    "by": np.uint64,
    "label": np.uint64,
    "num_turns": np.int64,
    "prompt_chars": np.int64,
    "answer_chars": np.int64,
    **dict.fromkeys(OPENINGS, np.uint64),
}
"""Facts of a row; `size` is the bytes of its line, `texts_size` those of its texts to compare, `by` and `label` are
digests of the fields that the split names, the openings see `compared.openings_of`."""


def chunks(rows: Iterable[RawRow], rules: Rules, origin: Origin) -> Iterator[Chunk]:
    """Cut the rows of a file into chunks of bounded size, so that memory does not grow with the length of rows."""
    waiting: list[RawRow] = []
    num_chars = 0
    for row in rows:
        waiting.append(row)
        num_chars += _num_chars(row.value)
        if len(waiting) >= CHUNK_ROWS or num_chars >= CHUNK_CHARS:
            yield Chunk(rules, origin, waiting)
            waiting, num_chars = [], 0
    if waiting:
        yield Chunk(rules, origin, waiting)


def _num_chars(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_num_chars, value.values()))
    return sum(map(_num_chars, value)) if isinstance(value, list) else 8


def prepare(chunk: Chunk) -> Prepared:
    """Parse, clean, scan and describe the rows of a chunk.

    Raises:
        RowBugError: our own code fails on a row, which it names.
    """
    tools = tools_for(chunk.rules)
    result = Prepared(num_read=len(chunk.rows))
    records = []
    for raw in chunk.rows:
        try:
            with naming(chunk.origin.label, raw.line):
                records.append(_finish(raw, chunk, tools, result))
        except RowError as error:
            detail = error.render(tools.mask)
            result.rejected.append(rejected(chunk.origin.label, raw.line, error.reason, detail=detail))
        except DataError as error:
            result.refusal = (error.message, error.hint)
            break
    try:
        _describe(records, tools, result)
    except Exception:
        for record in records:  # one by one, to name the row
            with naming(record["source"], record["line"]):
                _describe([record], tools, Prepared(num_read=1))
        raise
    return result


def _finish(raw: RawRow, chunk: Chunk, tools: Tools, result: Prepared) -> Record:
    """Return the finished row.

    Raises:
        RowError: The row cannot be used.
        DataError: The row holds what the recipe calls an error.
    """
    if chunk.origin.is_benchmark:
        return parse_benchmark(raw, chunk.origin.label)
    parsed = canonical(raw, chunk.origin, tools.data, chunk.rules.system)
    record = parsed.record
    _count(parsed, result)
    cleaned = tools.clean(record)
    if cleaned.changes or cleaned.flags:
        result.changes.update(cleaned.changes)
        result.changed_rows.update([*cleaned.changes, *cleaned.flags])
    if cleaned.record is None:
        assert cleaned.error is not None
        raise cleaned.error
    scanned = tools.scan(cleaned.record)
    if not scanned.counts:  # a sample is cut anywhere: of a row with personal data it might show half a value
        _keep_samples(cleaned.samples, result)
    return _scanned(scanned, record, result)


def _count(parsed: Parsed, result: Prepared) -> None:
    result.formats[parsed.format] += 1
    for name in parsed.used:  # mostly one: `Counter.update` takes as long as ten of these
        result.used[name] += 1
    for name in parsed.unused:
        result.unused[name] += 1
    for note in parsed.notes:
        result.notes[note] += 1


def canonical(raw: RawRow, origin: Origin, data: DataSection, system: str | None) -> Parsed:
    """Return a row in its canonical form with the recipe's system prompt; its turns are not checked yet.

    Raises:
        RowError: The row cannot be read.
    """
    if raw.error:
        raise raw.error
    # The cleaner checks the turns: it may put right what the check would refuse.
    parsed = parse_row(
        raw.value, source=origin.label, line=raw.line, format=origin.format, mapping=dict(origin.mapping), check=False
    )
    if not data.system_prompt or system is None:
        return parsed
    return parsed._replace(record=apply_system_prompt(parsed.record, system, when=data.system_prompt.when))


def _keep_samples(samples: list[Sample], result: Prepared) -> None:
    for sample in samples:
        if sum(sample.change == sampled.change for sampled in result.samples) < SAMPLES_PER_CHUNK:
            result.samples.append(sample)


def _scanned(scanned: Scanned, record: Record, result: Prepared) -> Record:
    """Note what a scan found and return the row.

    Raises:
        RowError: The row is left out.
        DataError: The row stops the stage.
    """
    source, line = record["source"], record["line"]
    result.pii += [(f"{source}:{line}", finding) for finding in scanned.findings]
    return scanned.require_record(source, line)


def parse_benchmark(raw: RawRow, label: str) -> Record:
    """Return a row to compare with; one of an unknown layout by its longest text.

    Raises:
        RowError: It has no text.
    """
    if raw.error:
        raise raw.error
    try:
        return parse_row(raw.value, source=label, line=raw.line).record
    except RowError:
        longest = max(strings_of(raw.value), key=len, default="")
        if not longest.strip():
            raise
        return {"messages": [{"role": "user", "content": longest}], "source": label, "line": raw.line}


def _describe(records: list[Record], tools: Tools, result: Prepared) -> None:
    data = tools.data
    lines, texts = list(map(write_line, records)), list(map(texts_of_row, records))
    keys, comparable = list(map(keys_of, records, texts)), list(map(comparable_of, records, texts))
    packed = [pack_texts(row) for row in comparable]
    result.lines, result.texts = b"".join(lines), b"".join(packed)
    facts = [
        _facts(record, row_keys, data)
        | {"prompt_chars": len(row_texts.prompt), "answer_chars": len(row_texts.answer)}
        | dict(zip(OPENINGS, openings_of(row), strict=True))
        for record, row_keys, row_texts, row in zip(records, keys, texts, comparable, strict=True)
    ]
    values = {name: [fact[name] for fact in facts] for name in COLUMNS if name not in ("size", "texts_size")}
    values |= {"size": list(map(len, lines)), "texts_size": list(map(len, packed))}
    result.columns = {name: np.array(values[name], kind) for name, kind in COLUMNS.items()}
    result.prompts = np.array([prompt for key in keys for prompt in key.prompts], np.uint64)
    if data.dedupe.near != "off":
        result.bands = band_texts(comparable)
    in_clear = {ref for ref, finding in result.pii if finding.action not in CHANGING}
    masked = [tools.mask.row(row) if f"{row['source']}:{row['line']}" in in_clear else None for row in records]
    result.facts = pickle.dumps(list(map(row_facts, records, masked)), pickle.HIGHEST_PROTOCOL)


def _facts(record: Record, keys: RowKeys, data: DataSection) -> dict[str, int]:
    return {
        "line": record["line"],
        "kind": kind_of_row(record),
        "content": keys.content,
        "prompt": keys.prompts[-1],
        "num_prompts": len(keys.prompts),
        "answer": keys.answer,
        "reply": keys.reply,
        "context": keys.context,
        "by": field_key(record, data.split.by),
        "label": field_key(record, data.split.stratify),
        "num_turns": 0 if "text" in record or "input_ids" in record else num_turns(record),
    }


def field_key(record: Record, name: str | None) -> int:
    """Return the digest of a field of a row, 0 where there is none."""
    if name is None:
        return 0
    metadata = record.get("metadata", {})
    value = metadata[name] if name in metadata else record.get(name)
    return 0 if value is None else number(digest("field", str(value)))
