"""Find how many rows or items each gate of a recipe looks at, from the files that are there before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import get_args

from trainer import exact_json
from trainer.data.read.sources import open_inputs
from trainer.data.records.kinds import Record, Side
from trainer.errors import Problem, RecipeError
from trainer.recipe import Recipe
from trainer.recipe.data import HUB_PREFIX
from trainer.recipe.gates import Gate
from trainer.recipe.load import load_suite
from trainer.recipe.metrics import Grader, GraderName, ToolCallMatch, written_out
from trainer.recipe.suite import ItemFile, LmEvalTasks, Suite
from trainer.scoring.gates.metrics import MEASURED, MetricTraits, task_range, traits_of
from trainer.scoring.gates.reach import GateScope, out_of_range, unreachable
from trainer.scoring.graders.expected import applies
from trainer.scoring.questions.from_rows import flat, group_of, questions_of
from trainer.scoring.questions.suite import SuiteItems, read_items

NUM_GENERAL_PROMPTS = 40
"""Prompts that are shipped for the forgetting meter."""
SPLIT_SLACK = 1.1
"""Groups are kept together, so that a side may get more rows than its share."""
HELDOUT = "more rows, or a larger `data.split.heldout`"


@dataclass(frozen=True)
class HeldoutRows:
    """The held-out rows, as far as they can be told."""

    num_rows: int | None
    """Most that there can be; None where that cannot be told."""
    rows: list[Record] | None
    """The rows themselves, once `data` has run."""


def refuse_impossible_gates(recipe: Recipe, heldout_path: Path | None, recipe_path: Path, arguments: str) -> None:
    """Refuse a recipe with gates that can decide nothing, all of them at once.

    Args:
        recipe: The recipe.
        heldout_path: As of `impossible_gates`.
        recipe_path: Its file.
        arguments: The command line's, for the fix.

    Raises:
        RecipeError: A gate can never pass, or has a limit that its metric never reaches.
    """
    faults = impossible_gates(recipe, heldout_path)
    if faults:
        raise RecipeError(
            [Problem(str(recipe_path), None, f"eval.gates.{number}", fault) for number, fault in faults],
            hint=f"correct the gates, then: trainer check {arguments}; to go on all the same: --accept failed-gate",
        )


def impossible_gates(recipe: Recipe, heldout_path: Path | None) -> list[tuple[int, str]]:
    """Return the number of each gate that can decide nothing, and why.

    Args:
        recipe: Its `eval.gates`.
        heldout_path: data/heldout.jsonl where it is up to date; otherwise the rows are counted in the sources.

    Raises:
        DataError: A suite or a source cannot be read.
        RecipeError: A suite is wrong.
    """
    if not recipe.eval.gates:
        return []
    suites = {suite.name: suite for suite in map(load_suite, recipe.eval.suites)}
    rows = _heldout(recipe, heldout_path)
    faults = ((number, _fault(gate, recipe, suites, rows)) for number, gate in enumerate(recipe.eval.gates))
    return [(number, fault) for number, fault in faults if fault is not None]


def _fault(gate: Gate, recipe: Recipe, suites: Mapping[str, Suite], rows: HeldoutRows) -> str | None:
    if gate.suite is not None:
        if gate.suite not in suites:
            return f"no suite called {gate.suite!r} in eval.suites; there are: {', '.join(suites) or 'none'}"
        return _suite_fault(gate, suites[gate.suite])
    graders = _graders(recipe)
    traits = traits_of(gate.metric, graders)
    if traits is None:
        return f"nothing measures {gate.metric}; {_measured_instead(gate, recipe, graders)}"
    outside = out_of_range(gate, traits.range)
    if outside is not None:
        return outside
    scope = _scope(gate, recipe, traits, graders.get(gate.metric), rows)
    return unreachable(gate, scope) if scope else None


def _measured_instead(gate: Gate, recipe: Recipe, graders: Mapping[str, Grader]) -> str:
    if recipe.eval.metrics != "auto":
        return f"eval.metrics has {', '.join(graders) or 'no grader'}"
    near = ", ".join(get_close_matches(gate.metric, [*graders, *MEASURED], n=2))
    return f"did you mean {near}?" if near else "name it in eval.metrics"


def _scope(
    gate: Gate, recipe: Recipe, traits: MetricTraits, grader: Grader | None, rows: HeldoutRows
) -> GateScope | None:
    """Return the rows that a gate looks at; None where their number cannot be told yet."""
    section = recipe.eval

    def scope(num_rows: int, noun: str, remedy: str, groups: Sequence[str] | None = None) -> GateScope:
        return GateScope(traits.shape, num_rows, noun, remedy, traits.lower_is_better, traits.level, groups)

    if traits.shape == "quantile":
        limit = section.latency_rows if rows.num_rows is None else min(section.latency_rows, rows.num_rows)
        return scope(limit, "timed rows", "raise eval.latency_rows")
    if traits.layer == "retention":
        available = NUM_GENERAL_PROMPTS if section.retention.prompts is None else section.retention.num_prompts
        remedy = "raise eval.retention.num_prompts, with eval.retention.prompts above 40"
        return scope(min(section.retention.num_prompts, available), "general prompts", remedy)
    if traits.shape == "figure":
        return scope(1, "measurements", "")
    remedy = "raise eval.max_rows" if rows.num_rows == section.max_rows else HELDOUT
    if rows.rows is not None:
        groups = _groups(gate, recipe, grader, rows.rows)
        noun = "held-out rows" + "".join(f" with {name} {value}" for name, value in (gate.slice or {}).items())
        return scope(len(groups), noun, remedy, groups)
    asks_more = section.turns == "all" or (section.turns == "auto" and isinstance(grader, ToolCallMatch))
    if rows.num_rows is None or asks_more:
        return None  # a row may ask for several answers
    return scope(rows.num_rows, "held-out rows at most", remedy)


def _groups(gate: Gate, recipe: Recipe, grader: Grader | None, rows: Sequence[Record]) -> list[str]:
    """Return the group of every question that a gate looks at, up to `eval.max_rows` rows."""
    turns, by = recipe.eval.turns, recipe.data.split.by
    if grader is None:  # likelihoods are of rows, not of answers
        return [group_of(flat(row), by) for row in rows[: recipe.eval.max_rows] if _in_slice(gate, flat(row))]
    questions = questions_of(rows[: recipe.eval.max_rows], turns=turns, by=by, write_answer=lambda *_: ("", 0))
    return [question.group for question in questions if _in_slice(gate, question.row) and applies(grader, question)]


def _in_slice(gate: Gate, row: Mapping[str, object]) -> bool:
    return all(str(row.get(name)) == value for name, value in (gate.slice or {}).items())


def _graders(recipe: Recipe) -> dict[str, Grader]:
    """Return the graders by the name of their metric; without a choice, all that bare names stand for."""
    metrics = get_args(GraderName) if recipe.eval.metrics == "auto" else recipe.eval.metrics
    graders = [
        written_out(metric) for metric in metrics if not isinstance(metric, str) or metric in get_args(GraderName)
    ]
    return {grader.title: grader for grader in graders}


def _suite_fault(gate: Gate, suite: Suite) -> str | None:
    items = _items(suite)
    traits = traits_of(gate.metric, items.metrics) if gate.metric in items.metrics else None
    if traits is None:
        if any(isinstance(source, LmEvalTasks) for source in suite.sources):  # with metrics that only the tasks know
            return out_of_range(gate, task_range(gate.metric))
        return f"the suite {suite.name} has no metric {gate.metric!r}; it has {', '.join(items.metrics)}"
    outside = out_of_range(gate, traits.range)
    if outside is not None or (suite.must_pass and gate.layer == "auto"):
        return outside
    # items that another metric marks say nothing about this one
    num_items = sum(
        any(grader.title == gate.metric and applies(grader, question) for grader in graders)
        for question, graders in zip(items.questions, items.graders, strict=True)
    )
    noun = f"items with {gate.metric} in the suite {suite.name}"
    scope = GateScope(traits.shape, num_items, noun, "add items to the suite", traits.lower_is_better)
    return unreachable(gate, scope)


def _items(suite: Suite) -> SuiteItems:
    files = suite.model_copy(update={"sources": [source for source in suite.sources if isinstance(source, ItemFile)]})
    return read_items(files) if files.items or files.sources else SuiteItems(files, [], [], [])


# Held-out rows


def _heldout(recipe: Recipe, path: Path | None) -> HeldoutRows:
    if path is not None:
        rows = [exact_json.loads(line) for line in path.read_bytes().splitlines()]
        return HeldoutRows(min(len(rows), recipe.eval.max_rows), rows)
    return HeldoutRows(_most_rows(recipe), None)


def _most_rows(recipe: Recipe) -> int | None:
    """Return how many held-out rows the sources can give at most; None where they are not on this machine."""
    split, most = recipe.data.split, recipe.eval.max_rows
    paths = [source.path for source in recipe.data.sources] if split.heldout_path is None else [split.heldout_path]
    if any(path.startswith(HUB_PREFIX) for path in paths):
        return None
    if split.heldout_path is not None:
        return sum(1 for _ in islice(_rows_of(recipe, Side.HELDOUT), most))
    if split.heldout == 0:
        return 0
    enough = math.ceil(most / split.heldout)  # more source rows change nothing
    rows = sum(1 for _ in islice(_rows_of(recipe, Side.SOURCE), enough))
    # an upper bound: cleaning may drop rows, so "can never pass" stays true
    return min(most, math.ceil(SPLIT_SLACK * split.heldout * rows) + 1)


def _rows_of(recipe: Recipe, side: Side) -> Iterator[object]:
    local = [source for source in recipe.data.sources if not source.path.startswith(HUB_PREFIX)]
    for opened in open_inputs(recipe.data.model_copy(update={"sources": local})):
        if opened.side == side:
            yield from opened.rows
