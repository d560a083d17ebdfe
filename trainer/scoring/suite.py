"""The items of a regression suite as questions, each with its graders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from trainer.errors import DataError
from trainer.recipe.metrics import Grader
from trainer.recipe.suite import Item, ItemFile, LmEvalTasks, Suite
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
    items = [(item, item.graders or suite.graders) for item in suite.items]
    for source in suite.sources:
        if isinstance(source, ItemFile):
            found = _read_file(Path(source.path))[: source.max_items]
            items += [(item, item.graders or source.graders or suite.graders) for item in found]
    tasks = [source for source in suite.sources if isinstance(source, LmEvalTasks)]
    if tasks:
        raise DataError(
            f"the suite {suite.name} names tasks of lm-evaluation-harness, which this version cannot run",
            hint="write their items to a JSONL file and name it in `sources`",
        )
    if not items:
        raise DataError(f"the suite {suite.name} has no items", hint="give `items`, or a file that holds some")
    _check(suite, items)
    questions = [_question(suite, item) for item, _ in items]
    return SuiteItems(suite, questions, [graders for _, graders in items], tasks)


def _check(suite: Suite, items: list[tuple[Item, list[Grader]]]) -> None:
    seen: set[str] = set()
    for item, graders in items:
        if item.id in seen:
            raise DataError(f"the suite {suite.name} has two items called {item.id!r}", hint="rename one of them")
        if not graders:
            raise DataError(
                f"the item {item.id!r} of the suite {suite.name} has no grader",
                hint="give `graders` of the item, of its file or of the suite",
            )
        seen.add(item.id)
    _refuse_mixed_names(suite, [grader for _, graders in items for grader in graders])


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


def _read_file(path: Path) -> list[Item]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint="correct `sources` of the suite") from error
    return [_item(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _item(path: Path, number: int, line: bytes) -> Item:
    """Read one line; the keys that an item does not know are what its graders read."""
    try:
        values = orjson.loads(line)
        fields = {key: value for key, value in values.items() if key not in ITEM_KEYS}
        own = {key: value for key, value in values.items() if key in ITEM_KEYS}
        return Item.model_validate({"id": str(number), **own, "fields": fields})
    except (orjson.JSONDecodeError, ValidationError, AttributeError) as error:
        reason = "; ".join(str(part["msg"]) for part in error.errors()) if isinstance(error, ValidationError) else error
        raise DataError(
            f"{path}:{number}: no item: {reason}", hint='such as {"id": "a", "prompt": "...", ...}'
        ) from error


def _question(suite: Suite, item: Item) -> Question:
    messages: list[dict[str, Any]] = item.messages or [{"role": "user", "content": item.prompt}]
    if suite.system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": suite.system_prompt}, *messages]
    name = f"{suite.name}/{item.id}"
    return Question(id=name, messages=messages, reference=item.reference, row=item.fields, group=name)
