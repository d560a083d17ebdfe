"""Report JSON answers and tools whose forms, keys or types differ from row to row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from trainer.data.lint.facts.json_form import PATH, TYPE, keys_of_schema
from trainer.data.lint.finding import Finding
from trainer.data.lint.frequent import by_count
from trainer.data.lint.tally import RowTally
from trainer.data.records.reasons import mark_text, quoted
from trainer.recipe.lint import Lint

MIN_TABLE_ROWS = 20
MAX_QUOTED = 3


def form_findings(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Yield Q017, Q028 and F028."""
    yield from _wrapped(tally, section)
    if tally.schemas.total >= MIN_TABLE_ROWS:
        yield from _keys(tally, section)
        yield from _types(tally, section)
    yield from _tools(tally, section)


def _wrapped(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report answers without JSON among JSON answers, and JSON in a fence or after words among plain JSON."""
    forms, total = tally.json_forms, tally.json_forms.total()
    plain, wrapped = forms["plain"], forms["fenced"] + forms["prefixed"]
    if total >= MIN_TABLE_ROWS and plain >= section.min_json_share * total:
        odd = total - plain - forms["broken"]
        if odd:
            detail = f"{odd} of {total} answers are no valid JSON by themselves, the others are"
            rows = tally.first_of(("json fenced", "json prefixed", "json "))
            yield Finding("Q017", detail, odd, odd / total, rows)
    elif wrapped and plain >= max(wrapped, MIN_TABLE_ROWS // 2):
        total = plain + wrapped
        detail = f"{wrapped} of {total} JSON answers stand in a code fence or after words, the others alone"
        yield Finding("Q017", detail, wrapped, wrapped / total, tally.first_of(("json fenced", "json prefixed")))


def _keys(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report answers with other keys than nearly all have, else keys with several spellings."""
    total = tally.schemas.total
    by_keys, schemas = Counter[str](), defaultdict[str, list[str]](list)
    for schema, rows in tally.schemas.most_common():
        by_keys[keys_of_schema(schema)] += rows
        schemas[keys_of_schema(schema)].append(schema)
    (usual, most), *rare = by_count(by_keys)
    if most < section.min_json_share * total:
        yield from _key_spellings(by_keys, total)
    elif rare:
        count = sum(rows for _, rows in rare)
        detail = f"{count} of {total} answers have other keys than {_keys_shown(usual)}, such as "
        refs = tally.first_of(f"schema {schema}" for keys, _ in rare for schema in schemas[keys])
        yield Finding("Q017", detail + _keys_shown(rare[0][0]), count, count / total, refs)


def _key_spellings(by_keys: Counter[str], total: int) -> Iterator[Finding]:
    """Report keys that differ in case and underscores alone."""
    spellings = defaultdict[str, Counter[str]](Counter)
    for keys, rows in by_keys.items():
        for key in filter(None, keys.split(",")):
            spellings["".join(filter(str.isalnum, key.casefold()))][key] += rows
    mixed = [counts for counts in spellings.values() if len(counts) > 1]
    if mixed:
        count = sum(counts.total() - max(counts.values()) for counts in mixed)
        quotes = "; ".join(", ".join(map(quoted, sorted(counts))) for counts in mixed[:MAX_QUOTED])
        yield Finding("Q017", f"one key in several spellings: {quotes}", count, min(count / total, 1.0))


def _types(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report keys with one type in nearly all answers, and another in the rest. Null is not a type here."""
    kinds = defaultdict[str, Counter[str]](Counter)
    for schema, rows in tally.schemas.counts.items():
        for entry in filter(None, schema.split(PATH)):
            path, _, kind = entry.rpartition(TYPE)
            if kind != "null":
                kinds[path][kind] += rows
    drifting = {
        path: counts
        for path, counts in sorted(kinds.items())
        if len(counts) > 1
        and counts.total() >= MIN_TABLE_ROWS
        and max(counts.values()) >= section.min_json_share * counts.total()
    }
    if drifting:
        rare = {f"{path}{TYPE}{kind}" for path, counts in drifting.items() for kind, _ in counts.most_common()[1:]}
        odd = sorted(schema for schema in tally.schemas.counts if not rare.isdisjoint(schema.split(PATH)))
        count = sum(tally.schemas.counts[schema] for schema in odd)
        quotes = (
            f"{mark_text(path)}: " + ", ".join(f"{rows} {kind}" for kind, rows in by_count(counts))
            for path, counts in list(drifting.items())[:MAX_QUOTED]
        )
        refs = tally.first_of(f"schema {schema}" for schema in odd)
        yield Finding("Q028", "; ".join(quotes), count, count / tally.schemas.total, refs)


def _keys_shown(keys: str) -> str:
    return "'" + ",".join(map(mark_text, keys.split(","))) + "'"


def _tools(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report tools with one form in nearly all rows, and another in some. A name with many forms is deliberate."""
    versions = defaultdict[str, Counter[str]](Counter)
    for tool, rows in tally.tools.counts.items():
        versions[tool.rpartition(":")[0]][tool] += rows
    odd = []
    for counts in versions.values():
        is_slip = max(counts.values()) >= max(section.min_json_share * counts.total(), 2)
        is_frequent = len(counts) <= MAX_QUOTED and counts.total() >= MIN_TABLE_ROWS
        if len(counts) > 1 and (is_slip or is_frequent):
            odd += [tool for tool, _ in by_count(counts)[1:]]
    if odd:
        names = sorted({tool.rpartition(":")[0] for tool in odd})
        count = sum(tally.tools.counts[tool] for tool in odd)
        detail = f"{len(names)} tools, such as {quoted(names[0])}: other parameters than in most rows"
        yield Finding("F028", detail, count, count / tally.tools.total, tally.first_of(f"tool {tool}" for tool in odd))
