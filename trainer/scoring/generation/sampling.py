"""Draw answers by nucleus sampling, so that a row's answer does not depend on its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NucleusSampling:
    """Nucleus sampling; greedy decoding is None in its place.

    Source: top-p: Holtzman et al., arXiv 1904.09751.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature {self.temperature} must be over 0, and top_p {self.top_p} in (0, 1]")

    def row_seed(self, prompt: Sequence[int]) -> int:
        """Return a seed that depends on this one and the prompt alone, never on the batch."""
        # int64 in the bytes of the host: little-endian on every machine that torch supports
        digest = hashlib.sha256(f"{self.seed}|".encode() + np.asarray(prompt, dtype=np.int64).tobytes()).digest()
        return int.from_bytes(digest[:4], "big")

    def uniforms(self, prompt: Sequence[int], count: int) -> list[float]:
        """Return the random numbers in [0, 1) that choose a row's tokens, one a token."""
        return np.random.default_rng(self.row_seed(prompt)).random(count).tolist()
