"""Grade likeness to the expected text; with several expected texts the most similar one counts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.chrf import CHRF

from trainer.recipe.metrics import ChrF, RougeL, SemanticSimilarity, TokenF1
from trainer.scoring.graders.expected import expected_texts
from trainer.scoring.graders.failures import failure_of
from trainer.scoring.graders.text import token_f1
from trainer.scoring.question import Answer, Grade, Question

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
FULL = 1 - 1e-6
POOR = 0.5
"""A mark below it is called a failure."""


@cache
def _rouge_l(stemmer: bool) -> Callable[[str, str], float]:
    """Return the F1 of ROUGE-L as a function of (expected text, answer)."""
    # by name: it brings nltk, a second of imports that only this metric needs
    scorer = importlib.import_module("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=stemmer)
    return lambda text, answer: float(scorer.score(text, answer)["rougeL"].fmeasure)


@cache
def _chrf(word_order: int) -> CHRF:
    return CHRF(word_order=word_order, eps_smoothing=False)


def grade_rouge_l(grader: RougeL, answer: Answer, question: Question) -> Grade:
    """Return F1 of ROUGE-L.

    Source: Lin, https://aclanthology.org/W04-1013, by the library rouge-score.
    """
    texts = expected_texts(grader, question)
    f1 = _rouge_l(grader.stemmer)
    return _grade(max(f1(text, answer.text) for text in texts), answer, texts)


def grade_chrf(grader: ChrF, answer: Answer, question: Question) -> Grade:
    """Return chrF, or chrF++ with word_order 2, as a share.

    Source: Popović, https://aclanthology.org/W15-3049, by the library sacrebleu.
    """
    texts = expected_texts(grader, question)
    return _grade(_chrf(grader.word_order).sentence_score(answer.text, texts).score / 100, answer, texts)


def grade_token_f1(grader: TokenF1, answer: Answer, question: Question) -> Grade:
    """Return F1 over words."""
    texts = expected_texts(grader, question)
    return _grade(max(token_f1(answer.text, text) for text in texts), answer, texts)


def grade_semantic(
    grader: SemanticSimilarity, answers: Sequence[Answer], questions: Sequence[Question], embed: Embed
) -> list[Grade]:
    """Return the cosine of the embeddings of answer and expected text, at least 0."""
    expected = [expected_texts(grader, question) for question in questions]
    texts = list(dict.fromkeys([answer.text for answer in answers] + [text for group in expected for text in group]))
    vectors = embed(texts)
    index = {text: row for row, text in enumerate(texts)}
    grades = []
    for answer, group in zip(answers, expected, strict=True):
        cosines = vectors[[index[text] for text in group]] @ vectors[index[answer.text]]
        score = float(np.clip(cosines.max(), 0, 1)) if answer.text.strip() else 0.0
        grades.append(_grade(score, answer, group))
    return grades


def _grade(score: float, answer: Answer, texts: Sequence[str]) -> Grade:
    if score >= FULL:
        return Grade(1.0)
    return Grade(score, f"similarity {score:.2f}", failure_of(answer, texts) if score < POOR else None)
