"""Measure one arm on one set of questions: ask, repair, time and grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trainer.recipe.arms import Arm, Endpoint
from trainer.recipe.metrics import Confidence, Grader, MultipleChoice
from trainer.scoring.generation.responders import OnDone, PromptEncoder, Responder, do_nothing
from trainer.scoring.generation.shared_prefix import common_length
from trainer.scoring.graders import GraderServices, calibration, expected_calibration_error, grade, micro
from trainer.scoring.graders.choice import grade_letters, with_letters
from trainer.scoring.graders.expected import applies
from trainer.scoring.question import Answer, Grade, PromptRequest, Question, prompt_of
from trainer.scoring.questions.prompts import without_reasoning
from trainer.scoring.questions.retrieval import retriever_name, stronger_retriever
from trainer.scoring.results import ArmResults, Panel, answer_evidence, figure, latency_evidence
from trainer.scoring.statistics.inference import Floats
from trainer.shapes.scores import ArmFacts, Score

NO_ANSWER = Answer("", 0, finished=True)
RESAMPLES = 1000
PREFIX_PROMPTS = 64
"""Prompts whose common beginning is measured."""


@dataclass(frozen=True)
class ArmRun:
    """One arm before one set of questions: the model, the prompts and the graders."""

    arm: Arm
    """Its prompt tells how reasoning is cut off and whether answers are repaired."""
    responder: Responder
    """The model."""
    panel: Panel
    """The questions; it takes up the results."""
    prompts: Sequence[PromptRequest]
    """One per question."""
    graders: Sequence[Sequence[Grader]]
    """Graders of each question, the deciding one first."""
    services: GraderServices = field(default_factory=GraderServices)
    """What graders need beside the answer."""
    encoder: PromptEncoder | None = None
    """The run's tokenizer and template; it counts the common beginning of prompts."""
    latency_rows: int = 0
    concurrency: int = 8
    on_answer: OnDone = do_nothing

    def measure(self) -> ArmResults:
        """Ask, repair, grade and time; put the results into the panel."""
        results = ArmResults(self.arm.name, self.panel.questions, self.panel.graders)
        self._set_answers(results, self._generate())
        if self.arm.repair:
            self._set_answers(results, self._repair(results))
        self._grade(results, self.graders)
        generated = self._generated()
        groups = [self.panel.questions[index].group for index in generated]
        results.measured = answer_evidence([results.answers[index] for index in generated], groups)
        prompts = [self.prompts[index] for index in generated]
        if self.latency_rows and prompts:
            results.measured |= latency_evidence(self.responder.timings(prompts[: self.latency_rows]))
            at_once = prompts[: max(self.concurrency, self.latency_rows)]
            rates = self.responder.figures(at_once, self.concurrency)
            results.figures |= {name: figure(value) for name, value in rates.items()}
        results.facts = self._facts(results.answers, prompts)
        self.panel.arms[self.arm.name] = results
        return results

    # Answers

    def _set_answers(self, results: ArmResults, answers: list[Answer]) -> None:
        tag = self.arm.prompt.reasoning_tag if self.arm.prompt else None
        results.answers, results.texts = answers, [without_reasoning(answer.final, tag) for answer in answers]

    def _generated(self) -> list[int]:
        """Return the questions with a grader that reads answers; multiple choice goes by log-probabilities."""
        return [
            index
            for index, graders in enumerate(self.graders)
            if not all(isinstance(grader, MultipleChoice) for grader in graders)
        ]

    def _generate(self) -> list[Answer]:
        generated = self._generated()
        for _ in range(len(self.prompts) - len(generated)):
            self.on_answer()
        replies = self.responder.answers([self.prompts[index] for index in generated], self.on_answer)
        answers = dict(zip(generated, replies, strict=True))
        return [answers.get(index, NO_ANSWER) for index in range(len(self.prompts))]

    def _repair(self, results: ArmResults) -> list[Answer]:
        """Give each answer that breaks the form a second attempt, with what is wrong about it."""
        form = [
            [grader for grader in graders if grader.is_format and not isinstance(grader, MultipleChoice)]
            for graders in self.graders
        ]
        attempt = ArmResults(results.arm, results.questions, results.graders, results.answers, results.texts)
        self._grade(attempt, form)
        reasons: dict[int, str] = {}
        for grades in attempt.grades.values():
            for index, mark in enumerate(grades):
                if mark is not None and mark.score < 1:
                    reasons.setdefault(index, mark.reason)
        again = [_second_prompt(self.prompts[index], results.texts[index], reason) for index, reason in reasons.items()]
        replies = self.responder.answers(again, self.on_answer) if again else []
        answers = list(results.answers)
        for index, reply in zip(reasons, replies, strict=True):
            answers[index] = _both_attempts(answers[index], reply)
        return answers

    # Grades

    def _grade(self, results: ArmResults, graders: Sequence[Sequence[Grader]]) -> None:
        """Let every grader mark the questions that name it; items may share a metric's name with other keys."""
        # choices continue the arm's own prompt, not the row's
        pairs = zip(self.panel.questions, self.prompts, strict=True)
        questions = [replace(question, messages=prompt.messages) for question, prompt in pairs]
        users: dict[str, tuple[Grader, list[int]]] = {}
        for index, graders_of_question in enumerate(graders):
            for grader in graders_of_question:
                users.setdefault(grader.model_dump_json(), (grader, []))[1].append(index)
        for grader, indices in users.values():
            answers = [replace(results.answers[index], text=results.texts[index]) for index in indices]
            self._grade_by(grader, results, indices, answers, [questions[index] for index in indices])

    def _grade_by(
        self,
        grader: Grader,
        results: ArmResults,
        indices: list[int],
        answers: Sequence[Answer],
        questions: Sequence[Question],
    ) -> None:
        marks = results.grades.setdefault(grader.title, [None] * len(self.prompts))
        for index, mark in zip(indices, self._marks(grader, answers, questions), strict=True):
            marks[index] = mark
        counts = micro(grader, answers, questions)
        if counts is not None:
            all_counts = results.counts.setdefault(grader.title, np.zeros((len(self.prompts), 3)))
            all_counts[indices] = counts
        if isinstance(grader, Confidence) and grader.measure == "ece":
            statements = calibration(grader, answers, questions)
            statements = statements[~np.isnan(statements).any(axis=1)]
            if len(statements):
                results.figures[grader.title] = _calibration_error(statements, grader.bins)

    def _marks(
        self, grader: Grader, answers: Sequence[Answer], questions: Sequence[Question]
    ) -> Sequence[Grade | None]:
        if not isinstance(grader, MultipleChoice) or self.responder.tells_choices:
            tells = self.responder.choice_scores if self.responder.tells_choices else None
            return grade(grader, answers, questions, replace(self.services, choice_scores=tells))
        indices = [index for index, question in enumerate(questions) if applies(grader, question)]
        relevant = [questions[index] for index in indices]
        prompts = [with_letters(grader, question, prompt_of(question)) for question in relevant]
        replies = [replace(reply, text=reply.final) for reply in self.responder.answers(prompts, do_nothing)]
        marks = dict(zip(indices, grade_letters(grader, replies, relevant), strict=True))
        return [marks.get(index) for index in range(len(questions))]

    def _facts(self, answers: Sequence[Answer], prompts: Sequence[PromptRequest]) -> ArmFacts:
        arm = self.arm
        ids = [self.encoder.ids(prompt) for prompt in prompts[:PREFIX_PROMPTS]] if self.encoder else []
        return {
            "model": "endpoint" if isinstance(arm.model, Endpoint) else arm.model,
            "shots": arm.shots.fixed + arm.shots.dynamic if arm.shots else 0,
            "documents": arm.documents is not None,
            "retriever": retriever_name(arm.retriever) if arm.retriever else None,
            "stronger_retriever": stronger_retriever(arm.retriever) if arm.retriever else None,
            "prompted": arm.is_prompted,
            "shared_prefix_tokens": common_length(ids) if len(ids) > 1 else 0,
            "concurrency": self.concurrency,
            "repairs": sum(answer.repaired for answer in answers),
            "endless_reasoning": sum(answer.content == "" and not answer.finished for answer in answers),
        }


