"""Take a tiny model of every model type through data, pack, train, eval and export, and write what came of it.

    python scripts/zoo.py [--types llama,gemma3] [--out FOLDER] [--table docs/models.md]

Each type runs in a process of its own with a time limit. Results stay in FOLDER, so that an ended run goes on with the
types that are missing. `--table` writes the table for docs/models.md from all results of FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[name] = "1"
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402  after the threads are set

from tests import tiny  # noqa: E402
from tests.command import Project  # noqa: E402
from tests.zoo import models  # noqa: E402

VERBS = ("data", "pack", "train", "eval", "export")
LIMIT_S = 300
MARKER = "<!-- the table is written by scripts/zoo.py --table docs/models.md -->"
RECIPE: dict[str, Any] = {
    "adapter": {"kind": "lora", "r": 4},
    "train": {"max_steps": 3},
    "data": {"split": {"heldout": 0.3}},
    "eval": {"max_rows": 4, "max_new_tokens": 8, "latency_rows": 0, "retention": {"num_prompts": 0}},
    "export": {"formats": ["adapter", "merged"]},
}


def run_type(model_type: str, folder: Path) -> dict[str, Any]:
    """Build the model of a type and call the verbs; return what they printed."""
    result: dict[str, Any] = {"type": model_type, "verb": "build", "log": ""}
    try:
        models.write(model_type, folder / "model", tiny.make_tokenizer())
    except Exception as error:
        return result | {"error": _first_line(error)}
    tiny.write_recipe(folder / "project", model=folder / "model", **RECIPE)
    project = Project(folder / "project")
    for verb in VERBS:
        result["verb"] = verb
        try:
            ended = project.call(verb, worker=verb == "train")
        except Exception as error:
            result["traceback"] = traceback.format_exc()[-2000:]
            return result | {"error": _first_line(error)}
        result["log"] += ended.text
        if ended.code:
            lines = [line for line in ended.text.splitlines() if line.startswith("error")]
            return result | {"code": ended.code, "error": (lines or ended.text.splitlines()[-1:])[0][:300]}
    verified = json.loads((project.run / "export/verify.json").read_text())
    return result | {"verb": "done", "verify": verified, "memory": _memory_known(result["log"])}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _memory_known(log: str) -> bool:
    return "peak predicted" in log


def in_child(model_type: str, out: Path) -> dict[str, Any]:
    """Run a type in a forked process within the time limit."""
    path, folder = out / f"{model_type}.json", out / model_type
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began, pid = time.monotonic(), os.fork()
    if pid == 0:
        signal.alarm(LIMIT_S)
        torch.set_num_threads(1)
        os.environ["TRAINER_CACHE"] = str(out / "cache")
        path.write_text(json.dumps(run_type(model_type, folder), indent=1, default=str))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        path.write_text(json.dumps({"type": model_type, "verb": "killed", "error": f"status {status}", "log": ""}))
    shutil.rmtree(folder, ignore_errors=True)
    result: dict[str, Any] = json.loads(path.read_text())
    print(f"{model_type}: {result['verb']} {result.get('error', '')} {time.monotonic() - began:.0f} s", flush=True)
    return result


def row(result: dict[str, Any]) -> str:
    """Return the line of docs/models.md about one type."""
    log = result.get("log", "")
    path = "flat" if "no padding" in log else "padded" if "rows are padded" in log else "-"
    layers = re.search(r"in (\d+) of (\d+) linear layers", log)
    outcome = "ok" if result["verb"] == "done" else f"{result['verb']}: {result.get('error', '')}"
    memory = "predicted" if result.get("memory") else "not predicted"
    return (
        f"| {result['type']} | {path} | {'/'.join(layers.groups()) if layers else '-'} | {memory} | "
        f"{outcome.replace('|', '/')} |"
    )


def main() -> None:
    """Run the types that have no result yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(models.MODEL_TYPES))
    parser.add_argument("--out", type=Path, default=Path("zoo"))
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    for model_type in options.types.split(","):
        if not (options.out / f"{model_type}.json").exists():
            in_child(model_type, options.out)
    results = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
    jobs = sum(result["verb"] == "done" for result in results)
    print(f"{jobs} of {len(results)} end with a proven merge")
    if options.table:
        page, marker, _ = options.table.read_text(encoding="utf-8").partition(MARKER)
        assert marker, f"{options.table} has no line {MARKER}"
        head = "| model type | rows | adapted | memory | outcome |\n|---|---|---|---|---|\n"
        table = head + "\n".join(map(row, results)) + "\n"
        count = f"{jobs} of {len(results)} types end with a proven merge."
        options.table.write_text(f"{page}{MARKER}\n\n{count}\n\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()
