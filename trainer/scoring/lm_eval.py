"""Run tasks of lm-evaluation-harness on a loaded model: the extra `lm-eval`.

Only the task files in the folder of the suite count. The harness writes the prompts (without chat template) and marks
the answers; scores, intervals and comparisons are ours.
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from trainer.errors import DataError, HardwareError
from trainer.recipe.suite import ItemFile, LmEvalTasks, Suite
from trainer.scoring.gates.metrics import HARNESS_SHARES
from trainer.scoring.questions.suite import SuiteItems, read_items
from trainer.scoring.results import ArmResults, figure
from trainer.scoring.statistics.measurements import Evidence
from trainer.shapes.scores import Score

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_SIZE = 8


@dataclass
class TaskResults:
    """Scores of an arm on tasks, by `TASK.METRIC`; `TASK.METRIC.FILTER` where answers are filtered in several ways."""

    measured: dict[str, Evidence] = field(default_factory=dict)
    """Metrics that are the mean over items, more being better."""
    figures: dict[str, Score] = field(default_factory=dict)
    """All others, perplexities for example: one number without an interval."""


class HarnessOutput(TypedDict):
    """The parts of `simple_evaluate`'s result that are read."""

    samples: dict[str, list[dict[str, object]]]
    """Task to its items, each with `filter`, `doc_id` and one value per metric."""
    results: dict[str, dict[str, object]]
    """Task to its values by `METRIC,FILTER`."""
    higher_is_better: dict[str, dict[str, bool]]


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
    files = suite.model_copy(update={"sources": [source for source in suite.sources if isinstance(source, ItemFile)]})
    items = read_items(files) if files.items or files.sources else SuiteItems(files, [], [], [])
    return replace(items, suite=suite, tasks=tasks)


def add_tasks(
    results: ArmResults,
    tasks: Sequence[LmEvalTasks],
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Run tasks and add their metrics to those of a suite's items.

    Raises:
        DataError: As `run_tasks`.
    """
    for group in tasks:
        scores = run_tasks(group, model, tokenizer)
        results.measured |= scores.measured
        results.figures |= scores.figures


def run_tasks(
    tasks: LmEvalTasks, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase
) -> TaskResults:
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
    manager = files.TaskManager(include_path=tasks.include_path, include_defaults=False)
    missing = [name for name in tasks.lm_eval if name not in manager.all_tasks]
    if missing:
        available = ", ".join(manager.all_tasks[:10]) or "no task"
        raise DataError(
            f"no task {missing[0]!r} in {tasks.include_path}, which holds {available}",
            hint="correct `lm_eval` of the suite",
        )
    opened = models.HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=BATCH_SIZE)
    try:
        output: HarnessOutput = harness.simple_evaluate(
            opened, tasks=list(tasks.lm_eval), task_manager=manager, limit=tasks.limit, bootstrap_iters=0
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"tasks {', '.join(tasks.lm_eval)} of {tasks.include_path}: {type(error).__name__}: {error}",
            hint="data of a task file is found by its whole path, or from where the command is started",
        ) from error
    return _collect(output)


def _harness() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Import the harness, its models and its tasks by name: most runs do without it."""
    try:
        modules = [importlib.import_module(f"lm_eval{part}") for part in ("", ".models.huggingface", ".tasks")]
    except ImportError as error:
        raise HardwareError(
            f"a suite names tasks of lm-evaluation-harness: {error}",
            hint="pip install -c constraints.txt 'recipe-trainer[lm-eval]'",
        ) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns about a model that is loaded already
    return modules[0], modules[1], modules[2]


def _collect(output: HarnessOutput) -> TaskResults:
    scores = TaskResults()
    for task, samples in output["samples"].items():
        for metric, answer_filter, total in _totals(output["results"][task]):
            name = f"{task}.{metric}" if answer_filter == "none" else f"{task}.{metric}.{answer_filter}"
            rows = [sample for sample in samples if sample["filter"] == answer_filter]
            higher = output["higher_is_better"].get(task, {}).get(metric)
            evidence = None if higher is False else _evidence(task, metric, rows, total)
            if evidence is not None:
                scores.measured[name] = evidence
            else:
                scores.figures[name] = figure(total)
    return scores


def _totals(results: Mapping[str, object]) -> Iterator[tuple[str, str, float]]:
    """Yield (metric, filter, value) of one task; its keys are `METRIC,FILTER`."""
    for key, value in results.items():
        metric, comma, answer_filter = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, Real):
            yield metric, answer_filter, float(value)


def _evidence(task: str, metric: str, rows: Sequence[Mapping[str, object]], total: float) -> Evidence | None:
    """Return the marks item by item; None where the task's value is not their mean."""
    marks = [float(mark) for row in rows if isinstance(mark := row.get(metric), Real)]
    values = np.array(marks, dtype=np.float64)
    if not rows or len(marks) < len(rows) or not np.isclose(values.mean(), total, rtol=0, atol=1e-9):
        return None
    ids = [f"{task}/{row['doc_id']}" for row in rows]
    # the kind must not follow from one arm's marks: arms are compared
    return Evidence("share" if metric in HARNESS_SHARES else "mean", values, groups=ids, ids=ids)
