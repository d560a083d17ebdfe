"""Renders one run as a single self-contained HTML page: no request, readable offline, without scripts and on paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.render import sections
from trainer.render.answers import AnswerRows
from trainer.render.arms import arm_table, comparison_sentences, retention_sentences, slice_tables, suite_tables
from trainer.render.curves import training_curves
from trainer.render.damage import constant_row, damage_summary, damages, habit_measures
from trainer.render.data import data_view, finding_rows
from trainer.render.decide import decide_fragment
from trainer.render.metrics import score_rows, verdict
from trainer.render.page import encodable, page_environment


@dataclass(frozen=True)
class StageFacts:
    """What became of one stage; `numbers` are those of its stage.json."""

    name: str
    state: Literal["done", "missing", "stale"]
    seconds: float | None = None
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportFacts:
    """Everything that the page says; None or an empty list where the run has no such file.

    Args:
        name: name of the run.
        trainer_version: version of this package.
        recipe: resolved recipe.
        stages: all stages in their order.
        data_report: data/report.json, see `trainer.render.data`.
        previous_data: data/previous.json, the report of the data's previous version.
        pack_report: pack/report.json: counts, and a histogram of lengths {"edges", "counts"} under any key.
        metrics: lines of train/metrics.jsonl.
        scores: eval/scores.json.
        decision: decide/decision.json.
        gates: eval/gates.json: {"gate", "passed", "sentence"}.
        verify: export/verify.json.
        answers: what the page shows of eval/predictions.jsonl.
        pages: other pages of the run by name, as addresses relative to this one.
        env: env.json.
    """

    name: str
    trainer_version: str
    recipe: dict[str, Any]
    stages: list[StageFacts] = field(default_factory=list)
    data_report: dict[str, Any] | None = None
    previous_data: dict[str, Any] | None = None
    pack_report: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    decision: dict[str, Any] | None = None
    gates: list[dict[str, Any]] | None = None
    verify: dict[str, dict[str, Any]] | None = None
    answers: AnswerRows | None = None
    pages: dict[str, str] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)


def render_report(facts: ReportFacts) -> str:
    """Render the page; the text can always be encoded as UTF-8, whatever a model has answered."""
    return encodable(page_environment().get_template("report.html.j2").render(facts=facts, **_context(facts)))


CONTENTS = {
    "scores": "Scores",
    "broken": "What tuning broke",
    "answers": "Answers",
    "decide": "Prompt or tune",
    "loss": "Training",
    "time": "Where the time went",
    "data": "Data",
    "tokens": "Tokens",
    "export": "Export proof",
    "recipe": "Recipe",
    "environment": "Environment",
}
"""Sections by their id, in their order."""


def _context(facts: ReportFacts) -> dict[str, Any]:
    return {
        "contents": [(name, title) for name, title in CONTENTS.items() if name != "decide" or facts.decision],
        "verdict": verdict(facts.scores),
        "failed_gates": [gate for gate in facts.gates or [] if not gate.get("passed")],
        "key_facts": sections.key_facts(facts.recipe, facts.data_report, facts.verify),
        "total_seconds": sections.total_seconds([stage.seconds for stage in facts.stages]),
        "score_rows": score_rows(facts.scores),
        "strip": sections.score_strip,
        "arms": arm_table(facts.scores),
        "sentences": comparison_sentences(facts.scores),
        "slices": slice_tables(facts.scores),
        "suites": suite_tables(facts.scores),
        "retention": retention_sentences(facts.scores),
        "habits": list(habit_measures(facts.scores)),
        "constant": constant_row(facts.scores),
        "damages": damages(facts.scores),
        "damage_summary": damage_summary(facts.scores),
        "decision_part": decide_fragment(facts.decision) if facts.decision else None,
        "curves": training_curves(facts.metrics),
        "time_chart": sections.time_chart([(stage.name, stage.state, stage.seconds) for stage in facts.stages]),
        "stage_numbers": [(stage.name, sections.pairs(stage.numbers)) for stage in facts.stages if stage.numbers],
        "data_pairs": sections.data_pairs(facts.data_report),
        "data_view": data_view(facts.data_report or {}, facts.previous_data),
        "pack_pairs": sections.scalar_pairs(facts.pack_report),
        "pack_findings": finding_rows(facts.pack_report or {}),
        "length_chart": sections.length_chart(facts.pack_report),
        "answers": facts.answers,
        "proofs": sections.proofs(facts.verify),
        "proof_titles": list(sections.PROOF_COLUMNS.values()),
        "recipe_text": sections.recipe_text(facts.recipe),
        "env_pairs": sections.pairs(facts.env),
    }
