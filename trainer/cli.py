"""The command line: verbs from the table of stages, errors, exit codes. Imports no torch."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import signal
import sys
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from trainer import __version__
from trainer.errors import GateError, StageError, TrainerError
from trainer.pipeline import ACCEPTABLE, Pipeline
from trainer.recipe import Recipe, load_recipe
from trainer.recipe.train import LAUNCHED
from trainer.rundir import RunFolder, read_json
from trainer.stages import STAGES

EPILOG = """\
examples:
  trainer run recipes/quickstart.yaml                     everything, finished stages are skipped
  trainer run recipes/lora-sft.yaml --set train.learning_rate=1e-4 --set name=lr-1e-4
  trainer check recipes/qlora-sft.yaml                    what can be known before spending time
  accelerate launch -m trainer train recipes/lora-sft.yaml
  trainer bench sft --quick                               this engine against TRL, on this machine

exit codes: 0 done, 1 our bug, 2 recipe, 3 data, 4 stage, 5 hardware or environment, 6 quality gate,
7 diverged, 130 interrupted, 143 terminated (both with the state saved)
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    options = _parser().parse_args(arguments)
    _quiet_environment()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _dispatch(options)
    except TrainerError as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error.message}\nfix: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what a shell reports for SIGPIPE: the work is not done
    except Exception:
        traceback.print_exc()
        print("error: this is a bug of recipe-trainer; the traceback above says where", file=sys.stderr)
        return 1


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def _quiet_environment() -> None:
    """No telemetry, no code from hub kernels, no advice of libraries between our lines."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["USE_HUB_KERNELS"] = "0"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainer",
        description="From a recipe and rows to a fine-tuned, evaluated and exported model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"recipe-trainer {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for stage in STAGES.values():
        parser_of = _recipe_verb(verbs, stage.name, stage.help)
        if stage.name == "eval":
            _eval_alone(parser_of)
    _recipe_verb(verbs, "run", "all of the above in order; finished stages are skipped")
    _recipe_verb(verbs, "check", "everything that can be known before spending time")
    _inspect_verb(verbs)
    _verify_verb(verbs)
    _bench_verb(verbs)
    _serving_verbs(verbs)
    schema = verbs.add_parser("schema", help="print the JSON schema of recipes, for editors")
    schema.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _eval_alone(parser: argparse.ArgumentParser) -> None:
    alone = parser.add_argument_group(
        "without a recipe", "RECIPE is a model, an adapter folder or an http(s) address; or a run, with --against"
    )
    alone.add_argument("--suite", action="append", default=[], metavar="FILE", help="suite to run on it")
    alone.add_argument("--against", metavar="RUN", help="compare the tuned answers of RECIPE, a run, with this run's")
    alone.add_argument("--base", metavar="MODEL", help="base model of an adapter folder")
    alone.add_argument("--model", metavar="NAME", help="name of the model at an address")
    alone.add_argument("--out", metavar="DIR", help="folder for scores.json and every answer")


def _recipe_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = _on_recipe(verbs, name, text)
    parser.add_argument("--force", action="store_true", help="do the stage again although it is up to date")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        choices=ACCEPTABLE,
        help="override one refusal; it is recorded",
    )
    parser.add_argument("--resume-from", metavar="step_N", help="checkpoint to continue from; the newest by default")
    return parser


def _on_recipe(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("recipe", metavar="RECIPE", help="recipe file, or a run folder (its resolved recipe)")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY.PATH=VALUE", help="override one key"
    )
    parser.add_argument("--run-dir", metavar="DIR", help="run folder; runs/NAME by default")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _inspect_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _on_recipe(verbs, "inspect", "show rows as the model sees them, what is trained standing out")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--row", metavar="ID", help="place of a row, FILE:LINE, or LINE alone")
    chosen.add_argument("--rule", metavar="RULE", help="rows that break a rule of data/report.json, such as Q008")
    chosen.add_argument("--flag", metavar="NAME", help="kind of row, such as refusal, or label-errors after a training")
    chosen.add_argument(
        "--rejected", nargs="?", const="", metavar="REASON", help="rows left out, beside the rows that were kept"
    )
    parser.add_argument("--limit", type=int, default=5, metavar="N", help="rows shown; 5 by default")


def _verify_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "hash an exported folder again and check it against its provenance.json, anywhere"
    parser = verbs.add_parser("verify", help=text, description=text)
    parser.add_argument("folder", metavar="FOLDER", help="folder of one format, of an export, or of a run")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _bench_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "compare training engines on this machine: same model, rows and step"
    parser = verbs.add_parser("bench", help=text, description=text)
    parser.add_argument("what", choices=("sft", "dpo", "pack"), help="what is compared")
    parser.add_argument("--quick", action="store_true", help="ours and TRL's default only, in less than a minute")
    parser.add_argument(
        "--json", dest="json_path", metavar="FILE", help="write the result there instead of printing it"
    )
    parser.add_argument(
        "--rows", dest="rows_path", metavar="FILE", help="JSONL rows to train on; random words by default"
    )
    parser.add_argument(
        "--shape", choices=("tiny", "1b", "8b"), default="tiny", help="size of the model; tiny by default"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _serving_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    predict = _on_recipe(verbs, "predict", "answer the rows of a file with the tuned model; resumable")
    predict.add_argument("input", metavar="INPUT", help="rows: JSON lines, JSON, CSV or parquet")
    predict.add_argument("output", metavar="OUTPUT", help="JSONL file of the answers")
    predict.add_argument("--schema", metavar="FILE", help="JSON Schema that every answer must meet")
    chat = _on_recipe(verbs, "chat", "talk to the tuned model in the terminal")
    chat.add_argument("--base", action="store_true", help="show the untuned model's answer as well")
    for parser in (predict, chat):
        parser.add_argument("--merged", action="store_true", help="use export/merged, not what training wrote")
    serve = _on_recipe(verbs, "serve", "start an OpenAI-compatible endpoint and see that it answers as the tuned model")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine alone by default")
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="8000 by default; 0 takes a free one")
    serve.add_argument(
        "--engine", choices=("auto", "vllm", "transformers", "llama.cpp"), default="auto", help="server that answers"
    )
    serve.add_argument("--python", metavar="FILE", help="Python of the environment that vLLM is installed in")


def _dispatch(options: argparse.Namespace) -> int:
    if options.verb == "schema":
        return _print_schema()
    if options.verb == "bench":
        return _bench(options)
    if options.verb == "verify":
        return _verify(Path(options.folder))
    if options.verb == "eval" and (options.suite or options.against):
        return _alone(options)
    recipe = load_recipe(options.recipe, sets=options.sets)
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
        return _check(pipeline)
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
    provenance: Any = importlib.import_module("trainer.model.provenance")
    found = [provenance.examine(place) for place in provenance.exports_in(folder)]
    for one in found:
        state = "FAILED" if one.findings else "ok"
        print(f"{one.folder}: {state}, {one.kind}, {one.num_files} files, {one.num_bytes / 1e6:,.1f} MB")
        print(f"  provenance {one.digest}")
        for finding in one.findings:
            print(f"  {finding}")
    failed = [one for one in found if one.findings]
    if failed:
        raise GateError(
            f"{failed[0].folder} is not what was exported: {failed[0].findings[0]}",
            hint="do not serve it: copy the folder again, or trainer export RECIPE --force",
        )
    return 0


def _alone(options: argparse.Namespace) -> int:
    alone: Any = importlib.import_module("trainer.inspect.alone")
    if options.against:
        for found in alone.compare_runs(Path(options.recipe), Path(options.against)):
            print(f"{found['metric']}: {found['sentence']}")
        return 0
    target = alone.Target(options.recipe, base=options.base, name=options.model)
    alone.evaluate_alone(target, options.suite, Path(options.out) if options.out else None)
    return 0


def _inspect(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    command: Any = importlib.import_module("trainer.inspect.command")  # the libraries of the data floor are slow
    wanted = command.Wanted(options.row, options.rule, options.flag, options.rejected, options.limit)
    command.inspect(recipe, run, wanted, arguments=_arguments(options))
    return 0


def _serve(options: argparse.Namespace, recipe: Recipe, run: RunFolder) -> int:
    verb: Any = importlib.import_module(f"trainer.serve.{options.verb}")  # by name: models are slow to import
    arguments = _arguments(options)
    if options.verb == "predict":
        schema = Path(options.schema) if options.schema else None
        wanted = verb.Wanted(Path(options.input), Path(options.output), schema, options.merged)
        verb.predict(recipe, run, wanted, arguments=arguments, say=_say)
        return 0
    if options.verb == "chat":
        verb.chat(recipe, run, arguments=arguments, merged=options.merged, with_base=options.base)
        return 0
    wanted = verb.Wanted(options.host, options.port, options.engine, options.python)
    return int(verb.serve(recipe, run, wanted, arguments=arguments, say=_say))


_ON_RUNS = {"inspect": _inspect, "predict": _serve, "chat": _serve, "serve": _serve}


def _summary(pipeline: Pipeline) -> None:
    """Print the closing table, where everything lies and what to type next, for a run that has scores."""
    from rich.console import Console  # noqa: PLC0415  costs half of `--help`

    from trainer.render.terminal import arms_table, scores_table  # noqa: PLC0415

    run_dir = pipeline.run.path
    scores_path = run_dir / "eval" / "scores.json"
    if not scores_path.is_file() or pipeline.run.record("report") is None:
        return
    scores = read_json(scores_path)
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    console.print()
    console.print(scores_table(scores))
    if len(scores["arms"]) > 2:
        console.print()
        console.print(arms_table(scores))
    frequent = scores.get("most_frequent_answer")
    if frequent:
        console.print(
            f"always answering {frequent['text']} would be right in {frequent['exact_match']:.1%}", markup=False
        )
    console.print()
    for name, text in _PLACES.items():
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


_PLACES = {
    "report/index.html": "the whole run on one page",
    "eval/predictions.jsonl": "every answer of every arm",
    "decide/index.html": "prompting against tuning",
    "export/adapter": "the adapter, PEFT format",
    "export/merged": "the merged model, plain transformers",
    "export/README.md": "the model card",
}


def _arguments(options: argparse.Namespace) -> str:
    """Return the recipe and what chooses its run, as a fix must repeat them."""
    parts = [options.recipe, *(part for text in options.sets for part in ("--set", text))]
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


def _check(pipeline: Pipeline) -> int:
    for line in pipeline.check():
        print(line)
    return 0


def _bench(options: argparse.Namespace) -> int:
    run = importlib.import_module("trainer.bench.run")  # by name: the command line itself needs none of it
    return int(run.run(run.Options(options.what, options.quick, options.json_path, options.rows_path, options.shape)))


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
