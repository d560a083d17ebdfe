"""Parse the command line, run its verb and turn errors into exit codes. Imports no torch."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import NoReturn

from trainer import __version__
from trainer.disk import memory_failure
from trainer.errors import TrainerError
from trainer.stages import ACCEPTABLE, STAGES

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
    own_arguments, server_arguments = _split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(own_arguments)
    options.passed = server_arguments
    _quiet_environment()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from trainer.verbs.dispatch import run  # noqa: PLC0415  `--help` waits for no recipe

        return run(options)
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
    except Exception as error:
        if failure := memory_failure(error):
            print(f"error: {failure.message}\nfix: {failure.hint}", file=sys.stderr)
            return failure.exit_code
        traceback.print_exc()
        print("error: this is a bug of recipe-trainer; the traceback above says where", file=sys.stderr)
        return 1


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments of this command, and those that `serve` hands on to the server: all after `--`.

    Example:
        >>> _split(["serve", "RECIPE", "--", "--max-model-len", "4096"])
        (['serve', 'RECIPE'], ['--max-model-len', '4096'])
    """
    if arguments[:1] != ["serve"] or "--" not in arguments:
        return arguments, []
    end = arguments.index("--")
    return arguments[:end], arguments[end + 1 :]


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
    checker = _recipe_verb(verbs, "check", "everything that can be known before spending time")
    checker.add_argument("--quick", action="store_true", help="do not open the model")
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
        "--accept", action="append", default=[], choices=ACCEPTABLE, help="override one refusal; it is recorded"
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
    parser.add_argument("--add-to-suite", metavar="FILE", help="suite that the row of --row becomes an item of")


def _verify_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "hash an exported folder again and check it against its lists of files, anywhere"
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
    serve.add_argument("--python", metavar="FILE", help="Python of the environment that has vLLM, or xllamacpp")
    serve.epilog = "What stands after -- goes to the server itself; see docs/serve.md."
