"""report: one self-contained page, and the same facts as JSON.

Writes `index.html` and `report.json` from whatever the run holds so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

import trainer
from trainer.recipe import Recipe
from trainer.render.report import ReportFacts, StageFacts, render_report
from trainer.rundir import StageContext, read_json, write_json

STAGE_NAMES = ("data", "pack", "train", "eval", "decide", "export")
MAX_EXAMPLES = 12


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
    return ReportFacts(
        name=recipe.name,
        trainer_version=trainer.__version__,
        recipe=recipe.model_dump(mode="json"),
        stages=[_stage(context, name) for name in STAGE_NAMES],
        data_report=_json(context.input("data", "report.json")),
        previous_data=_json(context.input("data", "previous.json")),
        pack_report=_json(context.input("pack", "report.json")),
        metrics=_lines(context.input("train", "metrics.jsonl")),
        scores=_json(context.input("eval", "scores.json")),
        decision=_json(context.input("decide", "decision.json")),
        gates=_json(context.input("eval", "gates.json")),
        verify=_json(context.input("export", "verify.json")),
        examples=_examples(context.input("eval", "predictions.jsonl")),
        env=_json(context.run.path / "env.json") or {},
    )


def _stage(context: StageContext, name: str) -> StageFacts:
    record = context.run.record(name)
    if record is None:
        return StageFacts(name=name, state="missing")
    return StageFacts(name=name, state="done", seconds=record.seconds, numbers=record.numbers)


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def _examples(path: Path) -> list[dict[str, Any]]:
    """Return some answers: those where the arms differ in being right come first."""
    rows = _lines(path)
    rows.sort(key=lambda row: len({_is_right(answer) for answer in row["answers"].values()}), reverse=True)
    return [
        {
            "prompt": row["messages"],
            "reference": row["reference"],
            "answers": {arm: answer["text"] for arm, answer in row["answers"].items()},
            "correct": {arm: _is_right(answer) for arm, answer in row["answers"].items()},
        }
        for row in rows[:MAX_EXAMPLES]
    ]


def _is_right(answer: dict[str, Any]) -> bool:
    """Tell whether the first grader gave an answer its full mark."""
    return next(iter(answer.get("grades", {"": answer.get("exact_match")}).values()), 0.0) == 1.0
