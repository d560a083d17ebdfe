"""Run `trainer report`: write one self-contained page, and the same facts as JSON.

Writes `index.html` and `report.json` from whatever the run holds so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trainer
from trainer import exact_json
from trainer.disk import read_json, read_json_lines, write_json
from trainer.recipe import Recipe
from trainer.render.report.answers import AnswerRows, select_answers
from trainer.render.report.page import ReportFacts, StageFacts, render_report
from trainer.rundir import StageContext
from trainer.shapes.scores import Scores

STAGE_NAMES = ("data", "pack", "train", "eval", "decide", "export")


def run(recipe: Recipe, context: StageContext) -> None:
    """Gather the facts and render them."""
    facts = _facts(recipe, context)
    (context.dir / "index.html").write_text(render_report(facts), encoding="utf-8")
    write_json(
        context.dir / "report.json",
        {
            "name": facts.name,
            "stages": {stage.name: {"seconds": stage.seconds, **stage.numbers} for stage in facts.stages},
            "data": facts.data_report,
            "pack": facts.pack_report,
            "scores": facts.scores,
            "decision": facts.decision,
            "gates": facts.gates,
            "verify": facts.verify,
        },
    )


def _facts(recipe: Recipe, context: StageContext) -> ReportFacts:
    scores = _json(context.input("eval", "scores.json"))
    return ReportFacts(
        name=recipe.name,
        trainer_version=trainer.__version__,
        recipe=recipe.model_dump(mode="json"),
        stages=[_stage(context, name) for name in STAGE_NAMES],
        data_report=_json(context.input("data", "report.json")),
        previous_data=_json(context.input("data", "previous.json")),
        pack_report=_json(context.input("pack", "report.json")),
        metrics=read_json_lines(context.input("train", "metrics.jsonl")),
        scores=scores,
        decision=_json(context.input("decide", "decision.json")),
        gates=_json(context.input("eval", "gates.json")),
        verify=_json(context.input("export", "verify.json")),
        answers=_answers(context.input("eval", "predictions.jsonl"), scores),
        pages=_pages(context),
        env=_json(context.run.path / "env.json") or {},
    )


def _stage(context: StageContext, name: str) -> StageFacts:
    record = context.run.record(name)
    return StageFacts(name) if record is None else StageFacts(name, record.seconds, record.numbers)


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _answers(path: Path, scores: Scores | None) -> AnswerRows | None:
    """Read the predictions one by one: there may be a million."""
    if not path.is_file():
        return None
    with path.open("rb") as lines:
        return select_answers(
            (exact_json.loads(line) for line in lines if line.strip()), scores["primary"] if scores else None
        )


def _pages(context: StageContext) -> dict[str, str]:
    """Return the other pages that there are, relative to report/index.html."""
    names = {"data": "the data", "decide": "prompt or tune"}
    return {
        title: f"../{stage}/index.html"
        for stage, title in names.items()
        if context.input(stage, "index.html").is_file()
    }
