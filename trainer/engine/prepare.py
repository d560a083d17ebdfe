"""Start-up test on the model itself: what of the engine it can use, and whether the result is the model's own.

A few rows are scored by the model alone, one by one, with its own attention and its full logits. The engine's LoRA
layers, its head, its flat batches and its shared prefixes must give the same numbers; what does not is left out, and a
sentence says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.engine import flash, float8, lora
from trainer.engine.attention import FULL, SLIDING, NotCovered, switch_off, switch_on
from trainer.engine.batch import Batch, Ids, Layout, of_pairs, of_rows
from trainer.engine.head import Logits, Scorer
from trainer.engine.masks import packing_known

TOLERANCE = {torch.float32: (1e-3, 1e-4), torch.float64: (1e-6, 1e-6)}
HALF_TOLERANCE = (0.05, 0.02)
"""Largest and mean difference of log-probabilities, as shares of the largest and of the mean size."""
PROBE_TOKENS = 256
COVERED_LAYERS = {FULL, SLIDING}
"""Other types carry a state along the sequence, or limit attention by a mask that may be wider than the probe."""


@dataclass(frozen=True)
class Engine:
    """How this model is given its batches and asked for log-probabilities."""

    layout: Layout
    """Of a batch of single rows."""
    packed_layout: Layout | None
    """Of packs of several rows; None where rows of a pack would see each other."""
    leak: str | None
    """Why rows are not packed."""
    scorer: Scorer | None
    """The head on trained tokens only; None where log-probabilities are taken from all logits."""

    def score(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the log-probability of each target, (N,), and a router's auxiliary loss."""
        targets = batch["targets"]
        with packing_known(batch["inputs"]):
            if self.scorer is not None:
                found = model(**batch["inputs"], use_cache=False, targets=targets)
                return found["log_probs"], found["aux_loss"]
            output = model(**batch["inputs"], use_cache=False)
        logits = output.logits.reshape(-1, output.logits.shape[-1]).index_select(0, targets.positions)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        found = logits.log_softmax(-1).gather(1, targets.ids[:, None])[:, 0]
        return found, getattr(output, "aux_loss", None)


def prepare(
    model: Any, rows: Sequence[Ids], *, attention: str, say: Callable[[str], None], may_dequantise: bool = True
) -> Engine:
    """Find out what this model can use, and switch it on.

    Args:
        model: Causal language model, with or without an adapter, on the device where it trains.
        rows: Token ids of a few rows, the longest that there are room for.
        attention: `model.attn_implementation` of the recipe; another than auto is left in place.
        say: Told what is used, and what not.
        may_dequantise: 4-bit weights may be kept dequantised besides, where a card has room.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    was_training = model.training
    release(base)
    model.eval()
    try:
        with torch.no_grad(), float8.without_rounding(base):
            return _Probe(model, base, rows, may_dequantise).run(attention, say)
    finally:
        model.train(was_training)


def rope_limit(config: Any) -> int | None:
    """Return the length from which rows of one batch turn each other's positions; None where none does.

    Frequencies of "dynamic" and "longrope" positions follow the longest row of a batch once it is over this length.

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


def release(base: Any) -> None:
    """Put a prepared model back as transformers made it; one that was never prepared stays as it is."""
    if hasattr(base, "_scorer"):
        base._scorer.remove()
    switch_off(base)
    lora.switch_off(base)


