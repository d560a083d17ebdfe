"""List the files that the result of `trainer eval` depends on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.recipe.evaluate import EvalSection
from trainer.recipe.executed import Sql
from trainer.recipe.load import load_suite
from trainer.recipe.metrics import Grader, JsonSchema
from trainer.recipe.suite import Item, ItemFile, LmEvalTasks, Suite


def eval_inputs(section: EvalSection) -> Iterator[tuple[str, Path]]:
    """Yield the key of the recipe and the path of each file; of a folder every file.

    Raises:
        RecipeError: A suite is wrong.
    """
    for arm in section.all_arms:
        for name, part in (("prompt", arm.prompt), ("shots", arm.shots), ("documents", arm.documents)):
            path = getattr(part, "path", None)
            if path:
                yield from _files(f"eval.arms.{arm.name}.{name}.path", Path(path))
    for metric in section.metrics if section.metrics != "auto" else ():
        if not isinstance(metric, str):
            yield from _grader_files("eval.metrics", metric)
    if section.retention.prompts:
        yield "eval.retention.prompts", Path(section.retention.prompts)
    for path in section.suites:
        suite = load_suite(path)
        yield f"eval.suites.{suite.name}", Path(path)
        yield from _suite_files(suite)


def _suite_files(suite: Suite) -> Iterator[tuple[str, Path]]:
    graders = [*suite.graders, *(grader for part in (*suite.items, *suite.sources) for grader in _graders(part))]
    for grader in graders:
        yield from _grader_files(f"eval.suites.{suite.name}", grader)
    for index, source in enumerate(suite.sources):
        path = source.path if isinstance(source, ItemFile) else source.include_path
        yield from _files(f"eval.suites.{suite.name}.{index}", Path(path))


def _grader_files(label: str, grader: Grader) -> Iterator[tuple[str, Path]]:
    if isinstance(grader, JsonSchema) and isinstance(grader.schema, str):
        yield f"{label}.{grader.title}.schema", Path(grader.schema)
    if isinstance(grader, Sql) and grader.database is not None:
        yield f"{label}.{grader.title}.database", Path(grader.database)


def _graders(part: Item | ItemFile | LmEvalTasks) -> list[Grader]:
    return [] if isinstance(part, LmEvalTasks) else part.graders


def _files(label: str, path: Path) -> Iterator[tuple[str, Path]]:
    if not path.is_dir():
        yield label, path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield f"{label}/{file.relative_to(path).as_posix()}", file
