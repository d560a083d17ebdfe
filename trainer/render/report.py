"""Render one run as a single self-contained HTML page: no script, no request, readable offline and on paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.render import sections
from trainer.render.arms import arm_table, comparison_sentences, retention_sentences, slice_tables, suite_tables
from trainer.render.data import data_view, finding_rows
from trainer.render.decide import decide_fragment
from trainer.render.metrics import score_rows, verdict
from trainer.render.page import page_environment


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
        examples: {"prompt", "reference", "answers": {ARM: text}}, optionally "correct": {ARM: bool}.
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
    examples: list[dict[str, Any]] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)


def render_report(facts: ReportFacts) -> str:
    """Render the page; the text can always be encoded as UTF-8, whatever a model has answered."""
    page = page_environment().get_template("report.html.j2").render(facts=facts, **_context(facts))
    return page.encode("utf-8", "replace").decode("utf-8")


def _context(facts: ReportFacts) -> dict[str, Any]:
    return {
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
        "decision_part": decide_fragment(facts.decision) if facts.decision else None,
        "loss_chart": sections.loss_chart(facts.metrics),
        "loss_sentence": sections.loss_sentence(facts.metrics),
        "time_chart": sections.time_chart([(stage.name, stage.state, stage.seconds) for stage in facts.stages]),
        "stage_numbers": [(stage.name, sections.pairs(stage.numbers)) for stage in facts.stages if stage.numbers],
        "data_pairs": sections.data_pairs(facts.data_report),
        "data_view": data_view(facts.data_report or {}, facts.previous_data),
        "pack_pairs": sections.scalar_pairs(facts.pack_report),
        "pack_findings": finding_rows(facts.pack_report or {}),
        "length_chart": sections.length_chart(facts.pack_report),
        "examples": [sections.example(item) for item in facts.examples],
        "proofs": sections.proofs(facts.verify),
        "proof_titles": list(sections.PROOF_COLUMNS.values()),
        "recipe_text": sections.recipe_text(facts.recipe),
        "env_pairs": sections.pairs(facts.env),
    }
