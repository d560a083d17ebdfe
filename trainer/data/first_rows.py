"""Tell from the first rows of each local file whether `data` will take the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trainer.data.fit import check_fit
from trainer.data.lint.run import Linter
from trainer.data.peek import Peeked, peek, unseen
from trainer.data.records.kinds import Side
from trainer.data.rejections import no_usable_rows
from trainer.errors import DataError
from trainer.recipe import Recipe
from trainer.recipe.metric import Metric


class FirstRows(NamedTuple):
    """What can be known of the rows before any time is spent."""

    lines: list[str]
    """Rows that will be left out, and sources that were not looked at."""
    refusal: DataError | None
    """Why `data` will not take a file of which some rows are sound: the rest of `check` is worth saying first."""


def check_first_rows(recipe: Recipe, *, computed_fields: Iterable[str] = ()) -> FirstRows:
    """Look whether `data` will take the first rows of each local file.

    Args:
        recipe: The whole recipe: the evaluation names fields of rows too.
        computed_fields: Fields that the evaluation adds to each row.

    Raises:
        DataError: As `data` would raise it: a file cannot be read, none of its rows can be used, or the rows do not fit
            the method or the split.
        HardwareError: The key of the pseudonyms is not there.
    """
    Linter(recipe.data.lint)  # knows the rules that data.lint may name
    files = list(peek(recipe.data))
    sides = [file for file in files if file.input_file.side != Side.BENCHMARK]
    kinds = {kind: ref for file in reversed(sides) for kind, ref in file.kinds.items()}
    reasons = sum((file.reasons for file in sides), Counter[str]())
    if reasons and not kinds and not unseen(recipe.data):
        listed = {reason: ref for file in reversed(sides) for reason, ref in file.listed.items()}
        raise no_usable_rows(reasons, listed, "")
    check_fit(kinds, recipe.method, has_system_prompt=recipe.data.system_prompt is not None)
    lines = [sentence for file in files if (sentence := file.sentence())]
    lines += _unknown_fields(sides, recipe, computed_fields)
    lines += [f"{path}: not looked at: `trainer data` downloads it" for path in unseen(recipe.data)]
    return FirstRows(lines, next(_refusals(files, recipe.data.max_rejected), None))


def _unknown_fields(files: list[Peeked], recipe: Recipe, computed_fields: Iterable[str]) -> list[str]:
    """Say which fields that the evaluation asks for no row has.

    Raises:
        DataError: Every row was looked at.
    """
    key_of_field = dict.fromkeys(recipe.eval.slices, "eval.slices")
    metrics = [metric for metric in recipe.eval.metrics if isinstance(metric, Metric)]
    key_of_field |= {name: "eval.metrics[].when" for metric in metrics for name in metric.when or ()}
    row_fields = set(computed_fields).union(*(file.fields for file in files))
    missing = {name: key for name, key in key_of_field.items() if name not in row_fields}
    sentences = [f"no row has the field {name!r}, which {key} names" for name, key in missing.items()]
    if sentences and all(file.is_whole for file in files) and not unseen(recipe.data):
        raise DataError(sentences[0], hint=f"name a field of the rows: {', '.join(sorted(row_fields)) or 'none'}")
    return [f"among the first rows {text}" for text in sentences]


def _refusals(files: list[Peeked], limit: float) -> Iterator[DataError]:
    for file in files:
        try:
            file.check(limit)
        except DataError as error:
            yield error
