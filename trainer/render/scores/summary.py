"""Write eval/summary.md: scores and gates as Markdown for a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from trainer.render.metrics import write_difference, write_value
from trainer.render.numbers import DASH, write_number
from trainer.render.scores.damage import constant_row, damage_summary, damages
from trainer.render.scores.junit import gate_name
from trainer.shapes.gates import GateResult, GateVerdict
from trainer.shapes.scores import ArmComparison, Score, Scores, SuiteScores

_VERDICTS: dict[GateVerdict, str] = {
    "pass": "pass",
    "fail": "**fail**",
    "insufficient_evidence": "**too little evidence**",
    "not_run": "**not run**",
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def render_markdown(scores: Scores, gates: Sequence[GateResult], *, name: str) -> str:
    """Return a heading, the verdict, a table of arms and metrics, comparisons as sentences, and the gates."""
    passed = sum(entry["passed"] for entry in gates)
    verdict = f"{passed} of {len(gates)} gates passed" if gates else "no gates in the recipe"
    parts = [
        f"## {_escape(name)}: evaluation",
        f"{verdict}, {write_number(scores['heldout_rows'])} held-out rows",
        _broken(scores),
        _arms(scores["arms"]),
        _constant(scores),
        *(_suite(name, suite) for name, suite in scores["suites"].items()),
    ]
    if scores["comparisons"]:
        parts.append("### Compared on the same rows\n\n" + _sentences(scores["comparisons"]))
    if gates:
        parts.append("### Gates\n\n" + _gates(gates))
    return "\n\n".join(part for part in parts if part) + "\n"


def _broken(scores: Scores) -> str:
    """List what tuning broke, or say what was looked at; nothing before there is a tuned model."""
    if "tuned" not in scores["arms"]:
        return ""
    lines = [f"- {_escape(damage.sentence)}" for damage in damages(scores)]
    if not lines:
        return f"{damage_summary(scores)}."
    return "\n".join([f"**{damage_summary(scores)}**", "", *lines])


def _constant(scores: Scores) -> str:
    row = constant_row(scores)
    if row is None:
        return ""
    gain = "" if row.difference is None else f"; tuned {write_difference(row.metric, row.difference)}"
    return f"Always answering “{_escape(row.text)}” would be right in {write_value(row.metric, row.value)}{gain}."


def _arms(arms: Mapping[str, Mapping[str, Score]]) -> str:
    """Write one line a metric and one column an arm."""
    metrics = dict.fromkeys(metric for values in arms.values() for metric in values)
    if not metrics:
        return ""
    lines = [[_escape(metric), *(_score(values.get(metric)) for values in arms.values())] for metric in metrics]
    return _table(["metric", *map(_escape, arms)], lines) + "\n\nIn brackets: 95 % intervals."


def _suite(name: str, suite: SuiteScores) -> str:
    kind = ", every item must pass" if suite["must_pass"] else ""
    heading = f"### Suite {_escape(name)} ({write_number(suite['n'])} items{kind})"
    return "\n\n".join(part for part in (heading, _arms(suite["arms"]), _sentences(suite["comparisons"])) if part)


def _sentences(comparisons: Sequence[ArmComparison]) -> str:
    return "\n".join(f"- {_escape(entry['metric'])}: {_escape(entry['sentence'])}" for entry in comparisons)


def _gates(gates: Sequence[GateResult]) -> str:
    lines = [
        [
            entry["layer"].replace("_", " "),
            _escape(gate_name(entry["gate"])),
            _VERDICTS[entry["verdict"]],
            _escape(entry["sentence"]),
        ]
        for entry in gates
    ]
    return _table(["layer", "gate", "verdict", "why"], lines)


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def _score(score: Score | None) -> str:
    if score is None:
        return DASH
    value = write_number(score["value"])
    if score["low"] is None and score["high"] is None:
        return value
    return f"{value} ({write_number(score['low'])} to {write_number(score['high'])})"


def _escape(text: object) -> str:
    """Keep text of models and files from becoming markup, mentions or a second table line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("@", "@\u200b")
