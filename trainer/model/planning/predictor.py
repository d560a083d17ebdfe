"""Predict the memory of a training by arithmetic on config.json, without torch and weights.

Bytes of weights, adapters, optimizer states and activations are counted as the engine allocates them (tests compare
them with the real ones); `head`, `work` and `reserve` are estimates. They are not all held at once: the peak is the
highest of three moments, the end of the forward pass, a layer of the backward pass, and the optimizer's update.

    bytes at the end of forward   = weights + adapters + optimizer + activations of all layers + head
    bytes in layer i of backward  = weights + adapters + optimizer + activations of layers 0..i + work + gradients
    bytes in the update           = weights + adapters + optimizer + gradients + work
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.model.planning.activations import FLOAT32, LEVELS, WHOLE, Kinds, LayerBytes, Level
from trainer.model.planning.model_shape import Linear, Outline
from trainer.model.planning.quantised_sizes import eight_bit_states, four_bit_bytes
from trainer.recipe import Recipe
from trainer.recipe.model import four_bit_of, low_rank
from trainer.recipe.schema import obstacles

BFLOAT16 = 2
CHUNK_OF_LOGITS = {True: 256 << 20, False: 16 << 20}
"""Bytes of a chunk of float32 logits on a card, and on a CPU: `CHUNK_BYTES` of the engine's head."""
LEAST_ROWS_OF_LOGITS = 64
INPUTS_IN_FLIGHT = 2
"""Layer inputs on the card while others wait on the host: one is computed with, one is copied."""
TOKENS_PER_MICRO_BATCH = {"cpu": 2048, "cuda": 8192}
"""A CPU is fastest while activations stay in its caches; a card wants large matrix products."""
RESERVE_CUDA, RESERVE_CPU = 1 << 30, 512 << 20
"""Context, kernels and libraries, before any tensor."""
RESERVE_SHARE = 0.05
"""Of all else: memory that the allocator holds and cannot use."""
BLOCK_OF_STEP, BLOCK_WORK = {True: 1 << 24, False: 1 << 18}, 19
"""Weights that are updated at a time where they are rounded stochastically, and bytes of each."""
STATES = {"adamw_torch": 8, "adamw_torch_fused": 8, "paged_adamw_32bit": 8, "sgd": 0}
"""Bytes of optimizer states for each trained weight."""


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch."""

    tokens: int
    trained: int
    """Tokens that the loss is of, at most `tokens`."""
    shared: int = 0
    """Tokens of prompts that two answers share: their keys and values are copied."""


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
    """What lives for a moment in the backward pass or in the update."""
    reserve: int
    """What no tensor of the training takes: context, libraries, and gaps between tensors."""
    passes: int
    """Bytes of tensors at the peak of forward and backward pass."""
    update: int
    """Bytes of tensors at the optimizer's update."""
    host: int
    """Bytes of layer inputs that wait in the host's memory."""

    @property
    def peak(self) -> int:
        """Return the bytes of all tensors at the peak: what torch.cuda.max_memory_allocated measures."""
        return max(self.passes, self.update)

    @property
    def total(self) -> int:
        """Return what a card must have."""
        return self.peak + self.reserve

    def parts(self) -> dict[str, int]:
        """Return bytes by part."""
        return {name: getattr(self, name) for name in PARTS}


PARTS = ("weights", "adapters", "optimizer", "gradients", "activations", "head", "work", "reserve")


