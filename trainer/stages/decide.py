"""Run `trainer decide`: compare prompting with tuning, from the results of eval and the prices of the recipe.

Asks no model. Writes `decision.json`, `index.html`, and `providers/*.jsonl` for the services that the recipe names.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import date

from rich.console import Console

import trainer
from trainer.decide import budget as budgets
from trainer.decide import providers
from trainer.decide.closed_set import is_closed_set
from trainer.decide.decision import decision_of
from trainer.decide.from_scores import deciding_metric, inputs_of, uses_of
from trainer.disk import read_json, read_json_lines, write_json
from trainer.recipe import Recipe
from trainer.recipe.arms import Endpoint
from trainer.recipe.decide import DecideSection
from trainer.render.decide.page import render_decide_page
from trainer.render.decide.terminal import decide_summary
from trainer.rundir import StageContext
from trainer.scoring.questions.from_rows import conversation
from trainer.shapes.decision import Decision, ServiceReadiness
from trainer.shapes.predictions import Prediction

SECONDS_PER_HOUR = 3600


def run(recipe: Recipe, context: StageContext) -> None:
    """Decide, and say why.

    Raises:
        StageError: eval/scores.json lacks the metric that the recipe names.
    """
    section = recipe.decide or DecideSection()
    scores = read_json(context.input("eval", "scores.json"))
    predictions = read_json_lines(context.input("eval", "predictions.jsonl"))
    metric = deciding_metric(section, scores)
    uses = uses_of(scores, metric, _endpoint_names(recipe))
    hours = _training_hours(section, context)
    budget = budgets.make_budget(section, budgets.with_assumed_tuning(uses), hours)
    inputs, resamples = inputs_of(section, scores, predictions, metric, budget, recipe.seed)
    inputs = replace(
        inputs,
        closed_set=_closed_set(predictions, context),
        documents_exist=any(arm.documents for arm in recipe.eval.all_arms),
    )
    decision = decision_of(inputs, resamples, scores, budget, _services(section, context))
    write_json(context.dir / "decision.json", decision)
    page = render_decide_page(decision, name=recipe.name, trainer_version=trainer.__version__)
    (context.dir / "index.html").write_text(page, encoding="utf-8")
    context.numbers.update(verdict=decision["verdict"], confidence=decision["confidence"])
    _show(decision, context)


def _endpoint_names(recipe: Recipe) -> dict[str, str]:
    """Return the model's name of each arm that is an endpoint: prices may be stated for it."""
    return {arm.name: arm.model.name for arm in recipe.eval.all_arms if isinstance(arm.model, Endpoint)}


def _training_hours(section: DecideSection, context: StageContext) -> float:
    """Return the GPU hours of the training; 0 before it."""
    if section.training_hours != "auto":
        return section.training_hours
    record = context.run.record("train")
    if record is None:
        return 0.0
    seconds = record.numbers.get("train_seconds", record.seconds)
    return float(seconds) * int(record.numbers.get("num_processes", 1)) / SECONDS_PER_HOUR


def _closed_set(predictions: list[Prediction], context: StageContext) -> bool:
    """Tell whether the right answers are labels that the training rows know."""
    turns = (conversation(row) for row in read_json_lines(context.input("data", "train.jsonl")))
    trained = (str(turn[-1].get("content") or "") for turn in turns if turn)
    return is_closed_set([str(prediction["reference"] or "") for prediction in predictions], trained)


def _services(section: DecideSection, context: StageContext) -> dict[str, ServiceReadiness]:
    """Check the training rows against each service, and write the files of those that the recipe names."""
    services = providers.services()
    names = list(services) if section.providers == "auto" else section.providers
    sides = {side: read_json_lines(context.input("data", f"{side}.jsonl")) for side in ("train", "validation")}
    for name in section.export_providers:
        folder = context.dir / "providers"
        folder.mkdir(exist_ok=True)
        for side, rows in sides.items():
            if rows:
                (folder / f"{name}.{side}.jsonl").write_bytes(providers.export(services[name], rows))
    return {name: providers.readiness(services[name], sides["train"], date.today()) for name in names}


def _show(decision: Decision, context: StageContext) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with console.capture() as capture:
        console.print(decide_summary(decision))
    context.say(capture.get().rstrip())
