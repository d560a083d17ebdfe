"""List the engines of a comparison: name, description, required package, device."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, cast

from trainer.verbs.bench.task import Task, Training

OURS = "ours"
TRL = "trl"
PLAIN = "transformers"


class Build(Protocol):
    """What every module of this folder offers."""

    def __call__(self, task: Task, variant: str) -> Training:
        """Load the model and make everything ready for the first step."""


@dataclass(frozen=True)
class BenchEngine:
    """One engine."""

    name: str
    text: str
    module: str
    variant: str = "default"
    package: str | None = None
    """Package that must be installed besides what the project needs."""
    precisions: tuple[str, ...] = ("native",)
    """Types to try on the CPU; the fastest is kept."""
    needs_cuda: bool = False

    def is_installed(self) -> bool:
        """Tell whether its package is there."""
        return self.package is None or find_spec(self.package) is not None


ENGINES = {
    engine.name: engine
    for engine in (
        BenchEngine(OURS, "this project, as `trainer train` runs it", "ours"),
        BenchEngine(TRL, "TRL with its defaults", "trl"),
        BenchEngine(
            "trl-best",
            "TRL at its best: packing (sft) or reference computed once (dpo), no recomputation",
            "trl",
            variant="best",
            precisions=("float32", "bfloat16"),
        ),
        BenchEngine(PLAIN, "transformers and PEFT in a plain loop, padded", "plain"),
        BenchEngine("liger", "TRL at its best with Liger's layers", "trl", "liger", "liger_kernel", needs_cuda=True),
    )
}
UNWIRED = {
    "unsloth": "not compared: caps trl <= 1.15, so that it cannot share an environment with the others",
    "axolotl": "not compared: its kernels come with a trainer that pins another trl",
}


def load(engine: BenchEngine) -> Build:
    """Import an engine; only its own process does."""
    return cast(Build, importlib.import_module(f"trainer.verbs.bench.engines.{engine.module}").build)
