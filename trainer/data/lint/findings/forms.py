"""Findings about JSON answers and tools: forms, keys and types that differ from row to row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from trainer.data.lint.facts.json_form import PATH, TYPE, keys_of_schema
from trainer.data.lint.finding import Finding
from trainer.data.lint.tally import RowTally
from trainer.data.records.reasons import quoted, shown
from trainer.recipe.lint import Lint

MIN_TABLE_ROWS = 20
MAX_NAMED = 3


def form_findings(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Yield Q017, Q028 and F028."""
    yield from _wrapped(tally, section)
    if tally.schemas.total >= MIN_TABLE_ROWS:
        yield from _keys(tally, section)
        yield from _types(tally, section)
    yield from _tools(tally, section)


def _wrapped(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report the odd ones out: no JSON where most is, fences and words around JSON where it mostly stands alone."""
    forms, total = tally.json_forms, tally.json_forms.total()
    plain, wrapped = forms["plain"], forms["fenced"] + forms["prefixed"]
    if total >= MIN_TABLE_ROWS and plain >= section.min_json_share * total:
        other = total - plain - forms["broken"]
        if other:
            said = f"{other} of {total} answers are no valid JSON by themselves, the others are"
            yield Finding("Q017", said, other, other / total, _rows(tally, ("json fenced", "json prefixed", "json ")))
    elif wrapped and plain >= max(wrapped, MIN_TABLE_ROWS // 2):
        said = f"{wrapped} of {plain + wrapped} JSON answers stand in a code fence or after words, the others alone"
        yield Finding(
            "Q017", said, wrapped, wrapped / (plain + wrapped), _rows(tally, ("json fenced", "json prefixed"))
        )


def _keys(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report answers with other keys than nearly all have, else keys that differ in case and underscores alone."""
    total = tally.schemas.total
    by_keys, schemas = Counter[str](), defaultdict[str, list[str]](list)
    for schema, rows in tally.schemas.most_common():
        by_keys[keys_of_schema(schema)] += rows
        schemas[keys_of_schema(schema)].append(schema)
    (usual, most), *others = sorted(by_keys.items(), key=lambda item: (-item[1], item[0]))
    if most >= section.min_json_share * total:
        if others:
            count = sum(rows for _, rows in others)
            another = _keys_shown(others[0][0])
            said = f"{count} of {total} answers have other keys than {_keys_shown(usual)}, such as {another}"
            rows_of = [f"schema {schema}" for keys, _ in others for schema in schemas[keys]]
            yield Finding("Q017", said, count, count / total, _rows(tally, rows_of))
        return
    spellings = defaultdict[str, Counter[str]](Counter)
    for keys, rows in by_keys.items():
        for key in filter(None, keys.split(",")):
            spellings["".join(filter(str.isalnum, key.casefold()))][key] += rows
    mixed = {key: counts for key, counts in spellings.items() if len(counts) > 1}
    if mixed:
        count = sum(counts.total() - max(counts.values()) for counts in mixed.values())
        named = "; ".join(", ".join(map(quoted, sorted(counts))) for counts in list(mixed.values())[:MAX_NAMED])
        yield Finding("Q017", f"one key in several spellings: {named}", count, min(count / total, 1.0))


def _types(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report keys whose values are of one type in nearly all answers, and of another in the rest; null is none."""
    kinds = defaultdict[str, Counter[str]](Counter)
    for schema, rows in tally.schemas.counts.items():
        for entry in filter(None, schema.split(PATH)):
            path, _, kind = entry.rpartition(TYPE)
            if kind != "null":
                kinds[path][kind] += rows
    drifting: dict[str, Counter[str]] = {}
    for path, counts in sorted(kinds.items()):
        most = max(counts.values())
        if len(counts) > 1 and counts.total() >= MIN_TABLE_ROWS and most >= section.min_json_share * counts.total():
            drifting[path] = counts
    if drifting:
        rare = {f"{path}{TYPE}{kind}" for path, counts in drifting.items() for kind, _ in counts.most_common()[1:]}
        odd = [schema for schema in tally.schemas.counts if not rare.isdisjoint(schema.split(PATH))]
        count = sum(tally.schemas.counts[schema] for schema in odd)
        named = "; ".join(f"{shown(path)}: {_said(counts)}" for path, counts in list(drifting.items())[:MAX_NAMED])
        yield Finding(
            "Q028", named, count, count / tally.schemas.total, _rows(tally, [f"schema {s}" for s in sorted(odd)])
        )


def _keys_shown(keys: str) -> str:
    return "'" + ",".join(map(shown, keys.split(","))) + "'"


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{rows} {kind}" for kind, rows in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _tools(tally: RowTally, section: Lint) -> Iterator[Finding]:
    """Report tools that nearly all rows describe in one way, and some in another; a name used freely is no slip."""
    versions = defaultdict[str, Counter[str]](Counter)
    for tool, rows in tally.tools.counts.items():
        versions[tool.rpartition(":")[0]][tool] += rows
    odd = []
    for counts in versions.values():
        is_slip = max(counts.values()) >= max(section.min_json_share * counts.total(), 2)
        is_frequent = len(counts) <= MAX_NAMED and counts.total() >= MIN_TABLE_ROWS
        if len(counts) > 1 and (is_slip or is_frequent):
            odd += [tool for tool, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[1:]]
    if odd:
        names = sorted({tool.rpartition(":")[0] for tool in odd})
        count = sum(tally.tools.counts[tool] for tool in odd)
        said = f"{len(names)} tools, such as {quoted(names[0])}: other parameters than in most rows"
        yield Finding("F028", said, count, count / tally.tools.total, _rows(tally, [f"tool {tool}" for tool in odd]))


def _rows(tally: RowTally, names: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    refs = [ref for name in names if name in tally.first for ref in tally.first[name]]
    return tuple(dict.fromkeys(refs))[: tally.max_rows_listed]
