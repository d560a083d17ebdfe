"""Test at the start which parts of the engine a model can use, by comparing log-probabilities and gradients.

The untouched model scores a few rows one by one, with its own attention and full logits: these are the expected
numbers. Then the engine's parts are switched on one after another, and each must give the same numbers; a part that
does not is switched off again, and a line of the log gives the reason. The products have the training's types, and
adapters that are still zero are filled for the test: so it runs what the training will run.

    1. LoRA layers in one product       else PEFT's own forward
    2. head on trained tokens only      else log-probabilities from all logits
    3. attention and recurrent layers   else padded rows, with a mask if the model needs one, and packs by position_ids
       on flat batches and shared
       prompts of pairs
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora.layer import ParamWrapper
from transformers import PretrainedConfig, PreTrainedModel

from trainer.engine import current, lora, mixers, outcome
from trainer.engine.attention import UNLIMITED, WINDOWED, NotCovered, switch_off, switch_on
from trainer.engine.batch import Batch, Layout, Pair, moved, of_pairs, of_rows
from trainer.engine.head import Logits, Scorer
from trainer.engine.masks import packing_known
from trainer.tokens.arrays import Ints

TOLERANCE = {torch.float32: (1e-3, 1e-4), torch.float64: (1e-6, 1e-6)}
HALF_TOLERANCE = (0.05, 0.02)
"""Limits of largest and mean difference of log-probabilities, as shares of the largest and the mean magnitude."""
Item = TypeVar("Item")
PROBE_TOKENS = 256
GRADIENT_TOKENS = 64
"""Of a row in a backward pass: nothing is recomputed yet, and every layer keeps all its activations."""


@dataclass(frozen=True)
class Engine:
    """Score batches in the layouts that a model can use."""

    layout: Layout
    """Of batches of single rows."""
    packed_layout: Layout | None
    """Of packs of several rows; None where rows of a pack would attend to each other."""
    leak: str | None
    """Reason why rows are not packed."""
    scorer: Scorer | None
    """Computes the head on trained tokens only; None: log-probabilities from all logits."""

    def score(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the log-probability of each target, (N,), and a router's auxiliary loss."""
        targets = batch["targets"]
        if self.scorer is not None:
            scores = self.call(model, batch, targets=targets)
            return scores["log_probs"], scores["aux_loss"]
        output = self.call(model, batch)
        logits = output.logits.reshape(-1, output.logits.shape[-1]).index_select(0, targets.positions)  # (N, V)
        return picked_log_probs(logits, targets.ids), getattr(output, "aux_loss", None)

    def call(self, model: torch.nn.Module, batch: Batch, **keywords: object) -> Any:
        """Return the model's output for a batch."""
        inputs = dict(batch["inputs"])
        with current.of(inputs.pop("segments", None)), packing_known(inputs):
            return model(**inputs, use_cache=False, **keywords)


def prepare(
    model: PreTrainedModel | PeftModel,
    rows: Sequence[Ints],
    *,
    attention: str,
    say: Callable[[str], None],
    autocast: torch.dtype | None = None,
    may_dequantise: bool = True,
) -> Engine:
    """Switch on the parts of the engine that a model can use.

    Args:
        model: Causal language model, with or without an adapter, on the device where it trains.
        rows: Token ids of a few rows.
        attention: `model.attn_implementation` of the recipe; any but auto stays in place.
        say: Takes lines about used and unused parts.
        autocast: Type of the training's matrix products; None where it is that of the weights.
        may_dequantise: Keep 4-bit weights dequantised as well, where a card has room.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    was_training = model.training
    release(base)
    model.eval()
    device = next(model.parameters()).device.type
    try:
        with (
            torch.no_grad(),
            torch.autocast(device, autocast, enabled=autocast is not None),
            outcome.without_zeros(model),
        ):
            return _Probe(model, base, rows, autocast or base.dtype, may_dequantise).run(attention, say)
    finally:
        model.train(was_training)


def without_segments(base: PreTrainedModel) -> str | None:
    """Return why a model's layers cannot tell the rows of a flat batch apart; None where they may."""
    limited = sorted(set(_layer_types(base)) - UNLIMITED - WINDOWED)
    if limited:
        return f"the model has {limited[0]} layers"
    if not base._can_set_attn_implementation():
        return "the model does not ask transformers for its attention"
    return None


