"""LoRA layers: PEFT's own forward against one product, in the loop that `trainer train` builds, for LoRA and QLoRA.

    PYTHONPATH=scripts python scripts/bench/lora.py [--rounds 5] [--shape tiny] [--length 1024]

Each training is a process of its own with one thread; the two take turns. Prints medians of tokens per cpu-second (on a
card: per second) and of peak memory, and stops where the first losses or gradients of the two differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from acceptance import models
from acceptance.training import Rig, Setting
from acceptance.workplace import Workplace

from trainer.verbs.bench.shapes import SHAPES

KINDS = ("lora", "qlora")
FORWARDS = ("peft", "product")
TOLERANCE = 1e-3


def measure(kind: str, forward: str, shape: str, length: int) -> dict[str, float]:
    """Train a few steps of one micro-batch in this process."""
    with tempfile.TemporaryDirectory() as folder:
        workplace = Workplace(Path(folder), "real")
        models.make_model(workplace.folder / "model", "correctness", "tiny")
        keys = ("train.global_batch_size=2", "train.micro_batch_size=2", "train.gradient_checkpointing=false")
        rig = Rig(workplace, SHAPES[shape], kind, length)
        results = rig.train(Setting(keys, "product" if forward == "peft" else None))
    return {name: getattr(results, name) for name in ("tokens_per_s", "peak_bytes", "loss", "grad_norm")}


def in_process(*arguments: str) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, "--one", *arguments]
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    answer: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", default="tiny", choices=SHAPES)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "FORWARD"), help="one training, in this process")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(*chosen.one, chosen.shape, chosen.length)))
        return
    same = ("--shape", chosen.shape, "--length", str(chosen.length))
    for kind in KINDS:
        results: dict[str, list[dict[str, Any]]] = {forward: [] for forward in FORWARDS}
        for number in range(chosen.rounds):
            for forward in FORWARDS if number % 2 == 0 else FORWARDS[::-1]:
                results[forward].append(in_process(kind, forward, *same))
        for name in ("loss", "grad_norm"):
            values = [training[name] for trainings in results.values() for training in trainings]
            assert min(values) > 0 and max(values) - min(values) < TOLERANCE * max(values), (name, values)
        speed = {
            forward: median(training["tokens_per_s"] for training in trainings)
            for forward, trainings in results.items()
        }
        peak = {
            forward: median(training["peak_bytes"] for training in trainings) / 2**20
            for forward, trainings in results.items()
        }
        for forward in FORWARDS:
            print(f"{kind:6} {forward:8} {speed[forward]:8.0f} tokens/s {peak[forward]:7.0f} MiB")
        print(f"{kind:6} {speed['product'] / speed['peft']:.3f} x speed, {peak['product'] / peak['peft']:.3f} x memory")


if __name__ == "__main__":
    main()
