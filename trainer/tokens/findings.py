"""Find faults of training rows that only their tokens show."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

import numpy as np

from trainer import exact_json
from trainer.data.lint.finding import CountedRows, Finding
from trainer.data.lint.findings.tokens import LongRows
from trainer.errors import DataError
from trainer.recipe import Recipe
from trainer.tokens.arrays import Ints
from trainer.tokens.batch import coder_of
from trainer.tokens.chat import Renderer
from trainer.tokens.dates import DATE_VARIABLE, formats_of_today, takes_a_date, with_fixed_date
from trainer.tokens.encode import location
from trainer.tokens.splits import TokenSplit, first_row, lost_lines
from trainer.tokens.store import StoredShape, TokenStore

FIXED_DATE = "chat_template.fixed_date.jinja"
"""The template with the date of this day, where it asks for today's."""
MAX_TRIED, NUM_LISTED = 2000, 5
"""Rows looked at once one of them has failed, and rows named."""


def form_of_calls(path: Path, renderer: Renderer) -> str:
    """Say how the first rows with tool calls are handed to the template, where that is not as the rows hold them."""
    with path.open("rb") as file:
        rows = (
            exact_json.loads(line) for line in islice((line for line in file if b'"tool_calls"' in line), MAX_TRIED)
        )
        forms = {renderer.form_of(row) for row in rows}
    return "; ".join(sorted(form.described() for form in forms if form.described()))


def unusable_rows(path: Path, renderer: Renderer, shape: StoredShape) -> list[Finding]:
    """Try the first rows one by one: F014 for those that are not rendered, F015 for those that train nothing."""
    render, encode = coder_of(shape, renderer)
    failures: dict[str, list[str]] = {"F014": [], "F015": []}
    tried = 0
    with path.open("rb") as file:
        for line in islice(file, MAX_TRIED):
            row = exact_json.loads(line)
            tried += 1
            rule = "F014"
            try:
                rendered = render(row)
                rule = "F015"
                encode(renderer.tokenizer, rendered)
            except DataError:
                failures[rule].append(location(row))
    return [
        Finding(rule, f"{len(positions)} of the first {tried}", len(positions), rows=tuple(positions[:NUM_LISTED]))
        for rule, positions in failures.items()
    ]


def date_finding(renderer: Renderer, split: TokenSplit, written: Path, final: Path) -> Iterator[Finding]:
    """Yield a finding where the template prints today's date, with a template that does not as the way out."""
    row = first_row(split.rows_path)
    if "prompt" not in row and "messages" not in row:
        return
    render, template = renderer.prompt_text, renderer.template_of(row)
    formats = formats_of_today(render, row, template)
    if not formats:
        return
    today = datetime.now()
    date_text = today.strftime(formats[0])
    ways = []
    if takes_a_date(render, row, template):
        ways.append(f'set model.chat_template_kwargs: {{{DATE_VARIABLE}: "{date_text}"}}')
    fixed = with_fixed_date(template, today)
    if not formats_of_today(render, row, fixed):
        written.write_text(fixed, encoding="utf-8")
        ways.append(f"cp {shlex.quote(str(final))} . and set model.chat_template: {FIXED_DATE}")
    detail = f"{date_text!r} is in every prompt: the rows were trained with it, and the model is served on other days"
    yield Finding("T004", detail, len(split.store), fix=", or ".join(ways) or None)


def long_rows(train: TokenSplit, before: TokenStore, recipe: Recipe) -> LongRows:
    """Describe the training rows that `pack.overlong` dropped or cut; `before` is as they were before."""
    limit = recipe.pack.max_length
    long = np.flatnonzero(before.sequence_lengths() > limit)
    # the prompt alone fills the limit: no token is left for the answer
    filled = np.array([row for row in long.tolist() if _num_prompt_tokens(before, row) >= limit], dtype=np.int64)
    dropped = lost_lines(before, train.store)
    lost = int(before.lengths().sum()) - int(train.store.lengths().sum())
    return LongRows(_listed(train, before, long, recipe), len(dropped), lost, _listed(train, before, filled, recipe))


def _num_prompt_tokens(store: TokenStore, row: int) -> int:
    ids, mask = store.pieces(row)[0]
    return int(mask.argmax()) if mask.any() else len(ids)


def _listed(train: TokenSplit, before: TokenStore, rows: Ints, recipe: Recipe) -> CountedRows:
    listed = before.row_index[rows[: recipe.data.lint.max_rows_listed]]
    return CountedRows(len(rows), tuple(location(exact_json.loads(text)) for text in train.rows(listed)))
