"""pack: rows to token ids, loss masks and packs.

Reads `data/*.jsonl`; writes `{train,validation,heldout}.safetensors`, `packs.safetensors` (training items),
`report.json` with the findings of the checks that need tokens. Tokens are kept by content in `tokens/` of the cache
folder, up to TRAINER_TOKEN_CACHE_GIB GiB (10; 0 turns it off), so that another run or recipe with the same rows and
tokenizer has them at once.
"""

from __future__ import annotations

import math
import os
import random
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer import exact_json
from trainer.data.lint.finding import Finding, Seen
from trainer.data.lint.findings.tokens import LongRows, TokenFacts, quote_findings, token_findings
from trainer.data.lint.rules import RULES
from trainer.data.lint.run import raise_errors, settled
from trainer.errors import DataError, HardwareError
from trainer.model.load import load_tokenizer
from trainer.recipe import Recipe
from trainer.recipe.data import PackSection
from trainer.recipe.method import row_facts
from trainer.render.data import short_places
from trainer.render.data_terminal import findings_text
from trainer.rundir import StageContext, cache_dir, write_json
from trainer.tokens.arrays import Ints
from trainer.tokens.batch import coder_of, tokenize_file
from trainer.tokens.cache import TokenCache, cache_key
from trainer.tokens.chat import Renderer
from trainer.tokens.dates import DATE_VARIABLE, formats_of_today, takes_a_date, with_fixed_date
from trainer.tokens.encode import place
from trainer.tokens.limit import write_shortened
from trainer.tokens.pack import PackPlan, one_by_one, pack_rows
from trainer.tokens.quotes import quotes_of
from trainer.tokens.store import StoredShape, TokenStore

SPLITS = ("train", "validation", "heldout")
PACK_FROM_ROWS = 1000
FIXED_DATE = "chat_template.fixed_date.jinja"
"""The template with the date of this day, where it asks for today's."""
MAX_TRIED, NUM_LISTED = 2000, 5
"""Rows looked at once one of them has failed, and rows named."""
CACHE_GIB = "TRAINER_TOKEN_CACHE_GIB"


@dataclass
class TokenSplit:
    """One split: its rows and their tokens."""

    name: str
    rows_path: Path
    tokens_path: Path
    store: TokenStore

    def rows(self, lines: Ints) -> Iterator[bytes]:
        """Read some rows as they stand in the file; `lines` rise."""
        remaining = iter(lines.tolist())
        number = next(remaining, None)
        with self.rows_path.open("rb") as file:
            for line, text in enumerate(file):
                if line == number:
                    yield text
                    number = next(remaining, None)


def run(recipe: Recipe, context: StageContext) -> None:
    """Tokenize every split, check the masks, plan the packs.

    Raises:
        DataError: A row is too long, cannot be rendered or trains nothing.
    """
    tokenizer = load_tokenizer(recipe.model, cache_dir())
    renderer = Renderer(tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=recipe.model.chat_template_kwargs)
    splits = _tokenized(context, renderer, recipe.method.shape)
    before_limit = splits[0].store
    dropped = _fit(splits, recipe.pack)
    train = splits[0]
    stop = _stop_token(train, renderer)
    packs, is_packed = _plan(train, recipe)
    packs.save(context.dir / "packs.safetensors")
    report = _report(splits, dropped, packs, is_packed, stop, recipe.pack)
    report["steps"] = _num_steps(recipe, report["items"])
    long = _long_rows(train, before_limit, recipe)
    token_facts = _facts(report, long, train, recipe)
    dated = _dated(renderer, train, context)
    quotes = quotes_of(train.rows_path, renderer)
    quoting = quote_findings(quotes.places, quotes.tokens, quotes.ends, len(train.store))
    findings = settled(chain(token_findings(token_facts, recipe.data.lint), dated, quoting), recipe.data.lint)
    report["lint"] = [finding.to_json() for finding in findings]
    write_json(context.dir / "report.json", report)
    context.numbers.update({key: value for key, value in report.items() if not isinstance(value, dict | list)})
    context.say(
        f"pack: {report['rows']} training rows in {report['items']} "
        f"{'packs' if is_packed else 'items'}, {report['tokens']} tokens, {report['trained_tokens']} trained"
    )
    context.say(findings_text(report))
    raise_errors(report["lint"])


