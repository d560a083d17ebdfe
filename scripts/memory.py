"""Compare the predicted memory of a training step with what torch's profiler sees, for tiny models of many types.

    python scripts/memory.py [--types llama,gemma3] [--out benchmarks/results/memory.json]

Results stay in the file, so that an ended run goes on with the types that are missing. Predicted: traced without
weights on one and two items, extrapolated to four. Measured: one forward and backward pass of four items on the CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[name] = "1"
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402  after the threads are set

from tests.zoo import models  # noqa: E402
from tests.zoo.memory import compare  # noqa: E402

LIMIT_S = 600


def _stop(*_: object) -> None:
    raise TimeoutError(f"over {LIMIT_S} s")


def main() -> None:
    """Compare the types that have no result yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=",".join(models.MODEL_TYPES))
    parser.add_argument("--out", type=Path, default=Path("memory.json"))
    options = parser.parse_args()
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _stop)
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for model_type in options.types.split(","):
        if model_type in results:
            continue
        began = time.monotonic()
        signal.alarm(LIMIT_S)
        try:
            results[model_type] = compare(model_type)
        except Exception as error:  # the table says which types cannot be traced, and why
            results[model_type] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
        signal.alarm(0)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(model_type, results[model_type], f"{time.monotonic() - began:.0f} s", flush=True)
    print("| model type | rows | predicted MB | measured MB | ratio |\n|---|---|---|---|---|")
    ratios = []
    for model_type, result in sorted(results.items()):
        if "error" in result:
            print(f"| {model_type} | | not predicted: {result['error']} | | |")
            continue
        ratios.append(result["predicted"] / result["measured"])
        megabytes = [f"{result[key] / 1e6:.2f}" for key in ("predicted", "measured")]
        print(f"| {model_type} | {result['rows']} | {' | '.join(megabytes)} | {ratios[-1]:.3f} |")
    within = sum(0.9 <= ratio <= 1.1 for ratio in ratios)
    print(f"{within} of {len(results)} types are predicted within a tenth")


if __name__ == "__main__":
    main()
