"""Count the bytes that one decoder layer keeps for its backward pass, at each level of recompute.

Per token, with hidden size H, intermediate size I, width Q of all query heads and K of all key heads, and b bytes a
number (16-bit weights and products, no norms of query and key, no adapter):

    none         2 * 4 (H + 1)  inputs of both norms in float32, and their scale
                 + 2 b H        results of the norms: inputs of the linear layers
                 + b (2 Q + 2 K) + 4 heads   query, key, value, output, and the logarithm of each sum
                 + b (4 I)      gate, up, activation, and its product with up
    elementwise  2 b H + b (2 Q + 2 K) + 4 heads + b (2 I)
    full         b H
    offload      0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

from trainer.model.planning.model_shape import WITH_PLUS_ONE, WITH_QK_NORM, Linear, Outline
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter, NoAdapter

Level = Literal["none", "elementwise", "full", "offload"]
"""Share of a decoder layer that the backward pass computes again; offload: all, and its input waits on the host."""
LEVELS: tuple[Level, ...] = ("none", "elementwise", "full", "offload")
WHOLE: tuple[Level, ...] = ("full", "offload")
"""Levels at which a layer is computed again from its input."""
FLOAT32 = 4


@dataclass(frozen=True)
class Kinds:
    """Bytes of a number, by its use."""

    weights: int
    """In the weights, and so in the sum that runs through all layers."""
    product: int
    """In matrix products."""
    adapter: int
    """In the adapter's weights."""
    small: int
    """In the adapter's own products."""

    @classmethod
    def of(cls, recipe: Recipe, *, is_cuda: bool) -> Kinds:
        """Return the sizes of the types that `precision` chooses on a card with bfloat16, and on a CPU."""
        dtype = recipe.model.dtype
        if dtype == "float32" or (dtype == "auto" and not is_cuda):
            return cls(4, 4, 4, 4)
        is_cast = is_cuda and dtype in ("auto", "float16")
        match recipe.adapter:
            case NoAdapter():
                return cls(4, 2, 4, 2) if is_cast else cls(2, 2, 2, 2)
            case LoraAdapter():
                return cls(2, 2, 4, 2 if is_cast else 4)  # PEFT keeps adapters in float32
            case _:
                assert_never(recipe.adapter)

    @property
    def is_mixed(self) -> bool:
        """Tell whether every product begins with rounded copies of its weight and of its input."""
        return self.product < self.weights


@dataclass(frozen=True)
class LayerBytes:
    """One decoder layer in training (not the first: its input needs no gradient)."""

    outline: Outline
    kinds: Kinds
    rank: int
    """Of the adapters; 0 where all weights are trained."""
    adapted: frozenset[str]
    """Linear layers with an adapter."""
    blocks: frozenset[str]
    """Those whose result has the adapter's small product beside it."""
    is_cuda: bool

    def kept(self, level: Level) -> int:
        """Return the bytes per token that stay on the device."""
        if level == "offload":
            return 0
        if level == "full":
            # b H: the input of the layer alone
            return self.outline.hidden * self.kinds.weights
        # x Aᵀ of each adapted layer, (T, r)
        small = len(self.adapted) * self.rank * self.kinds.small
        return self._norms(level) + self._inputs(level) + self._attention() + self._gated(level) + small

    def kept_once(self, level: Level) -> int:
        """Return the bytes that do not depend on the number of tokens."""
        is_plus_one = self.outline.family in WITH_PLUS_ONE and level == "none"
        return 2 * FLOAT32 * self.outline.hidden if is_plus_one else 0

    def kept_shared(self, level: Level) -> int:
        """Return the bytes for each token of a prompt that two answers share: keys and values once more."""
        return 0 if level in WHOLE else 2 * self.kinds.product * self.outline.key

    def _norms(self, level: Level) -> int:
        """Count inputs of norms in float32 and their scale; elementwise: as they come."""
        outline, product = self.outline, self.kinds.product
        has_qk = outline.family in WITH_QK_NORM
        if level == "elementwise":
            qk = product * (self._view("q_proj") + self._view("k_proj")) if has_qk else 0
            return 2 * self.kinds.weights * outline.hidden + qk
        size = 2 * FLOAT32 * (outline.hidden + 1)
        if has_qk:
            size += FLOAT32 * (outline.heads + outline.kv_heads)  # a scale for each head
            wide = self._view("q_proj") + self._view("k_proj") if product == FLOAT32 else outline.query + outline.key
            size += FLOAT32 * wide
        if not self.rank:  # the gradient of a trained scale wants the normalised input
            size += 2 * self.kinds.weights * outline.hidden
            size += product * (outline.query + outline.key) if has_qk else 0
        return size

    def _inputs(self, level: Level) -> int:
        """Count what norms give to linear layers: once for all, or rounded for each of them."""
        if self.kinds.is_mixed:
            # autocast rounds the input of q, k, v, gate and up each for itself; fused: of two products
            return self.kinds.product * self.outline.hidden * (2 if self.outline.is_fused else 5)
        return 0 if level == "elementwise" else 2 * self.kinds.product * self.outline.hidden

    def _attention(self) -> int:
        """Count query, key, value, output and the logarithm of each sum; a CPU keeps its output twice."""
        outline = self.outline
        value = outline.query + 2 * outline.key if outline.is_fused else outline.key
        name = "qkv_proj" if outline.is_fused else "v_proj"
        value += self._view(name) - self._linear(name).outputs
        # torch's CPU attention saves its output, and our transpose of it is another tensor
        outputs = outline.query * (1 if self.is_cuda else 2)
        return self.kinds.product * (outline.query + outline.key + value + outputs) + FLOAT32 * outline.heads

    def _gated(self, level: Level) -> int:
        """Count gate and up, the activation, and its product with up."""
        names = ("gate_up_proj",) if self.outline.is_fused else ("gate_proj", "up_proj")
        widths = sum(self._view(name) for name in names)
        # act(gate) and act(gate) * up follow from gate and up; a fused product has no module between to hook
        again = level == "elementwise" and not self.outline.is_fused
        return self.kinds.product * (widths + (0 if again else 2 * self.outline.intermediate))

    def _linear(self, name: str) -> Linear:
        return next(linear for linear in self.outline.linears if linear.name == name)

    def _view(self, name: str) -> int:
        """Return the width of a linear layer's output in memory: one that does not widen has the small product too."""
        linear = self._linear(name)
        widens = 3 * linear.inputs < 2 * linear.outputs
        return linear.outputs + (self.rank if name in self.blocks and not widens else 0)
