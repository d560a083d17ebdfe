"""How much memory a training takes, by arithmetic on config.json; no torch, no weights.

Bytes of weights, adapters, optimizer states and of what each layer keeps for the backward pass are counted as the
engine makes them (tests compare them with the real ones); `work` and `reserve` are estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from trainer.model.outline import WITH_PLUS_ONE, WITH_QK_NORM, Linear, Outline
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter, NoAdapter, QloraAdapter
from trainer.recipe.schema import foreseen
from trainer.recipe.train import TrainSection

Level = Literal["none", "elementwise", "full"]
"""How much of a decoder layer is computed again in the backward pass."""

FLOAT32, BFLOAT16 = 4, 2
BLOCK_4BIT, BLOCK_OF_SCALES = 64, 256
"""Weights of one scale, scales of one second scale. Source: https://arxiv.org/abs/2305.14314, section 3."""
CODE_4BIT, CODE_8BIT = 16, 256
"""Entries of the float32 tables that give 4-bit and 8-bit codes their value."""
BLOCK_8BIT, LEAST_8BIT = 256, 4096
"""Optimizer states of one scale in bitsandbytes; smaller tensors have float32 states."""
CHUNK_OF_LOGITS = {True: 256 << 20, False: 16 << 20}
"""Bytes of a chunk of float32 logits on a card, and on a CPU: `CHUNK_BYTES` of the engine's head."""
LEAST_ROWS_OF_LOGITS = 64
TOKENS_PER_MICRO_BATCH = {"cpu": 2048, "cuda": 8192}
"""A CPU is fastest while activations stay in its caches; a card wants large matrix products."""
DEQUANTISED_SHARE = 0.25
"""Of a card's free memory, for 4-bit weights kept dequantised; who trains in 4 bits wants the rest otherwise."""
RESERVE_CUDA, RESERVE_CPU = 1 << 30, 512 << 20
"""Context, kernels and libraries, before any tensor."""
RESERVE_SHARE = 0.05
"""Of all else: memory that the allocator holds and cannot use."""
BLOCK_OF_STEP, BLOCK_WORK = {True: 1 << 24, False: 1 << 18}, 19
"""Weights that are updated at a time where they are rounded stochastically, and bytes of each."""
STATES = {"adamw_torch": 8, "adamw_torch_fused": 8, "paged_adamw_32bit": 8, "sgd": 0}
"""Bytes of optimizer states for each trained weight."""


@dataclass(frozen=True)
class Kinds:
    """Bytes of a number in the weights, in matrix products, and in the adapter."""

    weights: int
    product: int
    adapter: int

    @classmethod
    def of(cls, recipe: Recipe, *, is_cuda: bool) -> Kinds:
        """Return what `precision` chooses on a card that has bfloat16, and on a CPU."""
        named = recipe.model.dtype
        if named == "float32" or (named == "auto" and not is_cuda):
            return cls(4, 4, 4)
        if isinstance(recipe.adapter, NoAdapter):
            mixed = named == "auto" or (named == "float16" and is_cuda)
            return cls(4, 2, 4) if mixed else cls(2, 2, 2)
        return cls(2, 2, 4)  # PEFT keeps adapters in float32


@dataclass(frozen=True)
class Batch:
    """One micro-batch."""

    tokens: int
    trained: int
    """Tokens that the loss is of, at most `tokens`."""


@dataclass(frozen=True)
class Memory:
    """Predicted bytes at the peak of a training, by part."""

    weights: int
    adapters: int
    optimizer: int
    gradients: int
    activations: int
    head: int
    work: int
    """What lives for a moment in the backward pass."""
    reserve: int

    @property
    def peak(self) -> int:
        """Return the sum."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return bytes by part."""
        return {name: getattr(self, name) for name in self.__annotations__}


