"""eval: base and tuned on the same held-out rows, with the same template and greedy decoding.

Writes `predictions.jsonl`, `scores.json`, `gates.json`.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from tqdm import tqdm

from trainer.errors import DataError, HardwareError
from trainer.model.adapter import load_on
from trainer.model.load import load_model, load_tokenizer, precision
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter
from trainer.rundir import StageContext, cache_dir, read_json, write_json
from trainer.scoring.arms import Measured, Question, compare, judge, measure, score
from trainer.scoring.generate import Generator
from trainer.scoring.graders import exact_match, mostly_json
from trainer.tokens.chat import Renderer
from trainer.tokens.store import TokenStore

DEFAULT_BATCH_SIZE = 32
MIN_NEW_TOKENS = 32


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows that are used."""

    questions: list[Question]
    rows: list[tuple[Any, Any]]
    rejected: list[tuple[Any, Any]] | None


def run(recipe: Recipe, context: StageContext) -> None:
    """Measure every arm of `eval.arms`.

    Raises:
        DataError: There are no held-out rows.
        HardwareError: Out of memory.
    """
    tokenizer = load_tokenizer(recipe.model, cache_dir())
    held = _held_out(recipe, context, tokenizer)
    generator_settings = _decoding(recipe, context, tokenizer, held)
    measured: dict[str, Measured] = {}
    try:
        for arm, model in _arms(recipe, context):
            measured[arm] = _measure(recipe, context, arm, model, tokenizer, held, generator_settings)
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"out of memory in eval: {str(error).splitlines()[0]}", hint="--set eval.batch_size=4"
        ) from error
    scores = _scores(recipe, measured, held)
    scores["most_frequent_answer"] = _most_frequent(held)
    write_json(context.dir / "scores.json", scores)
    write_json(context.dir / "gates.json", [judge(gate, scores["arms"]) for gate in recipe.eval.gates])
    _write_predictions(context.dir / "predictions.jsonl", held, measured)
    context.numbers["rows"] = len(held.rows)
    for arm, metrics in scores["arms"].items():
        context.numbers.update({f"{arm}_{metric}": round(value["value"], 6) for metric, value in metrics.items()})


def _held_out(recipe: Recipe, context: StageContext, tokenizer: Any) -> HeldOut:
    store = TokenStore.load(context.input("pack", "heldout.safetensors"))
    lines = context.input("data", "heldout.jsonl").read_bytes().splitlines()
    if not len(store):
        raise DataError("there are no held-out rows to evaluate on", hint="set data.split.heldout, for example 0.2")
    chosen = list(range(len(store)))
    if len(chosen) > recipe.eval.max_rows:
        chosen = sorted(random.Random(recipe.seed).sample(chosen, recipe.eval.max_rows))
    renderer = Renderer(tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=recipe.model.chat_template_kwargs)
    questions = []
    for index in chosen:
        row = orjson.loads(lines[int(store.row_index[index])])
        if "text" not in row and _answer(row).get("weight", 1):
            questions.append(_question(row, renderer, tokenizer))
    if store.is_pairs:
        pairs = [store.pair(index) for index in chosen]
        return HeldOut(questions, [_side(p, c) for p, c, _ in pairs], [_side(p, r) for p, _, r in pairs])
    return HeldOut(questions, [store.row(index) for index in chosen], None)


def _side(prompt: Any, answer: Any) -> tuple[Any, Any]:
    return np.concatenate([prompt, answer]), np.concatenate([np.zeros_like(prompt), np.ones_like(answer)])


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    """Return the message that is the reference: the last one, of preference rows the chosen one."""
    message: dict[str, Any] = (row["chosen"] if "chosen" in row else row["messages"])[-1]
    return message


def _question(row: dict[str, Any], renderer: Renderer, tokenizer: Any) -> Question:
    messages = row["prompt"] if "prompt" in row else row["messages"][:-1]
    answer = _answer(row)
    reference = answer.get("content") or ""
    if answer.get("tool_calls"):  # as the template writes them
        whole = renderer.text(row, [*messages, answer])
        ids = tokenizer(whole[len(renderer.prompt_text(row)) :], add_special_tokens=False)["input_ids"]
        reference = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
    return Question(row["source"], row["line"], messages, renderer.prompt_ids(row), reference)