class _Probe:
    """The rows, and what the untouched model says about them."""

    def __init__(self, model: Any, base: Any, rows: Sequence[Ids], may_dequantise: bool) -> None:
        self.model = model
        self.may_dequantise = may_dequantise
        self.base = base
        self.device = next(model.parameters()).device
        self.dtype = base.dtype
        self.rows = [row[:PROBE_TOKENS].astype("int64") for row in rows if len(row) > 1]
        self.pairs = _as_pairs(self.rows)
        self.alone = self._own(self.rows)

    def run(self, attention: str, say: Callable[[str], None]) -> Engine:
        self._adapter(say)
        scorer, problem = self._head()
        if problem:
            say(f"train: log-probabilities from all logits: {problem}")
        reason = self._attention(scorer) if attention == "auto" else f"model.attn_implementation is {attention}"
        if reason is None:
            say(f"train: no padding, attention by {_kernel(self.device)}")
            return Engine("flat", "flat", None, scorer)
        say(f"train: attention by {self.base.config._attn_implementation}, rows are padded: {reason}")
        leak = self._leak(scorer)
        return Engine(self._padding(scorer), None if leak else "positions", leak, scorer)

    def _own(self, rows: Sequence[Ids]) -> torch.Tensor:
        """Return the log-probabilities of all tokens but the first of each row, by the model itself."""
        found = []
        for row in rows:
            ids = torch.from_numpy(row).to(self.device)
            logits = self.model(input_ids=ids[None], use_cache=False).logits[0, :-1]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            found.append(logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0])
        return torch.cat(found)

    def _adapter(self, say: Callable[[str], None]) -> None:
        """Let LoRA layers compute in one product, and say which do not."""
        dequantised = self.may_dequantise and lora.dequantised_fits(self.base)
        counted = lora.switch_on(self.base, dequantised=dequantised)
        problem = self._difference(self._own(self.rows), self.alone) if counted[""] else None
        if problem is not None:
            lora.switch_off(self.base)
            counted = Counter({f"one product does not agree: {problem}": counted.total()})
        kept = ", with 4-bit weights dequantised once" if dequantised else ""
        for reason, number in sorted(counted.items()):
            how = f"by PEFT's own forward: {reason}" if reason else f"in one product{kept}"
            say(f"train: LoRA in {number} layers {how}")

    def _head(self) -> tuple[Scorer | None, str | None]:
        if self.base.get_output_embeddings() is None:
            return None, "the model names no output head"
        problem: str | None = None
        for logits in Logits.candidates(self.base.config):
            scorer = Scorer(self.base, logits)
            other = self._head_problem(scorer)
            if other is None:
                return scorer, None
            scorer.remove()
            problem = problem or other
        return None, f"the head on trained tokens does not agree: {problem}"

    def _head_problem(self, scorer: Scorer) -> str | None:
        engine = Engine("padded", None, None, scorer)
        try:
            found = [engine.score(self.model, self._batch([row], "padded"))[0] for row in self.rows]
            return self._difference(torch.cat(found), self.alone)
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            return _first_line(error)

    def _attention(self, scorer: Scorer | None) -> str | None:
        """Switch segmented attention on; return why it cannot be used."""
        others = sorted(set(_layer_types(self.base)) - COVERED_LAYERS)
        if others:
            return f"the model has {others[0]} layers"
        if not self.base._can_set_attn_implementation():
            return "the model does not ask transformers for its attention"
        expected = self._own([ids for pair in self.pairs for ids in _wholes(pair)])
        switch_on(self.base)
        try:
            problem = self._flat_problem(scorer, expected)
        except (NotCovered, RuntimeError, TypeError, ValueError, AttributeError) as error:
            problem = _first_line(error)
        if problem is not None:
            switch_off(self.base)
        return problem

    def _flat_problem(self, scorer: Scorer | None, expected: torch.Tensor) -> str | None:
        engine = Engine("flat", "flat", None, scorer)
        rows = self._difference(engine.score(self.model, self._batch(self.rows, "flat"))[0], self.alone)
        if rows is not None:
            return f"flat batches do not agree: {rows}"
        batch = of_pairs(self.pairs, "flat", 0)
        batch = {"inputs": _moved(batch["inputs"], self.device), "targets": batch["targets"].to(self.device)}
        answers = [
            part[len(prompt) - 1 :]
            for prompt, part in zip(
                [pair[0] for pair in self.pairs for _ in range(2)],
                expected.split([len(ids) - 1 for pair in self.pairs for ids in _wholes(pair)]),
                strict=True,
            )
        ]
        shared = self._difference(engine.score(self.model, batch)[0], torch.cat(answers))
        return None if shared is None else f"shared prefixes do not agree: {shared}"

    def _padding(self, scorer: Scorer | None) -> Layout:
        """Compare rows that are filled up, without a mask, with rows alone; losses of routers count what is masked."""
        if getattr(self.base.config.get_text_config(), "router_aux_loss_coef", None):
            return "masked"
        halves = [row[: max(2, len(row) // 2)] for row in self.rows]
        rows = [one for pair in zip(self.rows, halves, strict=True) for one in pair]
        wholes = self.alone.split([len(row) - 1 for row in self.rows])
        expected = [one for whole, half in zip(wholes, halves, strict=True) for one in (whole, whole[: len(half) - 1])]
        try:
            found = Engine("padded", None, None, scorer).score(self.model, self._batch(rows, "padded"))[0]
            return "masked" if self._difference(found, torch.cat(expected)) else "padded"
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

    def _difference(self, found: torch.Tensor, expected: torch.Tensor) -> str | None:
        return difference(found, expected, self.dtype)

    def _batch(self, rows: Sequence[Ids], layout: Layout) -> Batch:
        items = [(ids, (ids >= 0).astype("uint8")) for ids in rows]
        batch = of_rows([items], layout, 0)
        return {"inputs": _moved(batch["inputs"], self.device), "targets": batch["targets"].to(self.device)}


def _moved(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) for name, value in inputs.items()}


def _as_pairs(rows: Sequence[Ids]) -> list[tuple[Ids, Ids, Ids]]:
    """Make pairs of the rows: each row is cut into a prompt and an answer, the next row's end is the other answer."""
    pairs = []
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        cut = max(1, len(row) // 2)
        pairs.append((row[:cut], row[cut:], other[len(other) // 2 :]))
    return pairs


def _wholes(pair: tuple[Ids, Ids, Ids]) -> list[Ids]:
    prompt, chosen, rejected = pair
    return [_join(prompt, chosen), _join(prompt, rejected)]


def _join(first: Ids, second: Ids) -> Ids:
    return torch.cat([torch.from_numpy(first), torch.from_numpy(second)]).numpy()


def difference(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Return None where log-probabilities agree as far as the model's type allows, else by how much they differ."""
    gap = (found - expected).abs()
    largest = float(gap.max() / expected.abs().max())
    mean = float(gap.mean() / expected.abs().mean())
    at_most, on_average = TOLERANCE.get(dtype, HALF_TOLERANCE)
    if largest <= at_most and mean <= on_average:  # also False for NaN
        return None
    return f"log-probabilities differ by {largest:.1e} of the largest, {mean:.1e} on average"


def _layer_types(base: Any) -> Sequence[str]:
    return getattr(base.config.get_text_config(), "layer_types", None) or ()


def _kernel(device: torch.device) -> str:
    if device.type == "cuda" and flash.agrees(device.index or 0, torch.bfloat16):
        return f"FlashAttention of torch ({flash.fastest()}) on segments"
    return "scaled dot products on each segment"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
