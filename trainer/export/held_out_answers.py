"""Choose held-out questions for an exported format, and score its answers beside eval's tuned answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.data.records.kinds import Record
from trainer.recipe.metrics import Grader
from trainer.scoring.generation.responders import PromptEncoder
from trainer.scoring.graders import GraderServices, auto_metrics, grade, needs_help
from trainer.scoring.question import Answer, Question, prompt_of
from trainer.scoring.questions.from_rows import Turns, questions_of
from trainer.shapes.predictions import Prediction
from trainer.tokens.reasoning import THINKING, AnswerForm


@dataclass
class Exam:
    """The first held-out questions that eval asked."""

    questions: list[Question]
    tuned: list[str | None]
    """What the tuned model answered in eval, greedily; None where eval did not ask it so."""
    grader: Grader | None
    form: AnswerForm = THINKING

    def prompts(self, tokens: PromptEncoder) -> list[dict[str, Any]]:
        """Return the questions as messages and as the token ids that training and eval made of them."""
        return [
            {
                "messages": request.messages,
                "tools": request.tools,
                "kwargs": {**tokens.renderer.template_kwargs, **request.chat_template_kwargs},
                "ids": tokens.ids(request),
                "quotes": tokens.quotes(request),
            }
            for request in map(prompt_of, self.questions)
        ]

    def score(self, answers: Sequence[str]) -> float | None:
        """Return the mean of the deciding metric; None where it looks at none of the questions."""
        if self.grader is None or not answers:
            return None
        parts = [self.form.split(text) for text in answers]
        contents = [text if part is None else part.content for text, part in zip(answers, parts, strict=True)]
        marked_contents = [Answer(text, 0, finished=True) for text in contents]
        marks = [
            mark.score
            for mark in grade(self.grader, marked_contents, self.questions, GraderServices())
            if mark is not None
        ]
        return float(np.mean(marks)) if marks else None


def make_exam(
    rows: Sequence[Record],
    predictions: Sequence[Prediction],
    metrics: Sequence[Grader] | None,
    *,
    turns: Turns,
    count: int,
    greedy: bool,
    form: AnswerForm = THINKING,
) -> Exam:
    """Choose the questions.

    Args:
        rows: Lines of data/heldout.jsonl.
        predictions: Lines of eval/predictions.jsonl.
        metrics: Of the recipe, the deciding one first; None for those that fit the reference answers.
        turns: `eval.turns`.
        count: Most questions.
        greedy: Whether eval's answers are the most likely ones, not drawn.
        form: Tells reasoning from content in answers.
    """
    by_id = {prediction["id"]: prediction for prediction in predictions}
    candidates = questions_of(rows, turns=turns, by=None, write_answer=lambda row, history, turn: ("", 0))
    questions = [
        replace(question, reference=by_id[question.id]["reference"]) for question in candidates if question.id in by_id
    ]
    graders: list[Grader] = [grader for grader in metrics or [] if not needs_help(grader)]
    if not graders:
        graders = auto_metrics([question.reference or "" for question in questions], questions)
    questions = questions[:count]
    tuned = [by_id[question.id]["answers"].get("tuned") for question in questions]
    answers = [answer["text"] if answer and greedy else None for answer in tuned]
    return Exam(questions, answers, graders[0] if graders and questions else None, form)
