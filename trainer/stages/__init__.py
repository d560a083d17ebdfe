"""Describe the verbs of the pipeline: one file each, `run(recipe, context) -> None`.

This table is their one description: the command line, the run folder and the fingerprints are made from it.
Importing it imports no stage; `load` does, by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:  # this table is all that `--help` reads
    from trainer.recipe import Recipe
    from trainer.rundir import StageContext

ACCEPTABLE = ("changed-recipe", "failed-gate", "world-size")
"""Refusals that `--accept` may override."""


class RunStage(Protocol):
    """What every file of this folder offers."""

    def __call__(self, recipe: Recipe, context: StageContext) -> None:
        """Read the inputs, write the outputs."""


@dataclass(frozen=True)
class Stage:
    """One verb: its section of the recipe, what it needs, and the version of what it writes."""

    name: str
    help: str
    version: int
    sections: tuple[str, ...]
    """Dotted keys whose values are part of the fingerprint."""
    ignored: frozenset[str] = frozenset()
    """Dotted keys below them that are not: paths (their content counts instead) and what changes no result."""
    needs: tuple[str, ...] = ()
    """Stages whose outputs it reads."""
    reads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Files of those stages that are part of the fingerprint."""
    outside: tuple[str, ...] = ()
    """Groups of files outside the run folder that are read; `pipeline` knows them."""


_ROWS = ("train.jsonl", "validation.jsonl", "heldout.jsonl")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="data",
            help="read, clean, dedupe and split the rows",
            version=3,
            sections=("data", "method.kind"),
            ignored=frozenset(
                {
                    "data.sources.*.path",
                    "data.system_prompt.path",
                    "data.split.validation_path",
                    "data.split.heldout_path",
                    "data.contamination.files",
                }
            ),
            outside=("rows",),
        ),
        Stage(
            name="pack",
            help="turn rows into token ids and loss masks, and pack them",
            version=4,
            sections=(
                "pack",
                "method.kind",
                "model.chat_template_kwargs",
                "seed",
                "data.lint",
                "train.global_batch_size",
                "train.num_train_epochs",
                "train.max_steps",
            ),
            needs=("data",),
            reads={"data": _ROWS},
            outside=("tokenizer",),
        ),
        Stage(
            name="train",
            help="train the adapter or the model, launched by accelerate",
            version=1,
            sections=("model", "adapter", "method", "train", "seed"),
            ignored=frozenset(
                {
                    "model.name_or_path",
                    "model.revision",
                    "model.chat_template",
                    "model.chat_template_prefix",
                    "adapter.init_from",
                    "train.logging_steps",
                    "train.save_total_limit",
                }
            ),
            needs=("data", "pack"),
            reads={"pack": ("train.safetensors", "validation.safetensors", "packs.safetensors")},
            outside=("weights", "start_adapter"),
        ),
        Stage(
            name="eval",
            help="compare base, prompted and tuned on the held-out rows",
            version=3,
            sections=("eval", "model.dtype", "model.chat_template_kwargs", "seed"),
            ignored=frozenset(
                {
                    "eval.arms.*.prompt.path",
                    "eval.arms.*.shots.path",
                    "eval.arms.*.documents.path",
                    "eval.suites",
                    "eval.retention.prompts",
                }
            ),
            needs=("data", "pack", "train"),
            reads={"data": ("train.jsonl", "heldout.jsonl"), "pack": ("heldout.safetensors",), "train": ("@weights",)},
            outside=("weights", "tokenizer", "start_adapter", "eval_files"),
        ),
        Stage(
            name="decide",
            help="say whether tuning pays against prompting",
            version=1,
            sections=("decide",),
            needs=("data", "pack", "eval"),
            reads={"data": ("stage.json",), "eval": ("scores.json", "predictions.jsonl"), "train": ("stage.json",)},
        ),
        Stage(
            name="export",
            help="write every wanted format, reopened by a fresh process and proven",
            version=2,
            sections=("export", "model.dtype", "model.chat_template_kwargs", "adapter.kind", "name"),
            needs=("data", "pack", "train", "eval"),
            reads={
                "pack": ("heldout.safetensors",),
                "train": ("@weights",),
                "eval": ("scores.json", "gates.json", "predictions.jsonl"),
            },
            outside=("weights", "tokenizer"),
        ),
        Stage(
            name="report",
            help="write one page about the whole run",
            version=2,
            sections=("name",),
            reads={stage: ("stage.json",) for stage in ("data", "pack", "train", "eval", "decide", "export")},
        ),
    )
}


def load(name: str) -> RunStage:
    """Import a stage and return its `run`; the one place where an import is made from a name."""
    return cast("RunStage", importlib.import_module(f"trainer.stages.{name}").run)


def select(values: Mapping[str, object], stage: Stage) -> Iterator[tuple[str, object]]:
    """Yield the leaves (`a.b.c`, value) of the sections that a stage reads.

    Example:
        Lists of objects are numbered; ignored keys are named with `*` for the number.

        >>> stage = Stage("data", help="", version=1, sections=("data",), ignored=frozenset({"data.sources.*.path"}))
        >>> dict(select({"data": {"sources": [{"path": "a.jsonl", "repeat": 2.0}]}, "seed": 0}, stage))
        {'data.sources.0.repeat': 2.0}
    """

    def leaves(key: str, value: object, pattern: str) -> Iterator[tuple[str, object]]:
        if pattern in stage.ignored:
            return
        if isinstance(value, dict) and value:
            for name in sorted(value):
                yield from leaves(f"{key}.{name}", value[name], f"{pattern}.{name}")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                yield from leaves(f"{key}.{index}", item, f"{pattern}.*")
        else:
            yield key, value

    for section in stage.sections:
        value: object = values
        for part in section.split("."):
            assert isinstance(value, Mapping)
            value = value[part]
        yield from leaves(section, value, section)