def _decoding(recipe: Recipe, context: StageContext, tokenizer: Any, held: HeldOut) -> dict[str, Any]:
    stop = {int(read_json(context.input("pack", "report.json"))["stop_token_id"])}
    if tokenizer.eos_token_id is not None:
        stop.add(int(tokenizer.eos_token_id))
    limit = recipe.eval.max_new_tokens
    if limit == "auto":
        lengths = [len(tokenizer(q.reference, add_special_tokens=False)["input_ids"]) for q in held.questions]
        limit = max(MIN_NEW_TOKENS, 2 * max(lengths, default=0))
    return {"stop_ids": sorted(stop), "max_new_tokens": limit}


def _arms(recipe: Recipe, context: StageContext) -> Iterator[tuple[str, Any]]:
    """Yield (name, model); an adapter is switched off for base, so both share one copy of the weights."""
    types = precision(recipe.model, None)
    wanted = recipe.eval.arms
    if isinstance(recipe.adapter, LoraAdapter):
        base = load_model(recipe.model, cache_dir(), adapter=recipe.adapter, dtype=types.weights).eval()
        model = load_on(base, context.input("train", "adapter"))
        for arm in wanted:
            with model.disable_adapter() if arm == "base" else nullcontext():
                yield arm, model
        return
    for arm in wanted:
        section = recipe.model
        if arm == "tuned":
            section = section.model_copy(update={"name_or_path": str(context.input("train", "model").absolute())})
        yield arm, load_model(section, cache_dir(), dtype=types.weights).eval()


def _measure(
    recipe: Recipe,
    context: StageContext,
    arm: str,
    model: Any,
    tokenizer: Any,
    held: HeldOut,
    settings: dict[str, Any],
) -> Measured:
    named = recipe.eval.batch_size
    context.say(f"eval: {arm} on {len(held.rows)} held-out rows")
    total = max(1, len(held.questions))
    with tqdm(total=total, desc=f"eval {arm}", unit="row", disable=not sys.stderr.isatty()) as bar:
        return measure(
            model,
            Generator(model, tokenizer, **settings),
            held.questions,
            held.rows,
            rejected=held.rejected,
            batch_size=DEFAULT_BATCH_SIZE if named == "auto" else named,
            latency_rows=min(recipe.eval.latency_rows, total),
            progress=bar.update,
        )


def _metrics(recipe: Recipe, held: HeldOut) -> list[str]:
    if recipe.eval.metrics != "auto":
        return list(recipe.eval.metrics)
    found = ["exact_match"] if held.questions else []
    if mostly_json([question.reference for question in held.questions]):
        found.append("valid_json")
    if held.rejected is not None:
        found.append("preference_accuracy")
    return [*found, "loss", "latency_p50_s"]


def _scores(recipe: Recipe, measured: dict[str, Measured], held: HeldOut) -> dict[str, Any]:
    metrics, seed = _metrics(recipe, held), recipe.seed
    arms: dict[str, dict[str, Any]] = {}
    for arm, results in measured.items():
        found = {metric: score(metric, results, held.questions, seed) for metric in metrics}
        arms[arm] = {metric: value for metric, value in found.items() if value is not None}
    comparisons = []
    if {"base", "tuned"} <= measured.keys():
        pairs = [compare(m, measured["tuned"], measured["base"], held.questions, seed) for m in metrics]
        comparisons = [{"arm": "tuned", "vs": "base", **pair} for pair in pairs if pair is not None]
    return {"arms": arms, "comparisons": comparisons}


def _most_frequent(held: HeldOut) -> dict[str, Any] | None:
    """Return the best that one constant answer could do on these rows: the score of knowing nothing."""
    counts = Counter(question.reference.strip() for question in held.questions)
    if not counts or max(counts.values()) == 1:
        return None
    text, hits = counts.most_common(1)[0]
    return {"text": text[:200], "exact_match": hits / len(held.questions)}


def _write_predictions(path: Path, held: HeldOut, measured: dict[str, Measured]) -> None:
    with path.open("wb") as file:
        for index, question in enumerate(held.questions):
            answers = {
                arm: {
                    "text": results.answers[index].text,
                    "num_tokens": results.answers[index].num_tokens,
                    "finished": results.answers[index].finished,
                    "exact_match": exact_match(results.answers[index].text, question.reference),
                }
                for arm, results in measured.items()
            }
            line = {
                "source": question.source,
                "line": question.line,
                "messages": question.messages,
                "reference": question.reference,
                "answers": answers,
            }
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
