"""Scores and gates as Markdown for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.render.damage import constant_row, damage_summary, damages
from trainer.render.format import DASH, write_number
from trainer.render.junit import gate_name
from trainer.render.metrics import write_difference, write_value

_WORDS = {
    "pass": "pass",
    "fail": "**fail**",
    "insufficient_evidence": "**too little evidence**",
    "not_run": "**not run**",
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def render_markdown(scores: Mapping[str, Any], gates: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """Return a heading, the verdict, a table of arms and metrics, comparisons as sentences, and the gates.

    Args:
        scores: As eval/scores.json.
        gates: Entries of eval/gates.json.
        name: Name of the run.
    """
    passed = sum(bool(entry["passed"]) for entry in gates)
    verdict = f"{passed} of {len(gates)} gates passed" if gates else "no gates in the recipe"
    rows = scores.get("heldout_rows")
    held = f", {write_number(rows)} held-out rows" if rows is not None else ""
    parts = [f"## {_escape(name)}: evaluation", f"{verdict}{held}", _broken(scores)]
    parts += [_arms(scores.get("arms", {})), _constant(scores)]
    parts += [_suite(suite, found) for suite, found in (scores.get("suites") or {}).items()]
    if sentences := _sentences(scores.get("comparisons", [])):
        parts.append("### Compared on the same rows\n\n" + sentences)
    if gates:
        parts.append("### Gates\n\n" + _gates(gates))
    return "\n\n".join(part for part in parts if part) + "\n"


def _broken(scores: Mapping[str, Any]) -> str:
    """List what tuning broke, or say what was looked at; nothing before there is a tuned model."""
    if "tuned" not in scores.get("arms", {}):
        return ""
    lines = [f"- {_escape(damage.sentence)}" for damage in damages(scores)]
    if not lines:
        return f"{damage_summary(scores)}."
    return "\n".join([f"**{damage_summary(scores)}**", "", *lines])


def _constant(scores: Mapping[str, Any]) -> str:
    row = constant_row(scores)
    if row is None:
        return ""
    gain = "" if row.difference is None else f"; tuned {write_difference(row.metric, row.difference)}"
    value = write_value(row.metric, row.constant.value)
    return f"Always answering “{_escape(row.text)}” would be right in {value}{gain}."


def _arms(arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Write one line a metric and one column an arm."""
    metrics = list(dict.fromkeys(metric for found in arms.values() for metric in found))
    if not metrics:
        return ""
    lines = [[_escape(metric), *(_score(found.get(metric)) for found in arms.values())] for metric in metrics]
    return "\n".join(_table(["metric", *map(_escape, arms)], lines)) + "\n\nIn brackets: 95 % intervals."


def _suite(suite: str, found: Mapping[str, Any]) -> str:
    table = _arms(found.get("arms", {}))
    kind = ", every item must pass" if found.get("must_pass") else ""
    heading = f"### Suite {_escape(suite)} ({write_number(found.get('n'))} items{kind})"
    return "\n\n".join(part for part in (heading, table, _sentences(found.get("comparisons", []))) if part)


def _sentences(comparisons: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"- {_escape(found.get('metric', ''))}: {_escape(found['sentence'])}"
        for found in comparisons
        if found.get("sentence")
    )


def _gates(gates: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [
            entry["layer"].replace("_", " "),
            _escape(gate_name(entry["gate"])),
            _WORDS.get(entry["verdict"], _escape(entry["verdict"])),
            _escape(entry["sentence"]),
        ]
        for entry in gates
    ]
    return "\n".join(_table(["layer", "gate", "verdict", "why"], lines))


def _table(head: list[str], lines: list[list[str]]) -> Iterator[str]:
    for line in [head, ["---"] * len(head), *lines]:
        yield f"| {' | '.join(line)} |"


def _score(score: Mapping[str, Any] | None) -> str:
    if score is None or score.get("value") is None:
        return DASH
    value = write_number(score["value"])
    if score.get("low") is None and score.get("high") is None:
        return value
    return f"{value} ({write_number(score.get('low'))} to {write_number(score.get('high'))})"


def _escape(text: object) -> str:
    """Keep text of models and files from becoming markup, mentions or a second table line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("@", "@\u200b")
