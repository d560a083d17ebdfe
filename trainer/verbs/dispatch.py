"""Run the verb that the command line names.

Each verb imports its own modules when it runs: `--help` and `check` must not wait for torch.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console

from trainer.data.pii.recipe_secrets import recipe_without_secrets, without_secrets
from trainer.disk import read_json
from trainer.errors import GateError, StageError
from trainer.pipeline import Pipeline
from trainer.recipe import Recipe, load_recipe
from trainer.recipe.train import LAUNCHED
from trainer.render.scores.terminal import arms_table, damage_line, scores_table
from trainer.rundir import RunFolder


def run(options: argparse.Namespace) -> int:
    """Run the verb that the command line names and return the exit code.

    Raises:
        TrainerError: It cannot be done; the message says why and what to do.
    """
    if options.verb == "schema":
        return _print_schema()
    if options.verb == "bench":
        return _bench(options)
    if options.verb == "verify":
        return _verify(Path(options.folder))
    if options.verb == "eval" and (options.suite or options.against):
        return _eval_alone(options)
    recipe = recipe_without_secrets(load_recipe(options.recipe, sets=options.sets))
    run_dir = run_dir_of(options.recipe, recipe.name, options.run_dir)
    if options.verb in _ON_RUNS:
        return _ON_RUNS[options.verb](options, recipe, RunFolder(run_dir))
    pipeline = Pipeline(
        recipe,
        RunFolder(run_dir),
        recipe_path=Path(options.recipe),
        say=_say,
        force=options.force,
        accepted=frozenset(options.accept),
        resume_from=options.resume_from,
        arguments=_arguments(options),
        worker=is_worker(),
    )
    if options.force and options.resume_from:
        raise StageError("--force starts anew and --resume-from goes on: give one of them", hint="leave one out")
    if options.verb == "check":
        return _check(pipeline, quick=options.quick)
    if pipeline.worker:
        return _work(pipeline, options.verb)
    with pipeline.run.locked():
        pipeline.open(options.verb)
        if options.verb != "run":
            pipeline.run_one(options.verb)
            return 0
        try:
            pipeline.run_all()
        finally:
            _summary(pipeline)
    return 0


def _verify(folder: Path) -> int:
    from trainer.export.manifest import verify

    reports = verify(folder)
    for report in reports:
        state = "FAILED" if report.findings else "ok"
        print(f"{report.folder}: {state}, {report.kind}, {report.num_files} files, {report.num_bytes / 1e6:,.1f} MB")
        if report.digest:
            print(f"  {'manifest' if report.kind.startswith('export') else 'provenance'} {report.digest}")
        for line in (*report.findings, *report.notes):
            print(f"  {line}")
    if failed := [report for report in reports if report.findings]:
        raise GateError(
            f"{failed[0].folder} is not what was exported: {failed[0].findings[0]}",
            hint="do not serve it: copy the folder again, or trainer export RECIPE --force",
        )
    return 0


def _eval_alone(options: argparse.Namespace) -> int:
    from trainer.verbs.eval_model import Target, compare_runs, evaluate_alone

    if options.against:
        for comparison in compare_runs(Path(options.recipe), Path(options.against)):
            print(f"{comparison['metric']}: {comparison['sentence']}")
        return 0
    target = Target(options.recipe, base=options.base, name=options.model)
    evaluate_alone(target, options.suite, Path(options.out) if options.out else None)
    return 0


def _inspect(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from trainer.verbs.inspect.command import InspectOptions, inspect

    request = InspectOptions(
        options.row, options.rule, options.flag, options.rejected, options.limit, options.add_to_suite
    )
    inspect(recipe, run, request, arguments=_arguments(options))
    return 0


def _predict(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from trainer.verbs.serve.predict import PredictOptions, predict

    schema = Path(options.schema) if options.schema else None
    request = PredictOptions(Path(options.input), Path(options.output), schema, options.merged)
    predict(recipe, run, request, arguments=_arguments(options), say=_say)
    return 0


def _chat(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from trainer.verbs.serve.chat import chat

    chat(recipe, run, arguments=_arguments(options), merged=options.merged, with_base=options.base)
    return 0


def _serve(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    from trainer.verbs.serve.serve import ServeOptions, serve

    request = ServeOptions(options.host, options.port, options.engine, options.python, tuple(options.passed))
    return serve(recipe, run, request, arguments=_arguments(options), say=_say)


_ON_RUNS = {"inspect": _inspect, "predict": _predict, "chat": _chat, "serve": _serve}


def _summary(pipeline: Pipeline) -> None:
    """Print the closing table, where everything lies and what to type next, for a run that has scores."""
    run_dir = pipeline.run.path
    scores_path = run_dir / "eval" / "scores.json"
    if not scores_path.is_file() or pipeline.run.record("report") is None:
        return
    scores = read_json(scores_path)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print()
    console.print(scores_table(scores))
    if len(scores["arms"]) > 2:
        console.print()
        console.print(arms_table(scores))
    console.print()
    console.print(damage_line(scores), soft_wrap=True)
    console.print()
    for name, text in _RESULTS.items():
        if (run_dir / name).exists():
            console.print(f"  {run_dir / name}  {text}", markup=False, soft_wrap=True)
    console.print(f"next: open {run_dir}/report/index.html; change a key and compare:", markup=False, soft_wrap=True)
    rate = pipeline.recipe.train.learning_rate
    another = "" if rate == "auto" else f" --set train.learning_rate={rate / 2:.3g}"
    console.print(
        f"      trainer run {pipeline.recipe_path} --set name={pipeline.recipe.name}-2{another}",
        markup=False,
        soft_wrap=True,
    )


_RESULTS = {
    "report/index.html": "the whole run on one page",
    "eval/predictions.jsonl": "every answer of every arm",
    "decide/index.html": "prompting against tuning",
    "export/adapter": "the adapter, PEFT format",
    "export/merged": "the merged model, plain transformers",
    "export/README.md": "the model card",
}


def _arguments(options: argparse.Namespace) -> str:
    """Return the recipe and what chooses its run, as a fix must repeat them."""
    parts = [options.recipe, *(part for text in options.sets for part in ("--set", without_secrets(text)))]
    return shlex.join(parts + (["--run-dir", options.run_dir] if options.run_dir else []))


def is_worker() -> bool:
    """Tell a process that a launcher started (accelerate, torchrun) by what every launcher sets."""
    return "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def _work(pipeline: Pipeline, verb: str) -> int:
    if verb != "train":
        raise StageError(f"`{verb}` is not launched by accelerate, only `train` is", hint=f"trainer {verb} RECIPE")
    if pipeline.force:
        raise StageError("--force is not for launched processes", hint="trainer train RECIPE --force")
    if LAUNCHED not in os.environ and os.environ.get("RANK", "0") == "0":
        pipeline.open(verb)  # launched from outside: no parent has done it
    pipeline.run_one("train")
    return 0


def _check(pipeline: Pipeline, *, quick: bool) -> int:
    from trainer.verbs.check.command import check

    for line in check(pipeline, quick=quick):
        print(line)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from trainer.verbs.bench.run import Options, run

    return run(Options(options.what, options.quick, options.json_path, options.rows_path, options.shape))


def _say(message: str) -> None:
    print(message, flush=True)


def _print_schema() -> int:
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {"type": "string", "description": "Parent recipe; deep merge, lists replace."}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    print(json.dumps(schema, indent=2))
    return 0


def run_dir_of(recipe: str, name: str, run_dir: str | None) -> Path:
    """Return the run folder: --run-dir, the folder given as recipe, or NAME below TRAINER_RUNS (default `runs`)."""
    if run_dir:
        return Path(run_dir)
    if Path(recipe).is_dir():
        return Path(recipe)
    return Path(os.environ.get("TRAINER_RUNS", "runs")) / name
