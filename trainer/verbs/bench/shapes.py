"""Set the sizes of a comparison: shapes of models, numbers of rows, steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

BenchKind = Literal["sft", "dpo"]

MAX_LENGTH = 1024  # tokens: TRL's default `max_length`, and the length of a pack
LEARNING_RATE = 1e-3
LORA_RANK = 16
LORA_ALPHA = 32
SEED = 42
CHECK_STEPS = 3
MICRO_ROWS = 8  # rows of a padded micro-batch: the default of transformers and TRL


@dataclass(frozen=True)
class LlamaShape:
    """A Llama of random weights; tied embeddings."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int

    def config(self, **ids: Any) -> dict[str, Any]:
        """Return the keywords of transformers' LlamaConfig; `ids` are those of the special tokens."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 2 * MAX_LENGTH,
            "tie_word_embeddings": True,
            **ids,
        }

    def linear_weights(self) -> int:
        """Count the weights of all matrix products of a token: linear layers and head, without the embedding."""
        head_size = self.hidden // self.heads
        attention = self.hidden * head_size * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.hidden * self.vocabulary


# 1b and 8b: the dimensions of Llama 3.2 1B and Llama 3.1 8B.
# Source: https://huggingface.co/meta-llama/Llama-3.2-1B and Llama-3.1-8B, config.json
SHAPES = {
    "tiny": LlamaShape(layers=4, hidden=256, intermediate=768, heads=8, kv_heads=4, vocabulary=8192),
    "1b": LlamaShape(layers=16, hidden=2048, intermediate=8192, heads=32, kv_heads=8, vocabulary=128256),
    "8b": LlamaShape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocabulary=128256),
}


@dataclass(frozen=True)
class Size:
    """How much is trained, in rows (conversations, or pairs)."""

    rows: int
    """Rows of one measurement, an epoch of which is timed."""
    rows_per_step: int
    """Rows that one optimizer step takes, on average where rows are packed."""
    check_rows: int
    """Rows of the check, in which every step takes all of them."""
    rounds: int
    """Measurements of each engine."""


SIZES: dict[BenchKind, Size] = {
    "sft": Size(rows=96, rows_per_step=32, check_rows=8, rounds=5),
    "dpo": Size(rows=24, rows_per_step=8, check_rows=4, rounds=5),
}
QUICK_SIZES: dict[BenchKind, Size] = {
    "sft": Size(rows=16, rows_per_step=16, check_rows=4, rounds=5),
    "dpo": Size(rows=4, rows_per_step=4, check_rows=2, rounds=5),
}
CUDA_SIZES: dict[BenchKind, Size] = {
    "sft": Size(rows=512, rows_per_step=64, check_rows=8, rounds=5),
    "dpo": Size(rows=128, rows_per_step=32, check_rows=8, rounds=5),
}
