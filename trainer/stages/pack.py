"""Run `trainer pack`: turn rows into token ids, loss masks and packs.

Reads `data/*.jsonl`; writes `{train,validation,heldout}.safetensors`, `packs.safetensors` (training items),
`report.json` with the findings of the checks that need tokens. Tokens are kept by content in `tokens/` of the cache
folder, up to TRAINER_TOKEN_CACHE_GIB GiB (10; 0 turns it off), so that another run or recipe with the same rows and
tokenizer has them at once.
"""

from __future__ import annotations

import math
import os
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from trainer import exact_json
from trainer.data.lint.findings.tokens import LongRows, TokenFacts, quote_findings, token_findings
from trainer.data.lint.rules import RULES
from trainer.data.lint.run import raise_errors, settled
from trainer.disk import cache_dir, write_json
from trainer.errors import DataError, HardwareError
from trainer.model.load import load_tokenizer
from trainer.recipe import Recipe
from trainer.recipe.data import PackSection
from trainer.recipe.method import row_facts
from trainer.render.data.findings import short_refs
from trainer.render.data.terminal import findings_text
from trainer.rundir import StageContext
from trainer.tokens.batch import tokenize_file
from trainer.tokens.cache import TokenCache, cache_key
from trainer.tokens.chat import Renderer
from trainer.tokens.examples import split_lines, split_rows
from trainer.tokens.findings import FIXED_DATE, date_finding, form_of_calls, long_rows, unusable_rows
from trainer.tokens.pack import PackPlan, one_by_one, pack_rows
from trainer.tokens.quotes import quotes_of
from trainer.tokens.repeat import repeated, texts_of_rows
from trainer.tokens.splits import TokenSplit, first_row, fit_splits, histogram, stop_token, stop_tokens
from trainer.tokens.store import StoredShape, TokenStore

SPLITS = ("train", "validation", "heldout")
PACK_FROM_ROWS = 1000
CACHE_GIB = "TRAINER_TOKEN_CACHE_GIB"


def run(recipe: Recipe, context: StageContext) -> None:
    """Tokenize every split, check the masks, plan the packs.

    Raises:
        DataError: A row is too long, cannot be rendered or trains nothing.
    """
    tokenizer = load_tokenizer(recipe.model, cache_dir())
    renderer = Renderer(
        tokenizer,
        loss_on=recipe.pack.loss_on,
        loss_on_reasoning=recipe.pack.loss_on_reasoning,
        template_kwargs=recipe.model.chat_template_kwargs,
    )
    splits = _tokenized(context, renderer, recipe.method.shape)
    before_limit = splits[0].store
    dropped = fit_splits(splits, recipe.pack)
    train = splits[0]
    stop = stop_token(train, renderer)
    packs, is_packed = _plan(train, recipe)
    packs.save(context.dir / "packs.safetensors")
    report = _report(splits, dropped, packs, is_packed, stop, recipe.pack)
    report["stop_token_ids"] = stop_tokens(train, renderer)
    report["steps"] = _num_steps(recipe, report["items"])
    long = long_rows(train, before_limit, recipe)
    token_facts = _facts(report, long, train, recipe)
    dated = date_finding(renderer, train, context.dir / FIXED_DATE, context.run.stage_dir("pack") / FIXED_DATE)
    quotes = quotes_of(train.rows_path, renderer)
    quoting = quote_findings(quotes.locations, quotes.tokens, quotes.ends, len(train.store))
    findings = settled(chain(token_findings(token_facts, recipe.data.lint), dated, quoting), recipe.data.lint)
    report["lint"] = [finding.to_json() for finding in findings]
    write_json(context.dir / "report.json", report)
    context.numbers.update({key: value for key, value in report.items() if not isinstance(value, dict | list)})
    context.say(
        f"pack: {report['rows']} training rows in {report['items']} "
        f"{'packs' if is_packed else 'items'}, {report['tokens']} tokens, {report['trained_tokens']} trained"
    )
    for line in split_lines(report["split"]):
        context.say(f"pack: {line}")
    context.say(findings_text(report["lint"]))
    raise_errors(report["lint"])


def _tokenized(context: StageContext, renderer: Renderer, shape: StoredShape) -> list[TokenSplit]:
    """Tokenize every split, or take its tokens from the cache."""
    paths = {name: context.input("data", f"{name}.jsonl") for name in SPLITS}
    first_row(paths["train"])  # there must be one
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
    if form := form_of_calls(paths["train"], renderer):
        context.say(f"pack: the chat template is given tool calls in the form that it takes: {form}")
    if cached:
        context.say(f"pack: tokens of {', '.join(cached)} taken from {cache.folder}, where an earlier run left them")
    return splits


def _tokenize(path: Path, renderer: Renderer, target: Path, shape: StoredShape) -> int:
    """Write the token file of a split.

    Raises:
        DataError: Of the first row that cannot be tokenized, with how many others there are.
    """
    try:
        return tokenize_file(path, renderer, target, shape)
    except DataError as error:
        findings = [finding for finding in unusable_rows(path, renderer, shape) if finding.count]
        if not findings:
            raise
        lines = [
            f"{finding.rule}: {RULES[finding.rule].title}: {finding.detail}: " + ", ".join(short_refs(finding.rows))
            for finding in findings
        ]
        raise DataError("\n".join([error.message, *lines]), hint=error.hint) from error


def _cache_bytes() -> int:
    text = os.environ.get(CACHE_GIB, "10")
    try:
        return int(float(text) * 2**30)
    except (ValueError, OverflowError) as error:
        raise HardwareError(f"{CACHE_GIB} is {text!r}, no number of GiB", hint=f"export {CACHE_GIB}=10") from error


def _plan(split: TokenSplit, recipe: Recipe) -> tuple[PackPlan, bool]:
    """Repeat rows as their sources ask, then pack them or not.

    A pair stays an item of its own: it counts for `train.global_batch_size`, and its lengths are packed in the batch.
    """
    lines, counts = np.unique(split.store.row_index, return_counts=True)
    texts = split.rows(lines)
    repeats = repeated((exact_json.loads(text) if b'"repeat"' in text else {} for text in texts), recipe.seed)
    rows = texts_of_rows(repeats, counts)
    if not len(rows):
        raise DataError("`repeat` leaves no training rows", hint="raise data.sources[].repeat")
    packing = recipe.pack.packing
    is_packed = len(rows) >= PACK_FROM_ROWS if packing == "auto" else packing
    if is_packed and row_facts(recipe.method).are_packed:
        return pack_rows(rows, split.store.lengths(), capacity=recipe.pack.max_length), True
    return one_by_one(rows), False


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
        "rows": train.num_lines(),
        "examples": len(train),
        "split": split_rows(train),
        "rows_validation": validation.num_lines(),
        "rows_heldout": heldout.num_lines(),
        "dropped": dropped,
        "tokens": int(lengths.sum()),
        "trained_tokens": int(train.num_trained().sum()),
        "longest": int(lengths.max()),
        "items": len(packs),
        "is_packed": bool(is_packed),
        "fill": round(epoch_tokens / (len(packs) * section.max_length), 4) if is_packed else None,
        "stop_token_id": stop,
        "histogram": histogram(lengths),
        "quantiles": quantiles,
    }


# Checks


def _num_steps(recipe: Recipe, num_items: int) -> int:
    train = recipe.train
    if train.max_steps is not None or train.num_train_epochs is None:
        return train.max_steps or 0
    return max(1, math.ceil(round(num_items * train.num_train_epochs, 6) / train.global_batch_size))


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
