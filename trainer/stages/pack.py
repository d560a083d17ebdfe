"""pack: rows to token ids, loss masks and packs.

Reads `data/*.jsonl`; writes `{train,validation,heldout}.safetensors`, `packs.safetensors` (training items),
`report.json`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from trainer.errors import DataError
from trainer.model.load import load_tokenizer
from trainer.recipe import Recipe
from trainer.recipe.data import PackSection
from trainer.rundir import StageContext, cache_dir, write_json
from trainer.tokens.chat import PairTokens, Renderer, Tokens, place
from trainer.tokens.pack import PackPlan, one_by_one, pack_rows
from trainer.tokens.store import TokenStore, from_pairs, from_tokens

SPLITS = ("train", "validation", "heldout")
PACK_FROM_ROWS = 1000


@dataclass
class Split:
    """One split while it is tokenized."""

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[tuple[int, Tokens | PairTokens]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def run(recipe: Recipe, context: StageContext) -> None:
    """Tokenize every split, check the masks, plan the packs.

    Raises:
        DataError: A row is too long, cannot be rendered or trains nothing.
    """
    tokenizer = load_tokenizer(recipe.model, cache_dir())
    renderer = Renderer(tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=recipe.model.chat_template_kwargs)
    splits = [Split(name, _read(context.input("data", f"{name}.jsonl"))) for name in SPLITS]
    if not splits[0].rows:
        raise DataError(
            "data/train.jsonl has no rows", hint="check data.sources and data.split, then: trainer data RECIPE"
        )
    is_pairs = "chosen" in splits[0].rows[0]
    for split in splits:
        for line, row in enumerate(split.rows):
            split.tokens.append((line, renderer.pair(row) if is_pairs else renderer.tokens(row)))
    _fit(splits, recipe.pack)
    stop = _stop_token(splits[0], renderer)
    stores = {split.name: (from_pairs if is_pairs else from_tokens)(split.tokens) for split in splits}  # type: ignore[arg-type]
    for name, store in stores.items():
        store.save(context.dir / f"{name}.safetensors")
    packs, is_packed = _plan(splits[0], stores["train"], recipe)
    packs.save(context.dir / "packs.safetensors")
    report = _report(splits, stores, packs, is_packed, stop, recipe.pack)
    write_json(context.dir / "report.json", report)
    context.numbers.update({key: value for key, value in report.items() if not isinstance(value, dict | list)})
    context.say(
        f"pack: {report['rows']} training rows in {report['items']} "
        f"{'packs' if is_packed else 'items'}, {report['tokens']} tokens, {report['trained_tokens']} trained"
    )


def _read(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return [orjson.loads(line) for line in file]


def _length(tokens: Tokens | PairTokens) -> int:
    if isinstance(tokens, Tokens):
        return len(tokens.ids)
    return len(tokens.prompt) + max(len(tokens.chosen), len(tokens.rejected))


def _fit(splits: list[Split], section: PackSection) -> None:
    """Apply `pack.overlong` to rows over `pack.max_length`; a target is never cut."""
    limit = section.max_length
    long = [(split, index) for split in splits for index, (_, t) in enumerate(split.tokens) if _length(t) > limit]
    if not long:
        return
    if section.overlong == "error":
        raise _overlong_error(splits, long, limit)
    for split in splits:
        kept: list[tuple[int, Tokens | PairTokens]] = []
        for line, tokens in split.tokens:
            shorter = _shortened(tokens, section)
            if shorter is None:
                split.dropped.append(place(split.rows[line]))
            else:
                kept.append((line, shorter))
        split.tokens = kept
    if not splits[0].tokens:
        raise DataError(
            f"every training row is over pack.max_length {limit}", hint="raise pack.max_length, see pack.overlong"
        )


def _shortened(tokens: Tokens | PairTokens, section: PackSection) -> Tokens | PairTokens | None:
    if _length(tokens) <= section.max_length:
        return tokens
    return _truncate_prompt(tokens, section.max_length) if section.overlong == "truncate_prompt" else None


def _truncate_prompt(tokens: Tokens | PairTokens, limit: int) -> Tokens | PairTokens | None:
    """Drop the oldest prompt tokens; None where the target alone is too long."""
    excess = _length(tokens) - limit
    if isinstance(tokens, PairTokens):
        return (
            PairTokens(tokens.prompt[excess:], tokens.chosen, tokens.rejected) if excess < len(tokens.prompt) else None
        )
    if excess >= tokens.mask.index(1):
        return None
    return Tokens(tokens.ids[excess:], tokens.mask[excess:])


def _overlong_error(splits: list[Split], long: list[tuple[Split, int]], limit: int) -> DataError:
    lengths = sorted(_length(tokens) for split in splits for _, tokens in split.tokens)
    keeps = {share: lengths[math.ceil(len(lengths) * share / 100) - 1] for share in (95, 99, 100)}
    split, index = long[0]
    first = place(split.rows[split.tokens[index][0]])
    lines = [
        f"{len(long)} of {len(lengths)} rows are longer than pack.max_length {limit} tokens, the first is {first}",
        *_histogram_lines(lengths),
        "max_length that keeps " + ", ".join(f"{share} %: {length}" for share, length in keeps.items()),
    ]
    return DataError(
        "\n".join(lines), hint=f"--set pack.max_length={keeps[100]}, or pack.overlong=drop, or truncate_prompt"
    )


def _histogram(lengths: list[int]) -> dict[str, list[int]]:
    counts, edges = np.histogram(lengths, bins=min(10, max(lengths) - min(lengths) + 1))
    return {"edges": [round(float(edge)) for edge in edges], "counts": [int(count) for count in counts]}


def _histogram_lines(lengths: list[int]) -> Iterator[str]:
    histogram = _histogram(lengths)
    most = max(histogram["counts"])
    for low, high, count in zip(histogram["edges"], histogram["edges"][1:], histogram["counts"], strict=False):
        yield f"  {low:>6} - {high:<6} {count:>7} {'#' * math.ceil(30 * count / most)}"


def _stop_token(split: Split, renderer: Renderer) -> int:
    """Return the token that ends the answers, checking that it is trained.

    Raises:
        DataError: Answers end in ordinary text, so that the model would never learn to stop.
    """
    ends = Counter(
        (t.ids[max(i for i, flag in enumerate(t.mask) if flag)] if isinstance(t, Tokens) else t.chosen[-1])
        for _, t in split.tokens
    )
    token, _ = ends.most_common(1)[0]
    if token not in renderer.end_ids:
        raise DataError(
            f"answers end in {renderer.tokenizer.decode([token])!r}, which is no end token: "
            "the model would never learn to stop",
            hint="let the chat template close each assistant turn with the end token (model.chat_template)",
        )
    return int(token)


def _plan(split: Split, store: TokenStore, recipe: Recipe) -> tuple[PackPlan, bool]:
    """Repeat rows as their sources ask, then pack them or not."""
    rows = _repeated([split.rows[line] for line, _ in split.tokens], recipe.seed)
    if not rows:
        raise DataError("`repeat` leaves no training rows", hint="raise data.sources[].repeat")
    wanted = recipe.pack.packing
    is_packed = (len(rows) >= PACK_FROM_ROWS if wanted == "auto" else wanted) and not store.is_pairs
    if is_packed:
        return pack_rows(rows, store.lengths(), capacity=recipe.pack.max_length), True
    return one_by_one(rows), False


def _repeated(rows: list[dict[str, Any]], seed: int) -> list[int]:
    """Return the row numbers of one epoch: 2.5 is every row of the source twice and a seeded half of them once more."""
    sources: dict[tuple[str, float], list[int]] = {}
    for index, row in enumerate(rows):
        sources.setdefault((str(row.get("source")), float(row.get("repeat", 1.0))), []).append(index)
    counts = [0] * len(rows)
    for (source, repeat), members in sources.items():
        # seeded by the source too: its half stays the same when another source changes
        extra = random.Random(f"{seed} {source}").sample(members, round((repeat % 1) * len(members)))
        for index in members:
            counts[index] = int(repeat)
        for index in extra:
            counts[index] += 1
    return [index for index, count in enumerate(counts) for _ in range(count)]


def _report(
    splits: list[Split],
    stores: dict[str, TokenStore],
    packs: PackPlan,
    is_packed: bool,
    stop: int,
    section: PackSection,
) -> dict[str, Any]:
    train = stores["train"]
    lengths = [int(length) for length in train.lengths()]
    epoch_tokens = int(train.lengths()[packs.rows].sum())
    return {
        "rows": len(train),
        "rows_validation": len(stores["validation"]),
        "rows_heldout": len(stores["heldout"]),
        "dropped": {split.name: split.dropped for split in splits if split.dropped},
        "tokens": sum(lengths),
        "trained_tokens": int(train.num_trained().sum()),
        "longest": max(lengths),
        "items": len(packs),
        "is_packed": bool(is_packed),
        "fill": round(epoch_tokens / (len(packs) * section.max_length), 4) if is_packed else None,
        "stop_token_id": stop,
        "histogram": _histogram(lengths),
    }