def _second_prompt(prompt: PromptRequest, text: str, reason: str) -> PromptRequest:
    request = f"That answer cannot be used: {reason}. Give the corrected answer and nothing else."
    return replace(
        prompt,
        messages=[*prompt.messages, {"role": "assistant", "content": text}, {"role": "user", "content": request}],
    )


def _both_attempts(first: Answer, second: Answer) -> Answer:
    """Return the second answer with the tokens of both."""
    return replace(
        second,
        num_tokens=first.num_tokens + second.num_tokens,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        repaired=True,
        first_text=first.text,
    )


def _calibration_error(statements: Floats, bins: int) -> Score:
    """Return the expected calibration error with a bootstrap over rows.

    Args:
        statements: (statements, 3) confidence, 1 where right, and the row, as of `calibration`.
        bins: Number of bins.
    """
    generator = np.random.default_rng(0)
    # a row with several statements is drawn as a whole
    rows = [np.flatnonzero(statements[:, 2] == row) for row in np.unique(statements[:, 2])]
    draws = (generator.integers(0, len(rows), len(rows)) for _ in range(RESAMPLES))
    errors = [
        expected_calibration_error(statements[np.concatenate([rows[row] for row in draw])], bins) for draw in draws
    ]
    low, high = np.quantile(errors, [0.025, 0.975])
    value = expected_calibration_error(statements, bins)
    return {"value": value, "low": float(low), "high": float(high), "n": len(rows)}