class Predictor:
    """Predict the memory of one recipe on one model."""

    def __init__(
        self, outline: Outline, recipe: Recipe, *, is_cuda: bool, is_dequantised: bool = False, processes: int = 1
    ) -> None:
        """Count adapted layers and the bytes of one layer.

        Args:
            outline: Of the model.
            recipe: Of the training.
            is_cuda: On a card.
            is_dequantised: 4-bit weights under adapters are kept dequantised besides.
            processes: More than one have buckets to add gradients up in.
        """
        self.outline = outline
        self.recipe = recipe
        self.is_cuda = is_cuda
        self.is_dequantised = is_dequantised
        self.processes = processes
        self.kinds = Kinds.of(recipe, is_cuda=is_cuda)
        self.adapter = low_rank(recipe.adapter)
        self.four_bit = four_bit_of(recipe.adapter)
        self.rank = self.adapter.r if self.adapter else 0
        adapted = {linear.name for linear in outline.linears if self.has_adapter(linear)}
        blocks = {linear.name for linear in outline.linears if linear.name in adapted and self._in_block(linear)}
        in_16_bits = self.four_bit is None or is_dequantised
        is_one_kind = self.kinds.weights == self.kinds.product == self.kinds.small
        self.layer = LayerBytes(
            outline,
            self.kinds,
            rank=self.rank,
            adapted=frozenset(adapted),
            blocks=frozenset(blocks if in_16_bits and is_one_kind else ()),
            is_cuda=is_cuda,
        )

    def has_adapter(self, linear: Linear) -> bool:
        """Tell whether a layer gets an adapter."""
        names = self.outline.adapted(self.adapter.target_modules) if self.adapter is not None else None
        return names is not None and (not names or linear.name in names)

    # What stays from the first step to the last

    def weights(self) -> int:
        """Return the bytes of the base model as it is held."""
        linears = self.outline.layers * sum(self._linear(linear) for linear in self.outline.linears)
        return linears + self.outline.other_weights * self.kinds.weights

    def _linear(self, linear: Linear) -> int:
        if self.four_bit:
            return four_bit_bytes(linear.size, double=self.four_bit.bnb_4bit_use_double_quant)
        # [[W, sB], [A, 0]]: (N + r, K + r), see `engine.product`
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
        # A (r, K), B (N, r)
        sizes = [self.rank * width for linear in adapted for width in (linear.inputs, linear.outputs)]
        return sizes * outline.layers

    def optimizer(self) -> int:
        """Return the bytes of the optimizer's states, paged ones included; embeddings never have 8-bit ones."""
        name, sizes = self.recipe.train.optim, self.trained()
        if name in STATES:
            return STATES[name] * sum(sizes)
        first = 1 if self.adapter is None else 0
        # two moments a weight
        return 2 * FLOAT32 * sum(sizes[:first]) + sum(eight_bit_states(size) for size in sizes[first:])

    def steps_in_backward(self, accumulation: int) -> bool:
        """Tell whether each gradient is freed as soon as it is used, with so many micro-batches a step."""
        setting = self.recipe.train.optimizer_in_backward
        return setting is not False and not obstacles(self.recipe, processes=self.processes, accumulation=accumulation)

    @cached_property
    def gradients(self) -> int:
        """Return the bytes of the gradients of all trained weights."""
        return sum(self.trained()) * self.kinds.adapter

    def freed_gradients(self, batch: MicroBatch) -> int:
        """Return the most bytes of gradients, and of the step that uses them, where each is freed at once.

        The gradient of a table comes in parts: of a tied one those of its two uses and their sum, of an output head
        those of its chunks.
        """
        kind, sizes = self.kinds.adapter, self.trained()
        parts = 2 * self.outline.table if self.outline.is_tied else 0
        if not self.outline.is_tied and batch.trained > self._rows_of_logits():
            parts = self.outline.table
        return kind * max(sizes) + max(kind * parts, self._step_work())

    def _step_work(self) -> int:
        """Return the bytes of a block of weights while it is rounded stochastically."""
        if self.adapter is not None or self.kinds.weights != BFLOAT16:
            return 0
        return BLOCK_WORK * min(max(self.trained()), BLOCK_OF_STEP[self.is_cuda])

    # What one micro-batch needs

    def activations(self, levels: Sequence[Level], batch: MicroBatch) -> int:
        """Return the bytes that layers keep until their backward pass, and what all of them share."""
        tokens = batch.tokens
        of_layers = sum(
            levels.count(level) * (self._kept_bytes[level] * tokens + self.layer.kept_once(level))
            + levels.count(level) * self.layer.kept_shared(level) * batch.shared
            for level in dict.fromkeys(levels)
        )
        turns = 2 * self.outline.head_size * self.kinds.weights  # cosine and sine of each position
        in_flight = INPUTS_IN_FLIGHT * self._kept_bytes["full"] if "offload" in levels else 0
        return of_layers + (turns + in_flight) * tokens

    def again(self, level: Level, batch: MicroBatch, *, is_lean: bool) -> int:
        """Return the bytes that a layer computed again in whole keeps beside its input."""
        if level not in WHOLE:
            return 0
        meanwhile: Level = "elementwise" if is_lean else "none"
        is_itself = is_lean or self.kinds.weights == FLOAT32  # what the first norm keeps of its input
        # less the input where it is counted already, as the tensor that level full has kept
        per_token = self._kept_bytes[meanwhile] - (self._kept_bytes["full"] if is_itself else 0)
        once, shared = self.layer.kept_once(meanwhile), self.layer.kept_shared(meanwhile)
        return per_token * batch.tokens + once + shared * batch.shared

    def on_host(self, levels: Sequence[Level], batch: MicroBatch) -> int:
        """Return the bytes of inputs that wait on the host; page-locked memory comes in powers of 2."""
        size = self._kept_bytes["full"] * batch.tokens
        return levels.count("offload") * (1 << (size - 1).bit_length() if self.is_cuda else size)

    def head(self, batch: MicroBatch) -> int:
        """Return the bytes of hidden states and their gradients, and of one chunk of logits with its copies.

        A trained head computes each chunk again, with its gradients.
        """
        # (rows, V), as `head._chunks` cuts them
        chunk = min(self._rows_of_logits(), batch.trained) * self.outline.vocabulary
        if self.adapter is None:
            return batch.trained * self.outline.hidden * self.kinds.weights + chunk * (3 * FLOAT32 + self.kinds.product)
        copy = self.kinds.product if self.kinds.product < FLOAT32 else 0
        # T H, N H, and its gradient
        hidden = (batch.tokens + 2 * batch.trained) * self.outline.hidden * self.kinds.product
        return hidden + chunk * (FLOAT32 + copy)

    def _rows_of_logits(self) -> int:
        return max(LEAST_ROWS_OF_LOGITS, CHUNK_OF_LOGITS[self.is_cuda] // (FLOAT32 * self.outline.vocabulary))

    def work(self, level: Level, batch: MicroBatch, *, is_lean: bool) -> int:
        """Estimate what lives for a moment in a layer's backward pass.

        Args:
            level: Of the layer.
            batch: The micro-batch.
            is_lean: A layer computed again in whole keeps what `elementwise` keeps, and no weights dequantised.
        """
        outline, product = self.outline, self.kinds.product
        sizes = [linear.size for linear in outline.linears]
        is_held = self.four_bit is not None and not self.is_dequantised
        wide = outline.intermediate * product * batch.tokens
        narrow = outline.hidden * self.kinds.weights * batch.tokens
        keeps_all = level == "none" or (level in WHOLE and not is_lean)
        # in the gate four tensors, or two that have not been kept; or, in the product after it, two and a weight
        gate = (2 if keeps_all else 4) * wide + 2 * narrow
        if level in WHOLE and not is_lean:  # all weights at first; when the gate is reached, that after it has gone
            down = outline.intermediate * outline.hidden
            weights = [is_held * size * product for size in (sum(sizes) - down, sum(sizes))]
            return max(gate + weights[0], wide + 4 * narrow + weights[1])
        return max(gate, 2 * wide + 4 * narrow + is_held * max(sizes) * product)

    def copies(self, layers: int) -> int:
        """Return the bytes of rounded copies of some layers' weights, which autocast makes."""
        return layers * sum(linear.size for linear in self.outline.linears) * self.kinds.product * self.kinds.is_mixed

    def dequantised(self) -> int:
        """Return the bytes of dequantised weights beside the 4-bit ones, with their margins."""
        linears = [linear for linear in self.outline.linears if self.has_adapter(linear)]
        return (
            self.outline.layers
            * self.kinds.product
            * sum((linear.outputs + self.rank) * (linear.inputs + self.rank) for linear in linears)
        )

    def predict(
        self, levels: Sequence[Level], batch: MicroBatch, *, accumulation: int = 2, is_lean: bool = False
    ) -> Memory:
        """Predict the peak.

        Args:
            levels: Of each decoder layer, those that recompute most first.
            batch: The largest micro-batch.
            accumulation: Micro-batches of a step; from the second on gradients are there from the start.
            is_lean: See `work`.
        """
        stays, within = self._stays, self.steps_in_backward(accumulation)
        # DDP copies gradients to its buckets, as many bytes again
        buckets = self.gradients if self.processes > 1 else 0
        passes = max(self._passes(levels, batch, accumulation=accumulation, is_lean=is_lean), key=_sum)
        update = {"gradients": self.gradients, "activations": 0, "head": 0, "work": self.update}
        update = dict.fromkeys(update, 0) if within else update
        parts = stays | max(passes, update, key=_sum)
        parts["gradients"] += buckets
        fixed = RESERVE_CUDA if self.is_cuda else RESERVE_CPU
        return Memory(
            **parts,
            reserve=fixed + int(RESERVE_SHARE * _sum(parts)),
            passes=_sum(stays) + buckets + _sum(passes),
            update=_sum(stays) + buckets + _sum(update),
            host=self.on_host(levels, batch),
        )

    def _passes(
        self, levels: Sequence[Level], batch: MicroBatch, *, accumulation: int, is_lean: bool
    ) -> Iterator[dict[str, int]]:
        """Yield the parts at the end of the forward pass, and in the first and last layer of each level backward."""
        early, freed = self.gradients if accumulation > 1 else 0, None
        if self.steps_in_backward(accumulation):
            freed = self.freed_gradients(batch)
        last_norm = FLOAT32 * (self.outline.hidden + 1) * batch.tokens
        yield {
            "gradients": early,
            "activations": self.activations(levels, batch) + last_norm,
            "head": self.head(batch),
            "work": self.copies(len(levels)),
        }
        for level in dict.fromkeys(levels):
            first = levels.index(level)
            # between them the activations only grow: one end or the other is the peak
            for number in {first + 1, first + levels.count(level)}:
                below = levels[:number]
                num_copied = sum(lower not in WHOLE for lower in below) + (level in WHOLE)
                yield {
                    # the layers above have their gradients by now, in equal shares
                    "gradients": early or freed or self.gradients * (len(levels) - number) // len(levels),
                    "activations": self.activations(below, batch) + self.again(level, batch, is_lean=is_lean),
                    "head": 0,
                    "work": self.work(level, batch, is_lean=is_lean) + self.copies(num_copied),
                }
        if self.adapter is None:  # the embedding comes last, and a tied one adds up the gradients of its two uses
            tied = 2 * self.outline.table * self.kinds.adapter if self.outline.is_tied else 0
            gradients = self.gradients + tied if freed is None else freed
            yield {"gradients": gradients, "activations": 0, "head": 0, "work": 0}

    @cached_property
    def update(self) -> int:
        """Return the bytes of the update's own tensors: the square roots of all second moments at once."""
        if self._step_work():
            return self._step_work()
        return sum(self.trained()) * FLOAT32 if self.is_cuda and self.recipe.train.optim == "adamw_torch" else 0

    # Computed once: hundreds of plans are compared

    @cached_property
    def _stays(self) -> dict[str, int]:
        return {
            "weights": self.weights() + (self.dequantised() if self.is_dequantised else 0),
            "adapters": sum(self.trained()) * self.kinds.adapter if self.adapter else 0,
            "optimizer": self.optimizer(),
        }

    @cached_property
    def _kept_bytes(self) -> dict[Level, int]:
        return {level: self.layer.kept(level) for level in LEVELS}


def _sum(parts: dict[str, int]) -> int:
    return sum(parts.values())
