"""Read the items of a regression suite as questions, each with its graders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import orjson
from pydantic import ValidationError

from trainer.data.records.kinds import Message
from trainer.errors import DataError
from trainer.recipe.metrics import Grader
from trainer.recipe.suite import Item, ItemFile, LmEvalTasks, Suite
from trainer.scoring.graders import check
from trainer.scoring.question import Question

ITEM_KEYS = frozenset(Item.model_fields) - {"fields"}


@dataclass(frozen=True)
class SuiteItems:
    """A suite, ready to be asked."""

    suite: Suite
    questions: list[Question]
    graders: list[list[Grader]]
    """Graders of each question."""
    tasks: list[LmEvalTasks]

    @property
    def metrics(self) -> dict[str, Grader]:
        """Return every grader once, by the name of its metric, in the order of the suite."""
        return {grader.title: grader for graders in self.graders for grader in graders}


def read_items(suite: Suite) -> SuiteItems:
    """Read the files of a suite.

    Raises:
        DataError: A file is missing or damaged, an item has no grader or a name twice, or there is no item.
    """
    items = [_ReadItem(item, item.graders or suite.graders, f"suite {suite.name}") for item in suite.items]
    for source in suite.sources:
        if isinstance(source, ItemFile):
            graders = source.graders or suite.graders
            lines = _read_file(Path(source.path))[: source.max_items]
            items += [_ReadItem(item, item.graders or graders, location) for item, location in lines]
    tasks = [source for source in suite.sources if isinstance(source, LmEvalTasks)]
    if tasks:
        raise DataError(
            f"the suite {suite.name} names tasks of lm-evaluation-harness, which are no items",
            hint="write items to a JSONL file and name it in `sources`",
        )
    if not items:
        raise DataError(f"the suite {suite.name} has no items", hint="give `items`, or a file that holds some")
    _refuse_same_ids(suite, items)
    _refuse_mixed_names(suite, [grader for item in items for grader in item.graders])
    questions = [_question(suite, item.item) for item in items]
    for item, question in zip(items, questions, strict=True):
        _check(item, question)
    return SuiteItems(suite, questions, [item.graders for item in items], tasks)


def refuse_same_names(suites: Sequence[Suite]) -> None:
    """Refuse two suites of one name: tables and gates tell them apart by it.

    Raises:
        DataError: There are.
    """
    names = [suite.name for suite in suites]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two suites are called {twice!r}", hint="change `name` in one of their files")


@dataclass(frozen=True)
class _ReadItem:
    """An item with its graders and where it was read."""

    item: Item
    graders: list[Grader]
    location: str
    """Its suite, or the file and line."""


def _check(read: _ReadItem, question: Question) -> None:
    """Refuse an item that could not be marked, before anything is generated for it."""
    titles = [grader.title for grader in read.graders]
    if not titles:
        raise DataError(
            f"{read.location}: the item {read.item.id!r} has no grader",
            hint="give `graders` of the item, of its file or of the suite",
        )
    twice = next((title for title in titles if titles.count(title) > 1), None)
    if twice is not None:  # only one of their marks would count
        raise DataError(
            f"{read.location}: the item {read.item.id!r} has two graders called {twice!r}",
            hint="give each its own `name`",
        )
    try:
        for grader in read.graders:
            check(grader, [question])
    except DataError as error:
        raise DataError(f"{read.location}: {error.message}", hint=error.hint) from error


def _refuse_same_ids(suite: Suite, items: list[_ReadItem]) -> None:
    locations: dict[str, str] = {}
    for read in items:
        if read.item.id in locations:
            raise DataError(
                f"the suite {suite.name} has two items called {read.item.id!r}: "
                f"{locations[read.item.id]} and {read.location}",
                hint="rename one of them",
            )
        locations[read.item.id] = read.location


def _refuse_mixed_names(suite: Suite, graders: list[Grader]) -> None:
    """Refuse one name for two kinds of metric: their marks would be averaged."""
    kinds: dict[str, str] = {}
    for grader in graders:
        if kinds.setdefault(grader.title, grader.kind) != grader.kind:
            raise DataError(
                f"the suite {suite.name} calls two kinds of metric {grader.title!r}: "
                f"{kinds[grader.title]} and {grader.kind}",
                hint="give each its own `name`",
            )


def _read_file(path: Path) -> list[tuple[Item, str]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="correct `sources` of the suite") from error
    return [
        (_item(path, number, line), f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()
    ]


def _item(path: Path, number: int, line: bytes) -> Item:
    """Read one line; the keys that an item does not know are what its graders read."""
    try:
        values = orjson.loads(line)
        fields = {key: value for key, value in values.items() if key not in ITEM_KEYS}
        declared = {key: value for key, value in values.items() if key in ITEM_KEYS}
        return Item.model_validate({"id": str(number), **declared, "fields": fields})
    except (orjson.JSONDecodeError, ValidationError, AttributeError) as error:
        reason = "; ".join(str(part["msg"]) for part in error.errors()) if isinstance(error, ValidationError) else error
        raise DataError(
            f"{path}:{number}: no item: {reason}", hint='such as {"id": "a", "prompt": "...", ...}'
        ) from error


def _question(suite: Suite, item: Item) -> Question:
    messages = cast("list[Message]", item.messages or [{"role": "user", "content": item.prompt}])
    if suite.system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": suite.system_prompt}, *messages]
    name = f"{suite.name}/{item.id}"
    return Question(id=name, messages=messages, reference=item.reference, row=item.fields, group=name)
