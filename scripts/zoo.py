"""Take a tiny model of every model type through data, pack, train, eval and export, and write what came of it.

    python scripts/zoo.py [--types llama,gemma3] [--out FOLDER] [--table docs/models.md] [--method dpo] [--processes 2]

Each type runs in a forked process with a time limit. Results stay in FOLDER, so that an ended run goes on with the
types that are missing. `--table` writes the table for docs/models.md from all results of FOLDER.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
os.environ |= {"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from tests import tiny
from tests.zoo import models
from tests.zoo.run import engine_path, packing, run_type

MEMORY = Path(__file__).parents[1] / "benchmarks/results/memory.json"
MARKER = "<!-- the table is written by scripts/zoo.py --table docs/models.md -->"
HEAD = """| model type | rows | packed | adapted | memory | outcome |
|---|---|---|---|---|---|
"""
LIMIT_S = 300
"""Of processor time: the machine may be busy."""


def warm_up(folder: Path, tokenizer: Any, method: str) -> Path:
    """Import everything once, before the processes are forked; return the folder with the data of all types."""
    torch.set_num_threads(1)
    result = run_type("llama", folder, tokenizer, method=method)
    assert result["verb"] == "done", result
    gc.collect()
    gc.freeze()  # keeps the garbage collector off what is imported
    return folder / "project/runs/tiny/data"


def in_child(model_type: str, out: Path, tokenizer: Any, **options: Any) -> None:
    """Run a type in a forked process within the time limit; write its result."""
    path, folder = out / f"{model_type}.json", out / model_type
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
        result = run_type(model_type, folder, tokenizer, **options)
        path.write_text(json.dumps(result, indent=1, default=str))
        os._exit(0)
    _, status, used = os.wait4(pid, 0)
    if status:
        path.write_text(json.dumps({"type": model_type, "verb": "killed", "error": f"status {status}", "log": ""}))
    shutil.rmtree(folder, ignore_errors=True)
    result = json.loads(path.read_text())
    print(f"{model_type}: {result['verb']} {result.get('error', '')} {used.ru_utime + used.ru_stime:.0f} s", flush=True)


def row(result: dict[str, Any]) -> str:
    """Return the line of docs/models.md about one type."""
    log = result["log"]
    layers = re.search(r"in (\d+) of (\d+) linear layers", log)
    cells = [result["type"], engine_path(log), packing(log) if "train: step 1/" in log else "-"]
    cells.append("/".join(layers.groups()) if layers else "-")
    cells.append(memory(result["type"]))
    cells.append("ok" if result["verb"] == "done" else f"{result['verb']}: {result['error']}")
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def memory(model_type: str) -> str:
    """Return predicted / measured bytes of a step, as scripts/memory.py found them."""
    result = json.loads(MEMORY.read_text(encoding="utf-8")).get(model_type, {})
    return f"{result['predicted'] / result['measured']:.2f}" if "measured" in result else "not predicted"


def write_table(page: Path, results: list[dict[str, Any]]) -> None:
    """Replace the table of docs/models.md."""
    text, marker, _ = page.read_text(encoding="utf-8").partition(MARKER)
    assert marker, f"{page} has no line {MARKER}"
    done = sum(result["verb"] == "done" for result in results)
    flat = sum(engine_path(result["log"]) == "flat" for result in results)
    count = f"{done} of {len(results)} types end with a proven merge; rows of {flat} follow each other in flat batches."
    table = HEAD + "\n".join(map(row, results)) + "\n"
    page.write_text(f"{text}{MARKER}\n\n{count}\n\n{table}", encoding="utf-8")


def main() -> None:
    """Run the types that have no result yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(models.MODEL_TYPES))
    parser.add_argument("--out", type=Path, default=Path("zoo"))
    parser.add_argument("--table", type=Path, help="page to write the table of all results into")
    parser.add_argument("--method", default="sft")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    types = options.types.split(",")
    if unknown := set(types) - set(models.MODEL_TYPES):
        parser.error(f"no such model types: {', '.join(sorted(unknown))}")
    missing = [name for name in types if not (options.out / f"{name}.json").exists()]
    tokenizer = tiny.make_tokenizer()
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TRAINER_CACHE"] = f"{folder}/cache"
            data = warm_up(Path(folder), tokenizer, options.method)
            for name in missing:
                in_child(name, options.out, tokenizer, method=options.method, processes=options.processes, data=data)
    results = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
    print(f"{sum(result['verb'] == 'done' for result in results)} of {len(results)} end with a proven merge")
    if options.table:
        write_table(options.table, results)


if __name__ == "__main__":
    main()
