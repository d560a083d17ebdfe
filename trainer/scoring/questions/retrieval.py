"""Find the texts most similar to a question: by sentence embeddings where installed, else by BM25."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, Protocol

import bm25s
import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.shingles import is_unspaced, kind_for_pair, normalise_words, shingle, similarities
from trainer.data.embedding import INSTALL, embedder_available, load_embedder

Floats = NDArray[np.float32]
EMBEDDINGS = "embeddings, all-MiniLM-L6-v2"
NEAR_COPY = 0.8
"""Jaccard similarity from which an example gives the question away."""
TEMPLATE_SHARE = 0.8
"""A word in so many of the questions belongs to their template and tells none of them apart."""
MIN_TEMPLATE_QUESTIONS = 5


class Retriever(Protocol):
    """Texts that can be searched."""

    def nearest(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """Return for each query the indices of the `count` most similar texts, the most similar first."""


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
        """Return the indices of the largest scores; where no word is known, the first texts."""
        return [_largest(self._scores(query), count) for query in queries]

    def _scores(self, query: str) -> Floats:
        words = [word for word in _words(query) if word in self.vocabulary]
        if not words:
            return np.zeros(self.num_texts, np.float32)
        return np.asarray(self.index.get_scores(words), np.float32)


class Embeddings:
    """Cosine of sentence embeddings."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.embed = load_embedder()
        self.vectors = self.embed(texts)  # (N, D)

    def nearest(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """Return the indices of the largest cosines."""
        return [_largest(self.vectors @ query, count) for query in self.embed(queries)]


def retriever_of(kind: Literal["auto", "embeddings", "bm25"], texts: Sequence[str]) -> Retriever:
    """Index texts.

    Raises:
        HardwareError: Embeddings are asked for and not installed.
    """
    if kind == "embeddings" or (kind == "auto" and embedder_available()):
        return Embeddings(texts)
    return Bm25(texts)


def retriever_name(kind: Literal["auto", "embeddings", "bm25"]) -> str:
    """Return the name of what `retriever_of` searches with, for tables."""
    return EMBEDDINGS if kind == "embeddings" or (kind == "auto" and embedder_available()) else "BM25"


def stronger_retriever(kind: Literal["auto", "embeddings", "bm25"]) -> str | None:
    """Return how to install a stronger retriever than the one used; None where none is missing, or BM25 was chosen."""
    return INSTALL if kind == "auto" and not embedder_available() else None


def _largest(scores: Floats, count: int) -> list[int]:
    """Return the indices of the largest scores; ties go to the earlier text."""
    return [int(index) for index in np.argsort(-scores, kind="stable")[:count]]


class NearCopyFilter:
    """Finds texts that nearly repeat a question, apart from the template that all questions share."""

    def __init__(self, questions: Sequence[str]) -> None:
        """Learn the words of the template from all questions that are asked."""
        counts = Counter(word for text in questions for word in set(_words(text)))
        enough = len(questions) >= MIN_TEMPLATE_QUESTIONS
        self.template = {word for word, count in counts.items() if enough and count >= TEMPLATE_SHARE * len(questions)}

    def near_copies(self, question: str, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return (texts,): true for those that nearly repeat the question (exact Jaccard of shingles)."""
        if not texts:
            return np.zeros(0, np.bool_)
        query, candidates = self._without_template(question), [self._without_template(text) for text in texts]
        kind = kind_for_pair(len(query.split()), unspaced=is_unspaced(query))
        return similarities(shingle([query] * len(candidates), kind), shingle(candidates, kind)) >= NEAR_COPY

    def _without_template(self, text: str) -> str:
        """Return a text without the words of the template; all words where none is left."""
        words = _words(text)
        return " ".join([word for word in words if word not in self.template] or words)


def _words(text: str) -> list[str]:
    return normalise_words(text).split()
