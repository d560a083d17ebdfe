"""Turn the facts of the report's smaller sections into charts and pairs of text."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Literal

from markupsafe import Markup
from ruamel.yaml import YAML

from trainer.render.charts import Bar, Mark, bar_chart, histogram, interval_strip
from trainer.render.numbers import finite, title_of, write_duration, write_number
from trainer.render.scores.rows import ScoreRow
from trainer.shapes.pack import PackReport

Pair = tuple[str, str]


def key_facts(recipe: Mapping[str, object], num_rows: int | None, formats: Sequence[str]) -> list[Pair]:
    """Return the few facts that stand under the headline.

    Args:
        recipe: Resolved recipe; empty where it was not recorded.
        num_rows: Training rows, None before the data stage.
        formats: Exported ones.
    """
    model, adapter, method = (_section(recipe, name) for name in ("model", "adapter", "method"))
    facts = {
        "base model": model.get("name_or_path"),
        "method": method.get("kind"),
        "weights": _weights(adapter),
        "training rows": num_rows,
        "delivered": ", ".join(formats) or None,
    }
    return [(key, write_number(value)) for key, value in facts.items() if value is not None]


def _section(recipe: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = recipe.get(name)
    return section if isinstance(section, Mapping) else {}


def _weights(adapter: Mapping[str, object]) -> object:
    kind, rank = adapter.get("kind"), adapter.get("r")
    if kind == "none":
        return "all (full)"
    return f"{kind} r={rank}" if rank else kind


def total_seconds(seconds: Sequence[float | None]) -> float | None:
    """Add up the stages that have a time; None where none has."""
    times = [number for number in map(finite, seconds) if number is not None]
    return sum(times) if times else None


def score_strip(row: ScoreRow) -> Markup:
    """Draw both arms of a share on a scale from 0 to 100%; empty for metrics without such a scale."""
    if row.metric.unit != "share":
        return Markup("")
    roles: tuple[Literal["second", "first"], ...] = ("second", "first")
    arms = zip((row.base, row.tuned), roles, strict=True)
    return interval_strip([Mark(score["value"], score["low"], score["high"], role) for score, role in arms if score])


def time_chart(seconds: Mapping[str, float | None]) -> Markup:
    """Draw one bar a stage.

    Args:
        seconds: By stage; None for one that did not run.
    """
    total = total_seconds(list(seconds.values()))
    return bar_chart([_time_bar(name, finite(time), total) for name, time in seconds.items()])


def _time_bar(name: str, seconds: float | None, total: float | None) -> Bar:
    if seconds is None:
        return Bar(name, 0.0, "not run", muted=True)
    share = f" · {seconds / total:.0%}" if total else ""
    return Bar(name, seconds, f"{write_duration(seconds)}{share}")


def pack_pairs(report: PackReport) -> list[Pair]:
    """Return the single values of pack/report.json."""
    return [
        (title_of(key), str(value) if key.endswith("_id") else write_number(value))
        for key, value in report.items()
        if isinstance(value, int | float)
    ]


def length_chart(report: PackReport) -> Markup:
    """Draw the lengths of the training rows."""
    return histogram(report["histogram"]["edges"], report["histogram"]["counts"], unit="tokens in a row")


def recipe_text(recipe: Mapping[str, object]) -> str:
    """Write the recipe as YAML; what YAML has no type for is written as text."""
    if not recipe:
        return ""
    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False  # type: ignore[assignment]
    yaml.dump(json.loads(json.dumps(recipe, default=str)), stream)
    return stream.getvalue()
