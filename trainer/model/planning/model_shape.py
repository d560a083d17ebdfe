"""Read the sizes of a decoder model from its config.json, without importing torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trainer.model.source import ModelSource, config_path

COVERED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "smollm3")
"""Families with known layers: RMS norms, attention, gated layers."""
FUSED = ("phi3",)
"""Families that compute query, key and value in one product, and gate and up in another."""
WITH_QK_NORM = ("qwen3",)
WITH_PLUS_ONE = ("gemma",)
"""Norms that scale by 1 + weight, in float32."""
TIED_BY_DEFAULT = ("gemma", "smollm3")
BIASED = ("qwen2",)
"""Query, key and value have a bias whatever the configuration says."""


class NotPredictedError(Exception):
    """The memory of this model or recipe cannot be predicted."""


@dataclass(frozen=True)
class Linear:
    """One linear layer of a decoder layer."""

    name: str
    outputs: int
    inputs: int

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return self.outputs * self.inputs


@dataclass(frozen=True)
class Outline:
    """Sizes of a decoder model, all counted in numbers, not bytes."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    is_tied: bool
    biased: tuple[str, ...]
    """Linear layers of a decoder layer that have a bias."""

    @classmethod
    def of(cls, config: dict[str, Any]) -> Outline:
        """Read a config.json.

        Raises:
            NotPredictedError: The family is not covered.
        """
        family = config.get("model_type", "unknown")
        if family not in COVERED:
            raise NotPredictedError(f"{family} models are not predicted, only {', '.join(COVERED)}")
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        # defaults of the configuration classes of transformers, which a config.json may leave out
        head_size = config.get("head_dim") or (256 if family == "gemma" else 128 if family == "qwen3" else 0)
        sizes = {
            "layers": config["num_hidden_layers"],
            "hidden": hidden,
            "intermediate": config["intermediate_size"],
            "heads": heads,
            "kv_heads": config.get("num_key_value_heads") or heads,
            "head_size": head_size or hidden // heads,
            "vocabulary": config["vocab_size"],
        }
        is_tied = config.get("tie_word_embeddings", family in TIED_BY_DEFAULT)
        return cls(family, is_tied=bool(is_tied), biased=tuple(sorted(_biased(family, config))), **sizes)

    @property
    def query(self) -> int:
        """Return the width of all heads."""
        return self.heads * self.head_size

    @property
    def key(self) -> int:
        """Return the width of all key heads."""
        return self.kv_heads * self.head_size

    @property
    def is_fused(self) -> bool:
        """Tell whether query, key and value are one product, and gate and up another."""
        return self.family in FUSED

    @cached_property
    def linears(self) -> list[Linear]:
        """Return the linear layers of one decoder layer."""
        return list(self._linears())

    def _linears(self) -> Iterator[Linear]:
        if self.is_fused:
            yield Linear("qkv_proj", self.query + 2 * self.key, self.hidden)
            yield Linear("o_proj", self.hidden, self.query)
            yield Linear("gate_up_proj", 2 * self.intermediate, self.hidden)
        else:
            yield Linear("q_proj", self.query, self.hidden)
            yield Linear("k_proj", self.key, self.hidden)
            yield Linear("v_proj", self.key, self.hidden)
            yield Linear("o_proj", self.hidden, self.query)
            yield Linear("gate_proj", self.intermediate, self.hidden)
            yield Linear("up_proj", self.intermediate, self.hidden)
        yield Linear("down_proj", self.hidden, self.intermediate)

    def adapted(self, modules: str | Sequence[str]) -> Sequence[str] | None:
        """Return the layers that get an adapter in every block: [] for all layers, None where the blocks differ."""
        if modules == "all-linear":
            return []
        if not isinstance(modules, str):
            return modules
        matched = self.matched(modules)
        return sorted(matched[0]) if all(names == matched[0] for names in matched) else None

    def matched(self, pattern: str) -> list[set[str]]:
        """Return, for each decoder layer, the linear layers whose whole name a pattern matches, as PEFT matches it."""
        return [
            {
                linear.name
                for linear in self.linears
                if re.fullmatch(pattern, f"model.layers.{index}.{_part(linear.name)}.{linear.name}")
            }
            for index in range(self.layers)
        ]

    @cached_property
    def linear_weights(self) -> int:
        """Return the weights of all linear layers but the output head."""
        return self.layers * sum(linear.size for linear in self.linears)

    @property
    def other_weights(self) -> int:
        """Return the weights of embedding, output head, norms and biases."""
        # V H for the embedding, V H for a head of its own
        tables = self.table * (1 if self.is_tied else 2)
        # the last term: the norm before the head
        return tables + self.layers * sum(self.small_tensors) + self.hidden

    @property
    def table(self) -> int:
        """Return the weights of the embedding, and of an output head of its own."""
        return self.vocabulary * self.hidden

    @property
    def small_tensors(self) -> list[int]:
        """Return the sizes of norms and biases of one decoder layer."""
        qk = [self.head_size] * 2 if self.family in WITH_QK_NORM else []
        return [self.hidden] * 2 + qk + [linear.outputs for linear in self.linears if linear.name in self.biased]


def _biased(family: str, config: dict[str, Any]) -> set[str]:
    """Return the linear layers with a bias."""
    names: set[str] = set()
    if family in BIASED:
        names |= {"q_proj", "k_proj", "v_proj"}
    elif config.get("attention_bias"):
        names |= {"q_proj", "k_proj", "v_proj", "o_proj"}
    if config.get("mlp_bias"):
        names |= {"gate_proj", "up_proj", "down_proj"}
    return names


def read(source: ModelSource) -> Outline:
    """Read the outline of a located model; of a hub model when its config.json is in the local cache.

    Raises:
        NotPredictedError: There is no config.json here, or its family is not covered.
    """
    if source.kind == "gguf":
        raise NotPredictedError("a GGUF file has no config.json")
    path = config_path(source)
    if path is None:
        raise NotPredictedError(f"config.json of {source.name} is not in the local cache")
    try:
        return Outline.of(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise NotPredictedError(f"{path} is not what it should be: {type(error).__name__} {error}") from error


def _part(name: str) -> str:
    """Return the half of a decoder layer that a linear layer belongs to."""
    return "mlp" if name in ("gate_proj", "up_proj", "gate_up_proj", "down_proj") else "self_attn"
