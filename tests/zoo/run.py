"""Take the tiny model of a type through the stages in this process, and tell what came of it.

Rows are packed whatever their number, so that a run shows whether the type can be packed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import orjson

from tests import tiny
from tests.command import TIMEOUT_S, Project, Result
from tests.zoo import models

VERBS = ("data", "pack", "train", "eval", "export")
RECIPE: dict[str, Any] = {
    "adapter": {"kind": "lora", "r": 4},
    "train": {"max_steps": 3},
    "data": {"split": {"heldout": 0.3}},
    "eval": {"max_rows": 4, "max_new_tokens": 8, "latency_rows": 0, "retention": {"num_prompts": 0}},
    "export": {"formats": ["adapter", "merged"]},
}
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0", "--num_processes")


def run_type(
    model_type: str,
    folder: Path,
    tokenizer: Any,
    *,
    verbs: Sequence[str] = VERBS,
    method: str = "sft",
    processes: int = 1,
    data: Path | None = None,
) -> dict[str, Any]:
    """Build the model of a type and call the verbs.

    Args:
        model_type: A key of shapes.json.
        folder: Takes the model and the run.
        tokenizer: Of `tiny.make_tokenizer`.
        verbs: A start of `VERBS`.
        method: `method.kind` of the recipe.
        processes: Of the training.
        data: Folder `data` of an earlier run with this method; it is used again.

    Returns:
        `verb` is the last one that was called, `done` after all; `log` is what they printed. `error`, with `code` or
        `traceback`, of a verb that fails; `facts` of a training, `verify` of an export.
    """
    result: dict[str, Any] = {"type": model_type, "verb": "build", "log": ""}
    try:
        models.write(model_type, folder / "model", tokenizer)
        tiny.write_recipe(folder / "project", model=folder / "model", method={"kind": method}, **RECIPE)
        project = Project(folder / "project")
        if data:
            shutil.copytree(data, project.run / "data")
        for verb in verbs:
            result["verb"] = verb
            ended = _call(project, verb, processes)
            result["log"] += ended.text
            if ended.code:
                return result | {"code": ended.code, "error": _error_line(ended.text)}
            if verb == "train":
                result["facts"] = orjson.loads((project.run / "train/stage.json").read_bytes())["numbers"]
                assert result["facts"]["num_processes"] == processes
    except Exception as error:  # a bug of recipe-trainer, or of transformers
        text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return result | {"error": text, "traceback": traceback.format_exc()[-3000:]}
    if "export" in verbs:
        result["verify"] = orjson.loads((project.run / "export/verify.json").read_bytes())
    return result | {"verb": "done"}


def _call(project: Project, verb: str, processes: int) -> Result:
    if verb == "train" and processes > 1:
        return _train_launched(project, processes)
    with mock.patch("trainer.stages.pack.PACK_FROM_ROWS", 2):
        return project.call(verb, worker=verb == "train")


def _train_launched(project: Project, processes: int) -> Result:
    """Train in several processes on the CPU; gloo connects them."""
    from tests.command import finish

    command = (*LAUNCH, str(processes), "-m", "trainer", "train", str(project.recipe))
    return finish(project.start(*command, ACCELERATE_USE_CPU="true", PYTHONPATH=os.pathsep.join(sys.path)))


def _error_line(text: str) -> str:
    lines = text.splitlines()
    errors = [line for line in lines if line.startswith("error")] or [line for line in lines if "Error" in line]
    return (errors or lines[-1:] or [f"nothing printed within {TIMEOUT_S} s"])[0][:400]


def engine_path(log: str) -> str:
    """Return how rows reached the model, with the reason where they are padded."""
    if "train: no padding" in log:
        return "flat"
    reason = re.search(r"rows are padded: (.*)", log)
    return f"padded: {reason[1]}" if reason else "-"


def packing(log: str) -> str:
    """Return yes, or why rows are not packed."""
    reason = re.search(r"train: not packed: (.*)", log)
    return f"no: {reason[1]}" if reason else "yes"
