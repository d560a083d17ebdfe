"""Run `trainer train`: launch the training processes through accelerate, or be one of them.

`trainer train` starts `accelerate launch -m trainer train RUN`; the same line started by hand is the same run.
Writes `adapter/` or `model/`, `checkpoints/`, `metrics.jsonl`, `exit.json`; `stage.json` last, by the first process.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.disk import cache_dir, disk_errors, memory_failure, read_json, write_json
from trainer.errors import BY_EXIT_CODE, HardwareError, InterruptedRunError, RecipeError, TrainerError
from trainer.lock import exclusive
from trainer.methods.launch import WorkerExit, launch
from trainer.methods.processes import die_with_parent
from trainer.recipe import Recipe
from trainer.recipe.train import LAUNCHED
from trainer.rundir import STARTED_JSON, StageContext

LOCK_WAIT_S = 120
MIN_FREE_BYTES = 64 << 20
BUG = 1


def run(recipe: Recipe, context: StageContext) -> None:
    """Launch the training, or be one of its processes."""
    if context.worker:
        _work(recipe, context)
    else:
        _launch(recipe, context)


def _launch(recipe: Recipe, context: StageContext) -> None:
    """Start the processes and raise what they report.

    Raises:
        TrainerError: Of the kind that ended the training.
    """
    if recipe.launch.num_nodes > 1:
        raise HardwareError(
            f"launch.num_nodes is {recipe.launch.num_nodes}: one machine cannot start the others",
            hint="on each machine: accelerate launch --num_machines N --machine_rank I ... -m trainer train RECIPE",
        )
    context.dir.mkdir(parents=True, exist_ok=True)
    _check_free_space(context.dir)
    exit_path = context.dir / "exit.json"
    try:
        facts = launch(
            recipe.launch,
            context.run.path,
            accept=sorted(context.accepted),
            resume_from=context.resume_from,
            exit_path=exit_path,
        )
    except TrainerError as error:  # the processes could not write it
        write_json(exit_path, {"exit_code": error.exit_code, "message": error.message, "hint": error.hint})
        raise
    code = int(facts["exit_code"])
    if code in (130, 143):
        raise InterruptedRunError(facts["message"], hint=facts["hint"], exit_code=code)
    if code == 2:
        raise RecipeError([], hint=facts["hint"]) if not facts.get("message") else _recipe_error(facts)
    if code:
        raise BY_EXIT_CODE.get(code, TrainerError)(facts["message"], hint=facts["hint"])


def _recipe_error(facts: WorkerExit) -> TrainerError:
    error = TrainerError(facts["message"], hint=facts["hint"])
    error.exit_code = 2
    return error


def _check_free_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise HardwareError(
            f"no space left: {folder} has {free / 2**20:.0f} MiB free, a checkpoint needs more",
            hint="free some space, or choose another place with --run-dir DIR or TRAINER_RUNS=DIR",
        )


# Inside a launched process


def _work(recipe: Recipe, context: StageContext) -> None:
    """Train in this process; the first one holds the folder and completes the stage."""
    die_with_parent()
    is_first = os.environ.get("RANK", "0") == "0"
    exit_path = context.dir / "exit.json"
    with (
        _reported(exit_path, is_first=is_first),
        disk_errors(context.dir),
        _train_folder(context.dir, is_first=is_first),
    ):
        from trainer.methods.context import Job  # noqa: PLC0415  heavy: only workers need it
        from trainer.methods.worker import train  # noqa: PLC0415

        if is_first:
            exit_path.unlink(missing_ok=True)
            write_json(context.dir / STARTED_JSON, context.record.__dict__)
        context.numbers.update(
            train(
                Job(
                    recipe=recipe,
                    pack_dir=context.input("pack"),
                    out_dir=context.dir,
                    cache=cache_dir(),
                    weights={name: digest for name, digest in context.record.inputs.items() if "pack/" not in name},
                    say=context.say,
                    resume_from=context.resume_from,
                    expected_world_size=_expected_processes(recipe, context),
                )
            )
        )
        if is_first:
            context.record.ended = time.time()
            context.run.write_record(context.record)


def _expected_processes(recipe: Recipe, context: StageContext) -> int | None:
    if "world-size" in context.accepted:
        return None
    if recipe.launch.num_processes != "auto":
        return recipe.launch.num_processes * recipe.launch.num_nodes
    launched = os.environ.get(LAUNCHED)
    return int(launched) if launched else None


@contextmanager
def _train_folder(folder: Path, *, is_first: bool) -> Iterator[None]:
    """Hold `train/` in its first process: a killed launcher may leave one behind that is still saving.

    Raises:
        StageError: Another training does not end.
    """
    if not is_first:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    hint = "wait until it ends, or use another run folder: --set name=NEW"
    with exclusive(folder / ".lock", subject=folder, hint=hint, wait_s=LOCK_WAIT_S):
        yield


@contextmanager
def _reported(path: Path, *, is_first: bool) -> Iterator[None]:
    """Write how the training ended: launchers flatten every exit code to 1. The first failure counts."""
    try:
        yield
    except TrainerError as error:
        _write_failure(path, error.exit_code, error.message, error.hint)
        if LAUNCHED in os.environ:
            raise SystemExit(error.exit_code) from error  # the launcher prints it
        raise
    except SystemExit as error:  # a signal, before the first step
        if error.code in (130, 143):
            number = int(error.code) - 128
            message = f"stopped by signal {number} before the first step; nothing is lost"
            _write_failure(path, int(error.code), message, "the same command continues")
        raise
    except Exception as error:
        if failure := memory_failure(error):
            _write_failure(path, failure.exit_code, failure.message, failure.hint)
            raise failure from error
        _write_failure(path, BUG, "a training process met a bug; the traceback above says where", "report it")
        raise
    if is_first:  # the others may end well after the first one has failed
        write_json(path, {"exit_code": 0})


def _write_failure(path: Path, code: int, message: str, hint: str) -> None:
    # what looks like a bug is often the echo of another process that ended
    if not path.is_file() or read_json(path)["exit_code"] in (0, BUG):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"exit_code": code, "message": message, "hint": hint})
