"""Render one run as a single self-contained HTML page: no request, readable offline, without scripts and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.render.data.findings import finding_rows
from trainer.render.data.view import count_pairs, data_view
from trainer.render.decide.page import decide_fragment
from trainer.render.html import encodable, page_environment
from trainer.render.numbers import flatten
from trainer.render.proofs import PROOF_COLUMNS, proof_rows
from trainer.render.report import sections
from trainer.render.report.answers import AnswerRows
from trainer.render.report.curves import training_curves
from trainer.render.scores.arms import arm_table, comparison_sentences, retention_sentences, slice_tables, suite_tables
from trainer.render.scores.damage import constant_row, damage_summary, damages, habit_measures
from trainer.render.scores.rows import NO_SCORES, score_rows, verdict
from trainer.shapes.decision import Decision
from trainer.shapes.gates import GateResult
from trainer.shapes.pack import PackReport
from trainer.shapes.proof import ExportProof
from trainer.shapes.report import DataReport
from trainer.shapes.scores import Scores
from trainer.shapes.training import TrainingMetrics


@dataclass(frozen=True)
class StageFacts:
    """What became of one stage."""

    name: str
    seconds: float | None = None
    """None: it has not run."""
    numbers: Mapping[str, object] = field(default_factory=dict)
    """Those of its stage.json."""


@dataclass(frozen=True)
class ReportFacts:
    """Everything that the page says; None or an empty list where the run has no such file.

    Args:
        name: Name of the run.
        trainer_version: Version of this package.
        recipe: Resolved recipe.
        stages: All stages in their order.
        data_report: data/report.json.
        previous_data: data/previous.json, the report of the data's previous version.
        pack_report: pack/report.json.
        metrics: Lines of train/metrics.jsonl.
        scores: eval/scores.json.
        decision: decide/decision.json.
        gates: eval/gates.json.
        verify: export/verify.json.
        answers: What the page shows of eval/predictions.jsonl.
        pages: Other pages of the run by name, as addresses relative to this one.
        env: env.json.
    """

    name: str
    trainer_version: str
    recipe: Mapping[str, object]
    stages: Sequence[StageFacts] = ()
    data_report: DataReport | None = None
    previous_data: DataReport | None = None
    pack_report: PackReport | None = None
    metrics: Sequence[TrainingMetrics] = ()
    scores: Scores | None = None
    decision: Decision | None = None
    gates: Sequence[GateResult] | None = None
    verify: Mapping[str, ExportProof] | None = None
    answers: AnswerRows | None = None
    pages: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, object] = field(default_factory=dict)


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


def _context(facts: ReportFacts) -> dict[str, object]:
    seconds = {stage.name: stage.seconds for stage in facts.stages}
    report, pack, verify = facts.data_report, facts.pack_report, facts.verify or {}
    return {
        "contents": [(name, title) for name, title in CONTENTS.items() if name != "decide" or facts.decision],
        "failed_gates": [gate for gate in facts.gates or [] if not gate["passed"]],
        "key_facts": sections.key_facts(facts.recipe, report["rows_train"] if report else None, list(verify)),
        "total_seconds": sections.total_seconds(list(seconds.values())),
        **_score_context(facts.scores or NO_SCORES),
        "answers": facts.answers,
        "decision_part": decide_fragment(facts.decision) if facts.decision else None,
        "curves": training_curves(facts.metrics),
        "time_chart": sections.time_chart(seconds),
        "stage_numbers": [(stage.name, list(flatten(stage.numbers))) for stage in facts.stages if stage.numbers],
        "data_pairs": count_pairs(report) if report else [],
        "data_view": data_view(report, facts.previous_data) if report else None,
        "pack_pairs": sections.pack_pairs(pack) if pack else [],
        "pack_findings": finding_rows(pack["lint"]) if pack else [],
        "length_chart": sections.length_chart(pack) if pack else "",
        "proofs": proof_rows(verify),
        "proof_titles": list(PROOF_COLUMNS.values()),
        "recipe_text": sections.recipe_text(facts.recipe),
        "env_pairs": list(flatten(facts.env)),
    }


def _score_context(scores: Scores) -> dict[str, object]:
    return {
        "verdict": verdict(scores),
        "score_rows": score_rows(scores),
        "strip": sections.score_strip,
        "arms": arm_table(scores),
        "sentences": comparison_sentences(scores),
        "slices": slice_tables(scores),
        "suites": suite_tables(scores["suites"]),
        "retention": retention_sentences(scores),
        "habits": list(habit_measures(scores)),
        "constant": constant_row(scores),
        "damages": damages(scores),
        "damage_summary": damage_summary(scores),
    }
