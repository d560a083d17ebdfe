"""The passages most similar to a question: by sentence embeddings where installed, else by BM25."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import bm25s
import numpy as np
from numpy.typing import NDArray

from trainer.data.embedding import embedder_available, load_embedder
from trainer.data.shingles import kind_for_pair, normalise_words, shingle, similarities

Floats = NDArray[np.float32]
NEAR_COPY = 0.7
"""Jaccard similarity from which a training row gives the question away, as in `data.dedupe.threshold`."""


class Retriever(Protocol):
    """Texts that can be searched."""

    def nearest(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """Return for each query the places of the `count` most similar texts, the most similar first."""


class Bm25:
    """Words in common, rare words counting more.

    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009; library bm25s.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.num_texts = len(texts)
        self.index = bm25s.BM25()
        words = [_words(text) for text in texts]
        self.vocabulary = {word for text in words for word in text}
        if self.vocabulary:
            self.index.index(words, show_progress=False)

    def nearest(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """Return the places of the largest scores; where no word is known, the first texts."""
        return [_largest(self._scores(query), count) for query in queries]

    def _scores(self, query: str) -> Floats:
        known = [word for word in _words(query) if word in self.vocabulary]
        if not known:
            return np.zeros(self.num_texts, np.float32)
        return np.asarray(self.index.get_scores(known), np.float32)


class Embeddings:
    """Cosine of sentence embeddings."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.embed = load_embedder()
        self.vectors = self.embed(texts)  # (N, D)

    def nearest(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """Return the places of the largest cosines."""
        return [_largest(self.vectors @ query, count) for query in self.embed(queries)]


def retriever_of(kind: Literal["auto", "embeddings", "bm25"], texts: Sequence[str]) -> Retriever:
    """Index texts.

    Raises:
        HardwareError: Embeddings are asked for and not installed.
    """
    if kind == "embeddings" or (kind == "auto" and embedder_available()):
        return Embeddings(texts)
    return Bm25(texts)


def _largest(scores: Floats, count: int) -> list[int]:
    """Return the places of the largest scores; ties go to the earlier text."""
    return [int(place) for place in np.argsort(-scores, kind="stable")[:count]]


def near_copies(query: str, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Return (N,): which texts say nearly what the query says (exact Jaccard of shingles)."""
    if not texts:
        return np.zeros(0, np.bool_)
    wanted, others = normalise_words(query), [normalise_words(text) for text in texts]
    kind = kind_for_pair(len(wanted.split()), unspaced=False)
    return similarities(shingle([wanted] * len(others), kind), shingle(others, kind)) >= NEAR_COPY


def _words(text: str) -> list[str]:
    return normalise_words(text).split()