def rope_limit(config: PretrainedConfig) -> int | None:
    """Return the length beyond which position encodings depend on the longest row of a batch; None: they never do.

    The encodings are "dynamic" and "longrope": their frequencies follow the longest row once it exceeds this length.

    Source: transformers' `dynamic_rope_update`; https://arxiv.org/abs/2402.13753 (LongRoPE).
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    for settings in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        match settings.get("rope_type"):
            case "dynamic":
                return int(text.max_position_embeddings)
            case "longrope":
                original = settings.get("original_max_position_embeddings")
                return int(original or getattr(text, "original_max_position_embeddings", text.max_position_embeddings))
    return None


def release(base: PreTrainedModel) -> None:
    """Undo `prepare`; a model that was never prepared stays as it is."""
    if hasattr(base, "_scorer"):
        base._scorer.remove()
    switch_off(base)
    mixers.switch_off(base)
    lora.switch_off(base)


class _Probe:
    """Compare the engine's parts with the untouched model on a few rows."""

    def __init__(
        self,
        model: torch.nn.Module,
        base: PreTrainedModel,
        rows: Sequence[Ints],
        dtype: torch.dtype,
        may_dequantise: bool,
    ) -> None:
        self.model = model
        self.may_dequantise = may_dequantise
        self.base = base
        self.device = next(model.parameters()).device
        self.dtype = dtype
        self.rows = [row[:PROBE_TOKENS].astype("int64") for row in rows if len(row) > 1]
        self.short_rows = [row[:GRADIENT_TOKENS] for row in self.rows]
        self.pairs, self.short_pairs = _as_pairs(self.rows), _as_pairs(self.short_rows)
        self.recurrent = mixers.Recurrent()
        self.kernels: set[str] = set()
        """Of attention on flat batches."""
        self.alone = torch.cat(list(self._untouched(self.rows)))
        self.gradients = self._gradients(self._untouched, self.short_rows)

    def run(self, attention: str, say: Callable[[str], None]) -> Engine:
        self._adapter(say)
        scorer, problem = self._head()
        if problem:
            say(f"train: log-probabilities from all logits: {problem}")
        reason = self._attention(scorer) if attention == "auto" else f"model.attn_implementation is {attention}"
        if reason is None:
            attention_by = f", attention by {' and '.join(sorted(self.kernels))}" if self.kernels else ""
            say(f"train: no padding{attention_by}")
            for line in self.recurrent.lines():
                say(f"train: {line}")
            return Engine("flat", "flat", None, scorer)
        say(f"train: attention by {self.base.config._attn_implementation}, rows are padded: {reason}")
        leak = self._leak(scorer)
        return Engine(self._padding(scorer), None if leak else "positions", leak, scorer)

    def _untouched(self, rows: Sequence[Ints]) -> Iterator[torch.Tensor]:
        """Yield the log-probabilities of all tokens but the first of each row, by the model's own logits."""
        for row in rows:
            ids = torch.from_numpy(row).to(self.device)
            logits = self.model(input_ids=ids[None], use_cache=False).logits[0, :-1]  # (1, T, V) -> (T - 1, V)
            yield picked_log_probs(logits, ids[1:])

    def _untouched_answers(self, pairs: Sequence[Pair]) -> Iterator[torch.Tensor]:
        """Yield the log-probabilities of each answer, scored as a row by itself with its prompt."""
        for pair in pairs:
            for scores in self._untouched(_rows_of(pair)):
                yield scores[len(pair[0]) - 1 :]

    def _gradients(
        self, scores: Callable[[Sequence[Item]], Iterable[torch.Tensor]], items: Sequence[Item]
    ) -> list[torch.Tensor]:
        with torch.enable_grad():
            return outcome.gradients(self.model, scores(items))

    def _problem(self, scores: Callable[[Sequence[Ints]], Iterable[torch.Tensor]]) -> str | None:
        """Compare scores of rows, and their gradients, with those of the untouched model."""
        return self._difference(torch.cat(list(scores(self.rows))), self.alone) or outcome.problem(
            self._gradients(scores, self.short_rows), self.gradients, self.dtype
        )

    def _adapter(self, say: Callable[[str], None]) -> None:
        """Let LoRA layers compute in one product, and report those that do not."""
        dequantised = self.may_dequantise and lora.dequantised_fits(self.base)
        counted = lora.switch_on(self.base, dequantised=dequantised)
        problem = self._problem(self._untouched) if counted[""] else None
        if problem is not None:
            lora.switch_off(self.base)
            counted = Counter({f"one product does not agree: {problem}": counted.total()})
        detail = ", with 4-bit weights dequantised once" if dequantised else ""
        for reason, number in sorted(counted.items()):
            how = f"by PEFT's own forward: {reason}" if reason else f"in one product{detail}"
            say(f"train: LoRA in {number} layers {how}")
        if stacks := sum(isinstance(module, ParamWrapper) for module in self.base.modules()):
            say(f"train: LoRA on {stacks} stacks of experts, summed with the base at each use")

    def _head(self) -> tuple[Scorer | None, str | None]:
        if self.base.get_output_embeddings() is None:
            return None, "the model names no output head"
        problem: str | None = None
        # a configuration does not say where its scale and soft cap apply: the first that agrees is right
        for logits in Logits.candidates(self.base.config):
            scorer = Scorer(self.base, logits)
            difference = self._head_problem(scorer)
            if difference is None:
                return scorer, None
            scorer.remove()
            problem = problem or difference
        return None, f"the head on trained tokens does not agree: {problem}"

    def _head_problem(self, scorer: Scorer) -> str | None:
        engine = Engine("padded", None, None, scorer)
        try:
            return self._problem(
                lambda rows: (engine.score(self.model, self._batch([row], "padded"))[0] for row in rows)
            )
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            return _first_line(error)

    def _attention(self, scorer: Scorer | None) -> str | None:
        """Switch segmented attention on; return the reason where it cannot be used."""
        if reason := without_segments(self.base):
            return reason
        answers = torch.cat(list(self._untouched_answers(self.pairs)))
        gradients = self._gradients(self._untouched_answers, self.short_pairs)
        switch_on(self.base)
        try:
            self.recurrent = self._mixers(scorer)
            problem = self._flat_problem(Engine("flat", "flat", None, scorer), answers, gradients)
        except torch.OutOfMemoryError:
            raise
        except (NotCovered, RuntimeError, TypeError, ValueError, AttributeError) as error:
            problem = _first_line(error)
        if problem is not None:
            switch_off(self.base)
            mixers.switch_off(self.base)
        return problem

    def _mixers(self, scorer: Scorer | None) -> mixers.Recurrent:
        """Find recurrent modules on a flat batch in which every row is cut in two, so that there are several."""
        halves = [part for row in self.rows for part in (row[: len(row) // 2], row[len(row) // 2 :])]
        batch, engine = self._batch(halves, "flat"), Engine("flat", "flat", None, scorer)
        return mixers.switch_on(self.base, lambda: engine.call(self.model, batch))

    def _flat_problem(self, engine: Engine, answers: torch.Tensor, gradients: list[torch.Tensor]) -> str | None:
        def of_flat_rows(rows: Sequence[Ints]) -> Iterator[torch.Tensor]:
            yield self._flat_scores(engine, self._batch(rows, "flat"))

        def of_answers(pairs: Sequence[Pair]) -> Iterator[torch.Tensor]:
            yield self._flat_scores(engine, moved(of_pairs(pairs, "flat", 0), self.device))

        if problem := self._problem(of_flat_rows):
            return f"flat batches do not agree: {problem}"
        problem = self._difference(next(of_answers(self.pairs)), answers) or outcome.problem(
            self._gradients(of_answers, self.short_pairs), gradients, self.dtype
        )
        return None if problem is None else f"shared prefixes do not agree: {problem}"

    def _flat_scores(self, engine: Engine, batch: Batch) -> torch.Tensor:
        """Score a flat batch, and note which attention computes it."""
        scores, _ = engine.score(self.model, batch)
        self.kernels |= batch["inputs"]["segments"].kernels
        return scores

    def _padding(self, scorer: Scorer | None) -> Layout:
        """Compare rows that are filled up, without a mask, with rows alone; a router's loss always needs the mask."""
        if getattr(self.base.config.get_text_config(), "router_aux_loss_coef", None):
            return "masked"
        # each row beside its first half, so that every batch has lines that are filled up
        halves = [row[: max(2, len(row) // 2)] for row in self.rows]
        rows = [part for pair in zip(self.rows, halves, strict=True) for part in pair]
        of_rows = self.alone.split([len(row) - 1 for row in self.rows])
        expected = [part for row, half in zip(of_rows, halves, strict=True) for part in (row, row[: len(half) - 1])]
        try:
            scores = Engine("padded", None, None, scorer).score(self.model, self._batch(rows, "padded"))[0]
            return "masked" if self._difference(scores, torch.cat(expected)) else "padded"
        except (RuntimeError, TypeError, ValueError):
            return "masked"

    def _leak(self, scorer: Scorer | None) -> str | None:
        """Compare rows packed by `position_ids` with rows alone."""
        engine = Engine("positions", "positions", None, scorer)
        try:
            problem = self._difference(engine.score(self.model, self._batch(self.rows, "positions"))[0], self.alone)
        except (RuntimeError, TypeError, ValueError) as error:
            problem = _first_line(error)
        return None if problem is None else f"rows of a pack see each other in this model ({problem})"

    def _difference(self, scores: torch.Tensor, expected: torch.Tensor) -> str | None:
        return difference(scores, expected, self.dtype)

    def _batch(self, rows: Sequence[Ints], layout: Layout) -> Batch:
        return moved(of_rows([[(ids, np.ones(len(ids), dtype=np.uint8)) for ids in rows]], layout, 0), self.device)


def _as_pairs(rows: Sequence[Ints]) -> list[Pair]:
    """Make pairs of rows: each row is cut into prompt and chosen answer, the end of the next row is the rejected one.

    Example:
        >>> for pair in _as_pairs([np.array([1, 2, 3, 4]), np.array([5, 6])]):
        ...     print(*(ids.tolist() for ids in pair))
        [1, 2] [3, 4] [6]
        [5] [6] [3, 4]
    """
    pairs = []
    for row, following in zip(rows, [*rows[1:], rows[0]], strict=True):
        cut = max(1, len(row) // 2)
        pairs.append((row[:cut], row[cut:], following[len(following) // 2 :]))
    return pairs


def _rows_of(pair: Pair) -> list[Ints]:
    prompt, chosen, rejected = pair
    return [np.concatenate([prompt, chosen]), np.concatenate([prompt, rejected])]


def picked_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return log softmax(logits) at some ids, in at least float32.

    Args:
        logits: (N, V).
        ids: (N,).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]


def difference(scores: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Return how far log-probabilities differ; None where they agree as far as the model's type allows."""
    gap = (scores - expected).abs()
    largest = float(gap.max() / expected.abs().max())
    mean = float(gap.mean() / expected.abs().mean())
    at_most, on_average = TOLERANCE.get(dtype, HALF_TOLERANCE)
    if largest <= at_most and mean <= on_average:  # also False for NaN
        return None
    return f"log-probabilities differ by {largest:.1e} of the largest, {mean:.1e} on average"


def _layer_types(base: PreTrainedModel) -> Sequence[str]:
    return getattr(base.config.get_text_config(), "layer_types", None) or ()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