def _tokenized(context: StageContext, renderer: Renderer, shape: StoredShape) -> list[TokenSplit]:
    """Tokenize every split, or take its tokens from the cache."""
    paths = {name: context.input("data", f"{name}.jsonl") for name in SPLITS}
    _first_row(paths["train"])  # there must be one
    # all keys before the first text: transformers changes settings of the tokenizer that are part of them
    cache = TokenCache(cache_dir() / "tokens", limit_bytes=_cache_bytes())
    keys = {name: cache_key(renderer, context.run.hashes.file(paths[name]), today=date.today()) for name in SPLITS}
    splits, cached = [], []
    for name in SPLITS:
        target = context.dir / f"{name}.safetensors"
        if cache.fetch(keys[name], target):
            cached.append(name)
        elif _tokenize(paths[name], renderer, target, shape):
            cache.publish(keys[name], target)
        splits.append(TokenSplit(name, paths[name], target, TokenStore.load(target)))
    if form := _form_of_calls(paths["train"], renderer):
        context.say(f"pack: the chat template is given tool calls in the form that it takes: {form}")
    if cached:
        context.say(f"pack: tokens of {', '.join(cached)} taken from {cache.folder}, where an earlier run left them")
    return splits


def _form_of_calls(path: Path, renderer: Renderer) -> str:
    """Say how the first rows with tool calls are handed to the template, where that is not as the rows hold them."""
    with path.open("rb") as file:
        rows = (
            exact_json.loads(line) for line in islice((line for line in file if b'"tool_calls"' in line), MAX_TRIED)
        )
        forms = {renderer.form_of(row) for row in rows}
    return "; ".join(sorted(form.described() for form in forms if form.described()))


def _tokenize(path: Path, renderer: Renderer, target: Path, shape: StoredShape) -> int:
    """Write the token file of a split.

    Raises:
        DataError: Of the first row that cannot be tokenized, with how many others there are.
    """
    try:
        return tokenize_file(path, renderer, target, shape)
    except DataError as error:
        findings = [finding for finding in _unusable(path, renderer, shape) if finding.count]
        if not findings:
            raise
        lines = [
            f"{finding.rule}: {RULES[finding.rule].title}: {finding.detail}: "
            + ", ".join(short_places(list(finding.rows)))
            for finding in findings
        ]
        raise DataError("\n".join([error.message, *lines]), hint=error.hint) from error


def _unusable(path: Path, renderer: Renderer, shape: StoredShape) -> list[Finding]:
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
                rendered = [render(row)]
                rule = "F015"
                encode(renderer.tokenizer, rendered)
            except DataError:
                failures[rule].append(place(row))
    return [
        Finding(rule, f"{len(positions)} of the first {tried}", len(positions), rows=tuple(positions[:NUM_LISTED]))
        for rule, positions in failures.items()
    ]