class Predictor:
    """The memory of one recipe on one model."""

    def __init__(self, outline: Outline, recipe: Recipe, *, is_cuda: bool) -> None:
        self.outline = outline
        self.recipe = recipe
        self.is_cuda = is_cuda
        self.kinds = Kinds.of(recipe, is_cuda=is_cuda)
        adapter = recipe.adapter
        self.adapter = adapter if isinstance(adapter, LoraAdapter) else None
        self.four_bit = adapter if isinstance(adapter, QloraAdapter) else None
        self.rank = self.adapter.r if self.adapter else 0

    def problem(self) -> str | None:
        """Return why what a layer keeps is not known: no prediction is made then."""
        if self.adapter is None:
            return None
        if self.adapter.init_from is not None:
            return "adapter.init_from brings its own rank and layers"
        if self.adapter.modules_to_save:
            return "adapter.modules_to_save"
        if self.adapter.use_dora:
            return "adapter.use_dora"
        if self.adapter.dropout:
            return "adapter.dropout"
        if self.recipe.launch.strategy in ("fsdp2", "zero3"):
            return f"launch.strategy {self.recipe.launch.strategy} spreads weights over cards"
        if not self.is_cuda and self.four_bit:
            return "4-bit weights on a CPU"
        missing = set(self._named()) - {linear.name for linear in self.outline.linears}
        return f"adapter.target_modules {', '.join(sorted(missing))}" if missing else None

    def _named(self) -> Sequence[str]:
        assert self.adapter is not None
        return [] if self.adapter.target_modules == "all-linear" else self.adapter.target_modules

    def has_adapter(self, linear: Linear) -> bool:
        """Tell whether a layer gets an adapter."""
        return self.adapter is not None and (not self._named() or linear.name in self._named())

    # What stays from the first step to the last

    def weights(self) -> int:
        """Return the bytes of the base model as it is held."""
        linears = self.outline.layers * sum(self._linear(linear) for linear in self.outline.linears)
        return linears + self.outline.other_weights * self.kinds.weights

    def _linear(self, linear: Linear) -> int:
        if self.four_bit:
            return four_bit_bytes(linear.size, double=self.four_bit.bnb_4bit_use_double_quant)
        margin = self.rank if self.has_adapter(linear) and self._in_block(linear) else 0
        return (linear.outputs + margin) * (linear.inputs + margin) * self.kinds.weights

    def _in_block(self, linear: Linear) -> bool:
        """Tell whether the engine keeps a margin for the adapter around a weight."""
        return not self.is_cuda or all(size % 8 == 0 for size in (self.rank, linear.outputs, linear.inputs))

    def trained(self) -> list[int]:
        """Return the sizes of the trained tensors; in full the embedding is the first."""
        outline = self.outline
        if self.adapter is None:
            of_layer = [linear.size for linear in outline.linears] + outline.small_tensors
            tables = [outline.table] * (1 if outline.is_tied else 2)
            return [*tables, *of_layer * outline.layers, outline.hidden]
        adapted = [linear for linear in outline.linears if self.has_adapter(linear)]
        sizes = [self.rank * width for linear in adapted for width in (linear.inputs, linear.outputs)]
        return sizes * outline.layers

    def optimizer(self) -> int:
        """Return the bytes of the optimizer's states, paged ones included; embeddings never have 8-bit ones."""
        name, sizes = self.recipe.train.optim, self.trained()
        if name in STATES:
            return STATES[name] * sum(sizes)
        first = 1 if self.adapter is None else 0
        return 2 * FLOAT32 * sum(sizes[:first]) + sum(_states_8bit(size) for size in sizes[first:])

    def gradients(self, batch: Batch) -> int:
        """Return the bytes of all gradients; of the largest where each is freed as soon as it is used.

        The gradient of a table comes in parts: of a tied one those of its two uses and their sum, of an output head
        those of its chunks.
        """
        kind, sizes = self.kinds.adapter if self.adapter else self.kinds.weights, self.trained()
        is_tied = self.adapter is None and self.outline.is_tied
        parts = 2 * self.outline.table if is_tied else 0
        if not foreseen(self.recipe):
            return kind * (sum(sizes) + parts)
        if not is_tied and batch.trained > self._rows_of_logits():
            parts = self.outline.table
        work = BLOCK_WORK * min(max(sizes), BLOCK_OF_STEP[self.is_cuda]) if self.kinds.weights == BFLOAT16 else 0
        return kind * max(sizes) + max(kind * parts, work)

    # What one micro-batch keeps

    def kept(self, level: Level) -> int:
        """Return the bytes a token that one decoder layer keeps (not the first: its input needs no gradient)."""
        if level == "full":
            return self.outline.hidden * self.kinds.product
        return self._norms(level) + self._attention() + self._gated(level) + self._small_products()

    def kept_once(self, level: Level) -> int:
        """Return the bytes that a layer keeps whatever the number of tokens."""
        is_plus_one = self.outline.family in WITH_PLUS_ONE and level == "none"
        return 2 * FLOAT32 * self.outline.hidden if is_plus_one else 0

    def _norms(self, level: Level) -> int:
        """Count inputs of norms in float32 and their scale; elementwise: as they come."""
        outline, product = self.outline, self.kinds.product
        has_qk = outline.family in WITH_QK_NORM
        if level == "elementwise":
            qk = product * (self._view("q_proj") + self._view("k_proj")) if has_qk else 0
            return 2 * product * outline.hidden + qk
        found = 2 * FLOAT32 * (outline.hidden + 1)
        if has_qk:
            found += FLOAT32 * (outline.heads + outline.kv_heads)
            wide = self._view("q_proj") + self._view("k_proj") if product == FLOAT32 else outline.query + outline.key
            found += FLOAT32 * wide
        if self.adapter is None:  # the gradient of a trained scale wants the normalised input
            found += 2 * product * outline.hidden
            found += product * (outline.query + outline.key) if has_qk else 0
        # both norms' outputs are inputs of linear layers
        return found + 2 * product * outline.hidden

    def _attention(self) -> int:
        """Count query, key, value, output and the logarithm of each sum; a CPU keeps its output twice."""
        outline = self.outline
        value = outline.query + 2 * outline.key if outline.is_fused else outline.key
        name = "qkv_proj" if outline.is_fused else "v_proj"
        value += self._view(name) - next(one.outputs for one in outline.linears if one.name == name)
        outputs = outline.query * (1 if self.is_cuda else 2)
        return self.kinds.product * (outline.query + outline.key + value + outputs) + FLOAT32 * outline.heads

    def _gated(self, level: Level) -> int:
        """Count gate and up, the activation, and its product with up."""
        names = ("gate_up_proj",) if self.outline.is_fused else ("gate_proj", "up_proj")
        widths = sum(self._view(name) for name in names)
        again = level == "elementwise" and not self.outline.is_fused
        return self.kinds.product * (widths + (0 if again else 2 * self.outline.intermediate))

    def _small_products(self) -> int:
        number = sum(self.has_adapter(linear) for linear in self.outline.linears)
        return number * self.rank * self.kinds.adapter

    def _view(self, name: str) -> int:
        """Return the width of a linear layer's output in memory: one that does not widen has the small product too."""
        linear = next(one for one in self.outline.linears if one.name == name)
        is_block = self.has_adapter(linear) and self._in_block(linear)
        is_block = is_block and self.kinds.weights == self.kinds.product == self.kinds.adapter and not self.four_bit
        widens = 3 * linear.inputs < 2 * linear.outputs
        return linear.outputs + (self.rank if is_block and not widens else 0)

    def activations(self, levels: Sequence[Level], tokens: int) -> int:
        """Return the bytes that all layers keep, and where layers are computed again one of them in whole."""
        found = sum(self.kept(level) * tokens + self.kept_once(level) for level in levels)
        if "full" in levels:  # the last of them is whole when the layers above it have freed theirs
            found = max(found, (levels.count("full") * self.kept("full") + self.kept("none")) * tokens)
        turns = 2 * self.outline.head_size * self.kinds.product  # cosine and sine of each position
        last_norm = FLOAT32 * (self.outline.hidden + 1)
        return found + (turns + last_norm) * tokens

    def head(self, batch: Batch) -> int:
        """Return the bytes of the gradient that waits, and of one chunk of logits with its copies."""
        chunk = min(self._rows_of_logits(), batch.trained) * self.outline.vocabulary * FLOAT32
        return batch.trained * self.outline.hidden * self.kinds.product + 3 * chunk

    def _rows_of_logits(self) -> int:
        return max(LEAST_ROWS_OF_LOGITS, CHUNK_OF_LOGITS[self.is_cuda] // (FLOAT32 * self.outline.vocabulary))

    def work(self, tokens: int) -> int:
        """Estimate what lives for a moment: gradients of a gated layer, and a weight out of its 4 bits."""
        largest = max(linear.size for linear in self.outline.linears)
        weight = largest * self.kinds.product if self.four_bit else 0
        return 3 * self.outline.intermediate * self.kinds.product * tokens + weight

    def dequantised(self, capacity: int) -> int:
        """Return the bytes of dequantised weights that the engine keeps beside 4-bit ones, where a card has room."""
        if not (self.four_bit and self.is_cuda):
            return 0
        with_adapter = [linear.size for linear in self.outline.linears if self.has_adapter(linear)]
        size = self.outline.layers * sum(with_adapter) * self.kinds.product
        return size if size <= DEQUANTISED_SHARE * (capacity - self.weights()) else 0

    def predict(self, levels: Sequence[Level], batch: Batch, capacity: int) -> Memory:
        """Predict the peak.

        Args:
            levels: Of each decoder layer.
            batch: The largest micro-batch.
            capacity: Bytes of the card.
        """
        numbers = sum(self.trained())
        mixed = self.adapter is None and self.kinds.product < self.kinds.weights
        parts = {
            "weights": self.weights() + self.dequantised(capacity),
            "adapters": numbers * self.kinds.adapter if self.adapter else 0,
            "optimizer": self.optimizer(),
            "gradients": self.gradients(batch),
            "activations": self.activations(levels, batch.tokens),
            "head": self.head(batch),
            # autocast holds a copy of every weight until the forward pass ends
            "work": self.work(batch.tokens) + (self.outline.linear_weights * self.kinds.product if mixed else 0),
        }
        fixed = RESERVE_CUDA if self.is_cuda else RESERVE_CPU
        return Memory(**parts, reserve=fixed + int(RESERVE_SHARE * sum(parts.values())))


def four_bit_bytes(size: int, *, double: bool) -> int:
    """Return the bytes of one weight matrix as bitsandbytes holds it: codes, scales and their tables."""
    scales = ceil(size / BLOCK_4BIT)
    found = ceil(size / 2) + CODE_4BIT * FLOAT32
    if not double:
        return found + scales * FLOAT32
    return found + scales + FLOAT32 * (ceil(scales / BLOCK_OF_SCALES) + CODE_8BIT + 1)


def _states_8bit(size: int) -> int:
    if size < LEAST_8BIT:
        return 2 * FLOAT32 * size
    return 2 * (size + FLOAT32 * ceil(size / BLOCK_8BIT))


def micro_batch_size(train: TrainSection, share: int, largest: int) -> int:
    """Return the items of one forward pass: what is asked, or the largest divisor of a process's share up to a limit.

    Raises:
        ValueError: The named size does not divide the share.
    """
    named = train.micro_batch_size
    if named == "auto" and train.optimizer_in_backward is True:
        return share  # gradients that are freed cannot add up
    if named == "auto":
        return max(size for size in range(1, share + 1) if share % size == 0 and size <= max(1, largest))
    if share % named:
        raise ValueError(f"micro_batch_size {named} does not divide the {share} items a process takes in a step")
    return named
