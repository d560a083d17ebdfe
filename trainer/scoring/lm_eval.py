"""Tasks of lm-evaluation-harness on a model that is loaded already: the extra `lm-eval`.

Only task files of the folder that the suite names are known to it. The harness writes the prompts, the chat template is
not used, and it marks the answers; scores, intervals and comparisons are ours.
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import DataError, HardwareError
from trainer.recipe.suite import ItemFile, LmEvalTasks, Suite
from trainer.scoring.gates.ranges import HARNESS_SHARES
from trainer.scoring.questions.suite import SuiteItems, read_items
from trainer.scoring.results import ArmResults, figure
from trainer.scoring.statistics.intervals import Score
from trainer.scoring.statistics.measurements import Evidence

BATCH_SIZE = 8


@dataclass
class TaskResults:
    """What an arm did on tasks, by `TASK.METRIC`; `TASK.METRIC.FILTER` where answers are filtered in several ways."""

    measured: dict[str, Evidence] = field(default_factory=dict)
    """Metrics that are the mean over items, more being better."""
    figures: dict[str, Score] = field(default_factory=dict)
    """All others, perplexities for example: one number without an interval."""


def read_suite(suite: Suite) -> SuiteItems:
    """Read the items of a suite, and keep its tasks apart; it may have tasks alone.

    Raises:
        DataError: As `read_items`.
        HardwareError: It names tasks, and lm-evaluation-harness is not installed.
    """
    tasks = [source for source in suite.sources if isinstance(source, LmEvalTasks)]
    if not tasks:
        return read_items(suite)
    _harness()
    rest = suite.model_copy(update={"sources": [source for source in suite.sources if isinstance(source, ItemFile)]})
    items = read_items(rest) if rest.items or rest.sources else SuiteItems(rest, [], [], [])
    return replace(items, suite=suite, tasks=tasks)


def add_tasks(results: ArmResults, tasks: Sequence[LmEvalTasks], model: Any, tokenizer: Any) -> None:
    """Run tasks and put what they measured beside the metrics of a suite's items.

    Raises:
        DataError: As `run_tasks`.
    """
    for one in tasks:
        found = run_tasks(one, model, tokenizer)
        results.measured |= found.measured
        results.figures |= found.figures


def run_tasks(tasks: LmEvalTasks, model: Any, tokenizer: Any) -> TaskResults:
    """Run tasks.

    Args:
        tasks: Names, folder of task files, items of each task.
        model: A causal language model of transformers or PEFT, on its device.
        tokenizer: Its tokenizer; not changed.

    Raises:
        HardwareError: lm-evaluation-harness is not installed.
        DataError: The folder is missing, a task is not in it, or its data cannot be read.
    """
    harness, models, files = _harness()
    if not Path(tasks.include_path).is_dir():
        raise DataError(f"no folder {tasks.include_path} of task files", hint="correct `include_path` of the suite")
    known = files.TaskManager(include_path=tasks.include_path, include_defaults=False)
    missing = [name for name in tasks.lm_eval if name not in known.all_tasks]
    if missing:
        there = ", ".join(known.all_tasks[:10]) or "no task"
        raise DataError(
            f"no task {missing[0]!r} in {tasks.include_path}, which holds {there}",
            hint="correct `lm_eval` of the suite",
        )
    opened = models.HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=BATCH_SIZE)
    try:
        found = harness.simple_evaluate(
            opened, tasks=list(tasks.lm_eval), task_manager=known, limit=tasks.limit, bootstrap_iters=0
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"tasks {', '.join(tasks.lm_eval)} of {tasks.include_path}: {type(error).__name__}: {error}",
            hint="data of a task file is found by its whole path, or from where the command is started",
        ) from error
    return _collected(found)


def _harness() -> tuple[Any, Any, Any]:
    """Import the harness by name: most runs do without it."""
    try:
        modules = [importlib.import_module(f"lm_eval{part}") for part in ("", ".models.huggingface", ".tasks")]
    except ImportError as error:
        raise HardwareError(
            f"a suite names tasks of lm-evaluation-harness: {error}",
            hint="pip install -c constraints.txt 'recipe-trainer[lm-eval]'",
        ) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns that a loaded model is what it was given
    return modules[0], modules[1], modules[2]


def _collected(found: Mapping[str, Any]) -> TaskResults:
    collected = TaskResults()
    for task, samples in found["samples"].items():
        for metric, how, total in _totals(found["results"][task]):
            name = f"{task}.{metric}" if how == "none" else f"{task}.{metric}.{how}"
            rows = [sample for sample in samples if sample["filter"] == how]
            better = found["higher_is_better"].get(task, {}).get(metric)
            evidence = None if better is False else _evidence(task, metric, rows, total)
            if evidence is not None:
                collected.measured[name] = evidence
            else:
                collected.figures[name] = figure(total)
    return collected


def _totals(results: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield (metric, filter, value) of one task; its keys are `METRIC,FILTER`."""
    for key, value in results.items():
        metric, comma, how = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, Real):
            yield metric, how, float(value)


def _evidence(task: str, metric: str, rows: Sequence[Mapping[str, Any]], total: float) -> Evidence | None:
    """Return the marks item by item; None where the task's value is not their mean."""
    marks = [row.get(metric) for row in rows]
    if not marks or not all(isinstance(mark, Real) for mark in marks):
        return None
    values = np.array(marks, dtype=np.float64)
    if not np.isclose(values.mean(), total, rtol=0, atol=1e-9):
        return None
    ids = [f"{task}/{row['doc_id']}" for row in rows]
    # the kind must not follow from one arm's marks: arms are compared
    return Evidence("share" if metric in HARNESS_SHARES else "mean", values, groups=ids, ids=ids)