def _first_row(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        line = file.readline()
    if not line:
        raise DataError(
            "data/train.jsonl has no rows", hint="check data.sources and data.split, then: trainer data RECIPE"
        )
    row: dict[str, Any] = exact_json.loads(line)
    return row


def _cache_bytes() -> int:
    text = os.environ.get(CACHE_GIB, "10")
    try:
        return int(float(text) * 2**30)
    except (ValueError, OverflowError) as error:
        raise HardwareError(f"{CACHE_GIB} is {text!r}, no number of GiB", hint=f"export {CACHE_GIB}=10") from error


def _fit(splits: list[TokenSplit], section: PackSection) -> dict[str, list[str]]:
    """Apply `pack.overlong` to rows over `pack.max_length`; return the places of dropped rows."""
    limit = section.max_length
    long = [split for split in splits if split.store.sequence_lengths().max(initial=0) > limit]
    if long and section.overlong == "error":
        raise _overlong_error(splits, long[0], limit)
    dropped = {}
    for split in long:
        shorter = split.tokens_path.with_suffix(".partial")
        truncate = section.overlong == "truncate_prompt"
        write_shortened(split.store, shorter, max_length=limit, truncate_prompt=truncate)
        lost = np.setdiff1d(split.store.row_index, TokenStore.load(shorter).row_index)
        shorter.replace(split.tokens_path)  # the cache keeps the long one
        split.store = TokenStore.load(split.tokens_path)
        if len(lost):
            dropped[split.name] = [place(exact_json.loads(row)) for row in split.rows(lost)]
    if not len(splits[0].store):
        raise DataError(
            f"every training row is over pack.max_length {limit}", hint="raise pack.max_length, see pack.overlong"
        )
    return dropped


def _overlong_error(splits: list[TokenSplit], split: TokenSplit, limit: int) -> DataError:
    lengths = np.sort(np.concatenate([each.store.sequence_lengths() for each in splits]))
    keeps = {share: int(lengths[math.ceil(len(lengths) * share / 100) - 1]) for share in (95, 99, 100)}
    first = split.store.row_index[np.argmax(split.store.sequence_lengths() > limit)]
    [row] = split.rows(np.array([first]))
    lines = [
        f"{np.count_nonzero(lengths > limit)} of {len(lengths)} rows are longer than pack.max_length {limit} tokens, "
        f"the first is {place(exact_json.loads(row))}",
        *_histogram_lines(lengths),
        "max_length that keeps " + ", ".join(f"{share} %: {length}" for share, length in keeps.items()),
    ]
    return DataError(
        "\n".join(lines), hint=f"--set pack.max_length={keeps[100]}, or pack.overlong=drop, or truncate_prompt"
    )


def _histogram(lengths: Ints) -> dict[str, list[int]]:
    """Count lengths in up to ten bins of equal width whose edges are whole: a bin holds low to high - 1 tokens."""
    low, high = int(lengths.min()), int(lengths.max())
    width = math.ceil((high - low + 1) / 10)
    edges = list(range(low, high + width + 1, width))
    counts, _ = np.histogram(lengths, bins=edges)
    return {"edges": edges, "counts": counts.tolist()}


def _histogram_lines(lengths: Ints) -> Iterator[str]:
    histogram = _histogram(lengths)
    most = max(histogram["counts"])
    for low, high, count in zip(histogram["edges"], histogram["edges"][1:], histogram["counts"], strict=False):
        yield f"  {low:>6} - {high - 1:<6} {count:>7} {'#' * math.ceil(30 * count / most)}"


def _stop_token(split: TokenSplit, renderer: Renderer) -> int:
    """Return the token that ends the answers, checking that it is trained; rows of token ids may end anywhere.

    Raises:
        DataError: Answers end in ordinary text, so that the model would never learn to stop.
    """
    ends, first, counts = np.unique(split.store.last_trained(), return_index=True, return_counts=True)
    token = int(ends[np.lexsort((first, -counts))[0]])
    if token in renderer.end_ids:
        return token
    tokenizer = renderer.tokenizer
    if "input_ids" in _first_row(split.rows_path) and tokenizer.eos_token_id is not None:
        return tokenizer.eos_token_id
    raise DataError(
        f"answers end in {tokenizer.decode([token])!r}, which is no end token: the model would never learn to stop",
        hint="let the chat template close each assistant turn with the end token (model.chat_template)",
    )


def _plan(split: TokenSplit, recipe: Recipe) -> tuple[PackPlan, bool]:
    """Repeat rows as their sources ask, then pack them or not.

    A pair stays an item of its own: it counts for `train.global_batch_size`, and its lengths are packed in the batch.
    """
    texts = split.rows(split.store.row_index)
    rows = _repeated((exact_json.loads(text) if b'"repeat"' in text else {} for text in texts), recipe.seed)
    if not len(rows):
        raise DataError("`repeat` leaves no training rows", hint="raise data.sources[].repeat")
    packing = recipe.pack.packing
    is_packed = len(rows) >= PACK_FROM_ROWS if packing == "auto" else packing
    if is_packed and row_facts(recipe.method).are_packed:
        return pack_rows(rows, split.store.lengths(), capacity=recipe.pack.max_length), True
    return one_by_one(rows), False


def _repeated(rows: Iterable[dict[str, Any]], seed: int) -> Ints:
    """Return the row numbers of one epoch: 2.5 is every row of the source twice and a seeded half of them once more."""
    sources: dict[tuple[str, float], list[int]] = {}
    for index, row in enumerate(rows):
        sources.setdefault((str(row.get("source")), float(row.get("repeat", 1.0))), []).append(index)
    counts = np.zeros(sum(map(len, sources.values())), dtype=np.int64)
    for (source, repeat), members in sources.items():
        # seeded by the source too: its half stays the same when another source changes
        extra = random.Random(f"{seed} {source}").sample(members, round((repeat % 1) * len(members)))
        counts[members] = int(repeat)
        counts[extra] += 1
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def _report(
    splits: list[TokenSplit],
    dropped: dict[str, list[str]],
    packs: PackPlan,
    is_packed: bool,
    stop: int,
    section: PackSection,
) -> dict[str, Any]:
    train, validation, heldout = (split.store for split in splits)
    lengths = train.lengths()
    epoch_tokens = int(lengths[packs.rows].sum())
    quantiles = np.quantile(lengths, [0, 0.05, 0.5, 0.95, 1], method="nearest").tolist()
    return {
        "rows": len(train),
        "rows_validation": len(validation),
        "rows_heldout": len(heldout),
        "dropped": dropped,
        "tokens": int(lengths.sum()),
        "trained_tokens": int(train.num_trained().sum()),
        "longest": int(lengths.max()),
        "items": len(packs),
        "is_packed": bool(is_packed),
        "fill": round(epoch_tokens / (len(packs) * section.max_length), 4) if is_packed else None,
        "stop_token_id": stop,
        "histogram": _histogram(lengths),
        "quantiles": quantiles,
    }


# Checks


def _dated(renderer: Renderer, split: TokenSplit, context: StageContext) -> Iterator[Finding]:
    """Yield a finding where the template prints today's date, with a template that does not as the way out."""
    row = _first_row(split.rows_path)
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
        (context.dir / FIXED_DATE).write_text(fixed, encoding="utf-8")
        path = context.run.stage_dir("pack") / FIXED_DATE
        ways.append(f"cp {shlex.quote(str(path))} . and set model.chat_template: {FIXED_DATE}")
    detail = f"{date_text!r} is in every prompt: the rows were trained with it, and the model is served on other days"
    yield Finding("T004", detail, len(split.store), fix=", or ".join(ways) or None)


def _num_steps(recipe: Recipe, num_items: int) -> int:
    train = recipe.train
    if train.max_steps is not None or train.num_train_epochs is None:
        return train.max_steps or 0
    return max(1, math.ceil(round(num_items * train.num_train_epochs, 6) / train.global_batch_size))


def _long_rows(train: TokenSplit, before: TokenStore, recipe: Recipe) -> LongRows:
    """Describe the training rows that `pack.overlong` dropped or cut; `before` is as they were before."""
    limit = recipe.pack.max_length
    long = np.flatnonzero(before.sequence_lengths() > limit)
    filled = np.array([row for row in long.tolist() if _num_prompt_tokens(before, row) >= limit], dtype=np.int64)
    dropped = np.setdiff1d(before.row_index, train.store.row_index)
    lost = int(before.lengths().sum()) - int(train.store.lengths().sum())
    return LongRows(_listed(train, before, long, recipe), len(dropped), lost, _listed(train, before, filled, recipe))


def _num_prompt_tokens(store: TokenStore, row: int) -> int:
    ids, mask = store.pieces(row)[0]
    return int(mask.argmax()) if mask.any() else len(ids)


def _listed(train: TokenSplit, before: TokenStore, rows: Ints, recipe: Recipe) -> Seen:
    listed = before.row_index[rows[: recipe.data.lint.max_rows_listed]]
    return Seen(len(rows), tuple(place(exact_json.loads(text)) for text in train.rows(listed)))


def _facts(report: dict[str, Any], long: LongRows, train: TokenSplit, recipe: Recipe) -> TokenFacts:
    return TokenFacts(
        max_length=recipe.pack.max_length,
        lengths=train.store.lengths(),
        num_trained=report["trained_tokens"],
        long=long,
        num_packs=report["items"] if report["is_packed"] else 0,
        fill=report["fill"] or 0.0,
        num_items=report["items"],
        batch_size=recipe.train.global_batch_size,
        num_steps=report["steps"],
        limit="train.max_steps" if recipe.train.max_steps is not None else "train.num_train_epochs",
    )
