"""Turns the facts of each section of the report into charts and rows of text."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup
from ruamel.yaml import YAML

from trainer.render.charts import Bar, Mark, bar_chart, histogram, interval_strip
from trainer.render.format import finite, flatten, title_of, write_duration, write_number
from trainer.render.metrics import Score, ScoreRow

Pair = tuple[str, str]


@dataclass(frozen=True)
class Proof:
    """How one exported format compares with the trained model."""

    format: str
    state: Literal["passed", "failed", "not checked"]
    cells: list[str]


PROOF_COLUMNS: dict[str, str] = {
    "top1_agreement": "same top token",
    "mean_kl": "mean KL (nats)",
    "max_kl": "max KL (nats)",
    "max_logit_diff": "max logit diff",
    "num_positions": "positions",
}


def key_facts(
    recipe: Mapping[str, Any], data_report: Mapping[str, Any] | None, verify: Mapping[str, Any] | None
) -> list[Pair]:
    """Return the few facts that stand under the headline, those that are known."""
    model, adapter, method = (recipe.get(key) or {} for key in ("model", "adapter", "method"))
    facts = {
        "base model": model.get("name_or_path"),
        "method": method.get("kind"),
        "weights": _weights(adapter),
        "training rows": (data_report or {}).get("rows_train"),
        "delivered": ", ".join(verify) if verify else None,
    }
    return [(key, write_number(value)) for key, value in facts.items() if value is not None]


def total_seconds(seconds: Sequence[float | None]) -> float | None:
    """Add up the stages that have a time; None where none has."""
    known = [number for number in map(finite, seconds) if number is not None]
    return sum(known) if known else None


def score_strip(row: ScoreRow) -> Markup:
    """Draw both arms of a share on a scale from 0 to 100%; empty for metrics without such a scale."""
    if row.metric.unit != "share":
        return Markup("")
    arms: tuple[tuple[Score | None, Literal["second", "first"]], ...] = ((row.base, "second"), (row.tuned, "first"))
    return interval_strip([Mark(score.value, score.low, score.high, role) for score, role in arms if score])


def time_chart(stages: Sequence[tuple[str, str, float | None]]) -> Markup:
    """Draw one bar a stage; a stage without a time says so in words."""
    total = total_seconds([seconds for _, _, seconds in stages])
    return bar_chart([_time_bar(name, state, seconds, total) for name, state, seconds in stages])


def data_pairs(report: Mapping[str, Any] | None) -> list[Pair]:
    """Return the counts of data/report.json, the rejected rows in all, and the rows of each format."""
    rejected, formats = ((report or {}).get(key) for key in ("rejected", "formats"))
    extra: list[Pair] = []
    if isinstance(rejected, Mapping):
        extra.append(("rows rejected", write_number(sum(finite(rows) or 0 for rows in rejected.values()))))
    if isinstance(formats, Mapping) and formats:
        counts = _count_formats(formats).items()
        extra.append(("formats", ", ".join(f"{name} ({write_number(rows)})" for name, rows in counts)))
    return scalar_pairs(report) + extra


def scalar_pairs(report: Mapping[str, Any] | None) -> list[Pair]:
    """Return the entries of a report that are single values."""
    singles = {key: value for key, value in (report or {}).items() if isinstance(value, str | int | float | bool)}
    return [
        (title_of(key), str(value) if key.endswith("_id") else write_number(value)) for key, value in singles.items()
    ]


def length_chart(report: Mapping[str, Any] | None) -> Markup:
    """Draw the histogram that pack/report.json holds: the value with `edges` and `counts`."""
    for value in (report or {}).values():
        if isinstance(value, Mapping) and value.get("edges") and value.get("counts"):
            return histogram(value["edges"], value["counts"], unit="tokens in a row")
    return Markup("")


def proofs(verify: Mapping[str, Mapping[str, Any]] | None) -> list[Proof]:
    """Return one row for each exported format, its cells in the order of PROOF_COLUMNS."""
    rows = []
    for name, entry in (verify or {}).items():
        passed = entry.get("passed")
        state: Literal["passed", "failed", "not checked"]
        state = "not checked" if passed is None else "passed" if passed else "failed"
        rows.append(Proof(name, state, [_proof_cell(key, entry.get(key)) for key in PROOF_COLUMNS]))
    return rows


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Write the recipe as YAML; what YAML has no type for is written as text."""
    if not recipe:
        return ""
    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False  # type: ignore[assignment]
    yaml.dump(json.loads(json.dumps(recipe, default=str)), stream)
    return stream.getvalue()


def pairs(values: Mapping[str, Any]) -> list[Pair]:
    """Return every leaf of a nested mapping as dotted key and text."""
    return list(flatten(values))


def _count_formats(formats: Mapping[str, Any]) -> Counter[str]:
    """Add up {format: rows} or {source: {format: rows}}; sources, maybe paths of this machine, are left out."""
    counts: Counter[str] = Counter()
    for name, rows in formats.items():
        counts.update(rows if isinstance(rows, Mapping) else {name: rows})
    return counts


def _weights(adapter: Mapping[str, Any]) -> str | None:
    kind, rank = adapter.get("kind"), adapter.get("r")
    if kind == "none":
        return "all (full)"
    return f"{kind} r={rank}" if rank else kind


def _time_bar(name: str, state: str, seconds: float | None, total: float | None) -> Bar:
    known = finite(seconds)
    if state == "missing" or known is None:
        return Bar(name, 0.0, "not run" if state == "missing" else "no time recorded", muted=True)
    share = f" · {known / total:.0%}" if total else ""
    stale = state == "stale"
    return Bar(name, known, f"{write_duration(known)}{share}{' · stale' if stale else ''}", muted=stale)


def _proof_cell(key: str, value: object) -> str:
    number = finite(value)
    if number is not None and key == "top1_agreement":
        return f"{number * 100:.2f}%"
    if number is not None and key != "num_positions":
        return "0" if number == 0 else f"{number:.1e}"
    return write_number(value)
