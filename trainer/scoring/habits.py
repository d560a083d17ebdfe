"""Measure habits that tuning leaves behind: refusals, another language, one answer to every question.

General prompts have different answers, in the language of the prompt, and none of them is to be refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.data.lint.facts.language import language_of
from trainer.scoring.graders.refusal import refuses
from trainer.scoring.statistics.measurements import Evidence

HABITS = ("refusal_rate", "other_language_rate", "same_answer_rate")
"""Shares of general prompts, by arm; less is better."""

Answers = Mapping[str, Sequence[str]]
"""By arm, one answer per prompt, in the same order for every arm."""


def habit_evidence(prompts: Sequence[str], answers: Answers) -> dict[str, dict[str, Evidence]]:
    """Return one mark per prompt of every arm: refused, in another language, the same text as for another prompt."""
    marks_of: dict[str, Callable[[Sequence[str]], list[bool]]] = {
        "refusal_rate": lambda texts: [refuses(text) for text in texts],
        "other_language_rate": lambda texts: _in_another_language(prompts, texts, answers.get("base", ())),
        "same_answer_rate": _repeated,
    }
    return {
        habit: {
            arm: Evidence("share", np.array(marks_of[habit](texts), dtype=np.float64)) for arm, texts in answers.items()
        }
        for habit in HABITS
    }


def _repeated(texts: Sequence[str]) -> list[bool]:
    """Tell which answers another prompt got too; an empty text is an answer.

    Example:
        >>> _repeated(["Yes.", " yes. ", "no", ""])
        [True, True, False, False]
    """
    plain = [" ".join(text.casefold().split()) for text in texts]
    counts = Counter(plain)
    return [counts[text] > 1 for text in plain]


def _in_another_language(prompts: Sequence[str], texts: Sequence[str], base: Sequence[str]) -> list[bool]:
    """Tell which answers are in a language that neither the prompts nor the base's answer to the prompt have.

    A prompt may ask for a translation: the language of the base's own answer is right too.
    """
    usual = _pooled_language(prompts)
    expected = _languages(base) if base else [""] * len(texts)
    return [bool(code) and code not in (usual, right) for code, right in zip(_languages(texts), expected, strict=True)]


def _languages(texts: Sequence[str]) -> list[str]:
    """Return the language of each text; those too short alone are read together."""
    alone = [language_of(text) for text in texts]
    short = [text for text, code in zip(texts, alone, strict=True) if not code and _has_words(text)]
    together = _pooled_language(short)
    return [code or (together if _has_words(text) else "") for text, code in zip(texts, alone, strict=True)]


def _pooled_language(texts: Sequence[str]) -> str:
    """Return the language in which most of the texts are, read in groups that are long enough; "" for none."""
    groups = [" ".join(texts[start : start + 8]) for start in range(0, len(texts), 8)]
    codes = Counter(code for code in map(language_of, groups) if code)
    if not codes:
        return ""
    code, count = codes.most_common(1)[0]
    return code if 2 * count > len(groups) else ""


def _has_words(text: str) -> bool:
    return sum(character.isalpha() for character in text) >= 4
