"""One arm on one set of questions: asked, repaired where wanted, timed and graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.recipe.arms import Arm, Endpoint
from trainer.recipe.metrics import Confidence, Grader, MultipleChoice
from trainer.scoring.generation.responders import PromptEncoder, Responder, Told, shared_prefix
from trainer.scoring.graders import GraderServices, calibration, expected_calibration_error, grade, micro
from trainer.scoring.graders.expected import applies
from trainer.scoring.question import Answer, Grade, PromptRequest, Question, asked_by
from trainer.scoring.questions.lettered import grade_letters, lettered
from trainer.scoring.questions.prompts import without_reasoning
from trainer.scoring.questions.retrieval import retriever_name, stronger_retriever
from trainer.scoring.results import ArmResults, answer_evidence, figure, latency_evidence
from trainer.scoring.statistics.clusters import Floats
from trainer.scoring.statistics.intervals import Score

NO_ANSWER = Answer("", 0, finished=True)
RESAMPLES = 1000
PREFIX_PROMPTS = 64
"""Prompts whose common beginning is looked for."""


@dataclass(frozen=True)
class Settings:
    """How an arm is measured."""

    latency_rows: int
    concurrency: int


def measure(
    arm: Arm,
    speaker: Responder,
    questions: Sequence[Question],
    asked: Sequence[PromptRequest],
    graders: Sequence[Sequence[Grader]],
    *,
    helps: GraderServices,
    tokens: PromptEncoder | None,
    settings: Settings,
    told: Told,
) -> ArmResults:
    """Measure an arm.

    Args:
        arm: Its prompt says how reasoning is cut off and whether answers are repaired.
        speaker: The model.
        questions: What is asked.
        asked: The prompts, one a question.
        graders: Graders of each question, the deciding one first.
        helps: What graders need beside the answer.
        tokens: The run's tokenizer and template, where there is one: prompts are compared in its tokens.
        settings: Latency rows and concurrency.
        told: Called once an answer.
    """
    tag = arm.prompt.reasoning_tag if arm.prompt else None
    answers = _generated(speaker, asked, graders, told)
    texts = [without_reasoning(answer.final, tag) for answer in answers]
    if arm.repair:
        answers = _repaired(speaker, questions, asked, graders, answers, texts, helps, told)
        texts = [without_reasoning(answer.final, tag) for answer in answers]
    results = ArmResults(list(answers), texts)
    told_by_scores = replace(helps, choice_scores=speaker.choice_scores if speaker.tells_choices else None)
    _grade(results, _as_asked(questions, asked), graders, told_by_scores, speaker)
    generated = [place for place, own in enumerate(graders) if _is_generated(own)]
    results.measured = answer_evidence(
        [answers[place] for place in generated], [questions[place].group for place in generated]
    )
    timed = [one for one, needed in zip(asked, map(_is_generated, graders), strict=True) if needed]
    if settings.latency_rows and timed:
        results.measured |= latency_evidence(speaker.timings(timed[: settings.latency_rows]))
        at_once = timed[: max(settings.concurrency, settings.latency_rows)]
        rates = speaker.figures(at_once, settings.concurrency)
        results.figures |= {name: figure(value) for name, value in rates.items()}
    results.facts = _facts(
        arm, answers, [tokens.ids(one) for one in timed[:PREFIX_PROMPTS]] if tokens else [], settings
    )
    return results


def _as_asked(questions: Sequence[Question], asked: Sequence[PromptRequest]) -> list[Question]:
    """Return the questions as the arm puts them: choices continue its own prompt, not the row's."""
    return [replace(question, messages=one.messages) for question, one in zip(questions, asked, strict=True)]


def _is_generated(graders: Sequence[Grader]) -> bool:
    """Tell whether any grader reads an answer; multiple choice goes by log-probabilities."""
    return not all(isinstance(grader, MultipleChoice) for grader in graders)


def _generated(
    speaker: Responder, asked: Sequence[PromptRequest], graders: Sequence[Sequence[Grader]], told: Told
) -> list[Answer]:
    places = [place for place, own in enumerate(graders) if _is_generated(own)]
    for _ in range(len(asked) - len(places)):
        told()
    found = dict(zip(places, speaker.answers([asked[place] for place in places], told), strict=True))
    return [found.get(place, NO_ANSWER) for place in range(len(asked))]


# Repair


def _repaired(
    speaker: Responder,
    questions: Sequence[Question],
    asked: Sequence[PromptRequest],
    graders: Sequence[Sequence[Grader]],
    answers: Sequence[Answer],
    texts: Sequence[str],
    helps: GraderServices,
    told: Told,
) -> list[Answer]:
    """Give each answer that breaks the form a second attempt, shown what is wrong."""
    form = [
        [grader for grader in own if grader.is_format and not isinstance(grader, MultipleChoice)] for own in graders
    ]
    results = ArmResults(list(answers), list(texts))
    _grade(results, questions, form, helps, speaker)
    wrong: dict[int, str] = {}
    for grades in results.grades.values():
        for place, found in enumerate(grades):
            if found is not None and found.score < 1:
                wrong.setdefault(place, found.reason)
    again = [_second_prompt(asked[place], texts[place], reason) for place, reason in wrong.items()]
    second = speaker.answers(again, told) if again else []
    repaired = list(answers)
    for place, answer in zip(wrong, second, strict=True):
        first = answers[place]
        repaired[place] = replace(
            answer,
            num_tokens=first.num_tokens + answer.num_tokens,
            prompt_tokens=first.prompt_tokens + answer.prompt_tokens,
            repaired=True,
            first_text=first.text,
        )
    return repaired


def _second_prompt(asked: PromptRequest, text: str, reason: str) -> PromptRequest:
    wanted = f"That answer cannot be used: {reason}. Give the corrected answer and nothing else."
    turns = [{"role": "assistant", "content": text}, {"role": "user", "content": wanted}]
    return replace(asked, messages=[*asked.messages, *turns])


# Grading


def _grade(
    results: ArmResults,
    questions: Sequence[Question],
    graders: Sequence[Sequence[Grader]],
    helps: GraderServices,
    speaker: Responder,
) -> None:
    """Let every grader mark the questions that name it; items may share a metric's name with other keys."""
    named: dict[str, tuple[Grader, list[int]]] = {}
    for place, own in enumerate(graders):
        for grader in own:
            named.setdefault(grader.model_dump_json(), (grader, []))[1].append(place)
    for grader, places in named.values():
        answers = [replace(results.answers[place], text=results.texts[place]) for place in places]
        asked = [questions[place] for place in places]
        marks = results.grades.setdefault(grader.title, [None] * len(questions))
        for place, found in zip(places, _marks(grader, answers, asked, helps, speaker), strict=True):
            marks[place] = found
        counts = micro(grader, answers, asked)
        if counts is not None:
            kept = results.counts.setdefault(grader.title, np.zeros((len(questions), 3)))
            kept[places] = counts
        if isinstance(grader, Confidence) and grader.measure == "ece":
            stated = calibration(grader, answers, asked)
            stated = stated[~np.isnan(stated).any(axis=1)]
            if len(stated):
                results.figures[grader.title] = _calibration_error(stated, grader.bins)


def _marks(
    grader: Grader, answers: Sequence[Answer], asked: Sequence[Question], helps: GraderServices, speaker: Responder
) -> Sequence[Grade | None]:
    if not isinstance(grader, MultipleChoice) or speaker.tells_choices:
        return grade(grader, answers, asked, helps)
    places = [place for place, question in enumerate(asked) if applies(grader, question)]
    looked_at = [asked[place] for place in places]
    prompts = [lettered(grader, question, asked_by(question)) for question in looked_at]
    said = [replace(answer, text=answer.final) for answer in speaker.answers(prompts, lambda: None)]
    found = dict(zip(places, grade_letters(grader, said, looked_at), strict=True))
    return [found.get(place) for place in range(len(asked))]


def _calibration_error(pairs: Floats, bins: int) -> Score:
    """Return the expected calibration error with a bootstrap over rows."""
    draw = np.random.default_rng(0)
    of_row = [np.flatnonzero(pairs[:, 2] == row) for row in np.unique(pairs[:, 2])]
    drawn = (draw.integers(0, len(of_row), len(of_row)) for _ in range(RESAMPLES))
    resampled = [
        expected_calibration_error(pairs[np.concatenate([of_row[row] for row in rows])], bins) for rows in drawn
    ]
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = expected_calibration_error(pairs, bins)
    return {"value": value, "low": float(low), "high": float(high), "n": len(of_row)}


def _facts(arm: Arm, answers: Sequence[Answer], prompts: Sequence[list[int]], settings: Settings) -> dict[str, object]:
    return {
        "model": "endpoint" if isinstance(arm.model, Endpoint) else arm.model,
        "shots": arm.shots.fixed + arm.shots.dynamic if arm.shots else 0,
        "documents": arm.documents is not None,
        "retriever": retriever_name(arm.retriever) if arm.retriever else None,
        "stronger_retriever": stronger_retriever(arm.retriever) if arm.retriever else None,
        "prompted": arm.is_prompted,
        "shared_prefix_tokens": shared_prefix(prompts),
        "concurrency": settings.concurrency,
        "repairs": sum(answer.repaired for answer in answers),
        "endless_reasoning": sum(answer.content == "" and not answer.finished for answer in answers),
    }
