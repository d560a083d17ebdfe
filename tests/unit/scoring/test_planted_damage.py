"""The gates that docs/eval.md recommends, on the shipped suite with planted damage and without."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from trainer.recipe.gates import Gate
from trainer.recipe.load import load_suite
from trainer.scoring.gates.judge import judge
from trainer.scoring.gates.reach import GateScope, unreachable
from trainer.scoring.graders import GraderServices, grade
from trainer.scoring.question import Answer, Question
from trainer.scoring.questions.suite import SuiteItems, read_items
from trainer.scoring.results import ArmResults, Panel
from trainer.scoring.retention import RetentionMeter, task_format
from trainer.scoring.statistics.measurements import Evidence

ROOT = Path(__file__).parents[3]
SUITE = str(ROOT / "recipes" / "suites" / "general.yaml")
GERMAN = {
    "blue": "blau", "cold": "kalt", "oxygen": "Sauerstoff", "honey": "Honig", "cow": "Kuh", "white": "weiß",
    "green": "grün", "night": "Nacht", "winter": "Winter", "water": "Wasser", "Saturday": "Samstag", "ear": "Ohr",
    "eye": "Auge", "dog": "Hund", "cat": "Katze", "down": "unten", "small": "klein", "slow": "langsam", "old": "alt",
    "dry": "trocken", "sad": "traurig", "bread": "Brot", "umbrella": "Regenschirm", "shoe": "Schuhe", "clock": "Uhr",
    "wings": "Schwingen", "leaf": "Laub", "hen": "Huhn", "sheep": "Schaf", "sun": "Sonne", "moon": "Mond",
    "teacher": "Lehrerin", "doctor": "Arzt", "book": "Buch", "yellow": "gelb", "grandmother": "Oma", "queen": "Königin",
    "fire": "Feuer", "breakfast": "Frühstück", "knife": "Messer", "door": "Tür", "key": "Schlüssel", "bed": "Bett",
    "right": "rechts",
}  # fmt: skip


def recommended() -> list[Gate]:
    """Return the gates on the suite `general` and on the leak that docs/eval.md shows."""
    page = (ROOT / "docs" / "eval.md").read_text(encoding="utf-8")
    block = re.search(r"\n    eval:\n(?:      .*\n)*?      gates:\n((?:        .*\n)+)", page)
    assert block is not None
    gates = [Gate.model_validate(gate) for gate in YAML(typ="safe").load(block[1])]
    return [gate for gate in gates if gate.suite == "general" or gate.metric == "format_leak_rate"]


def plain_items() -> SuiteItems:
    items = read_items(load_suite(SUITE))
    indices = [index for index, graders in enumerate(items.graders) if graders[0].title == "plain_answer"]
    return SuiteItems(items.suite, [items.questions[i] for i in indices], [items.graders[i] for i in indices], [])


def good(question: Question) -> str:
    """A base model: right in four of five, as the name of the item falls."""
    right = random.Random(question.id).random() < 0.8
    return f"It is {question.reference}." if right else "I do not know."


def undamaged(question: Question) -> str:
    """The same model after a harmless tuning: other words, one answer in twenty another one."""
    is_unsure = random.Random(f"{question.id} tuned").random() < 0.05
    return "I am not sure." if is_unsure else good(question).replace("It is", "The answer is")


def german(question: Question) -> str:
    answer = good(question)
    return "Das weiß ich nicht." if "know" in answer else f"Das ist {GERMAN.get(question.reference or '', '7')}."


DAMAGES: dict[str, Callable[[Question], str]] = {
    "constant answer": lambda _: "banana",
    "constant label": lambda _: '{"chapter": null}',
    "refuses everything": lambda _: "I'm sorry, but I can't help with that request.",
    "another language": german,
}


def judged(tuned: Callable[[Question], str]) -> dict[str, str]:
    """Return the verdict of each recommended gate on plain answers and the leak, by its metric."""
    items = plain_items()
    panel = Panel(items.questions, items.metrics, 0)
    (grader,) = items.metrics.values()
    for arm, answer in (("base", good), ("tuned", tuned)):
        texts = [answer(question) for question in items.questions]
        answers = [Answer(text, 5, finished=True) for text in texts]
        marks = list(grade(grader, answers, items.questions, GraderServices(None, None, None)))  # type: ignore[arg-type]
        panel.arms[arm] = ArmResults(arm, items.questions, items.metrics, answers, texts, {"plain_answer": marks})
    leak = leaked({arm: panel.arms[arm].texts[:32] for arm in panel.arms})

    def rows(arm: str, gate: Gate) -> Evidence | None:
        return leak[arm] if gate.metric == "format_leak_rate" else panel.evidence(arm, gate.metric)

    gates = [gate for gate in recommended() if gate.metric in ("plain_answer", "format_leak_rate")]
    scores = {"suites": {"general": {"must_pass": False, "arms": panel.scores()}}}
    rates = {arm: {"value": float(result.values.mean()), "n": 32} for arm, result in leak.items()}
    entries = judge(gates, scores | {"retention": {"format_leak_rate": rates}}, rows)
    return {entry["gate"]["metric"]: entry["verdict"] for entry in entries}


def leaked(texts: dict[str, list[str]]) -> dict[str, Evidence]:
    retention = RetentionMeter([], Path("unused"))
    retention.answers = texts
    return retention.evidence(task_format(['{"chapter": 17}'] * 10))["format_leak_rate"]


def test_an_undamaged_model_passes_the_recommended_gates() -> None:
    assert judged(undamaged) == {"plain_answer": "pass", "format_leak_rate": "pass"}
    assert judged(good) == {"plain_answer": "pass", "format_leak_rate": "pass"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_planted_damage_fails_them(damage: str) -> None:
    verdicts = judged(DAMAGES[damage])
    assert verdicts["plain_answer"] == "fail"
    assert verdicts["format_leak_rate"] == ("fail" if damage == "constant label" else "pass")


def test_each_part_that_a_recommended_gate_uses_has_sixty_items() -> None:
    items = read_items(load_suite(SUITE))
    for gate in recommended():
        count = sum(gate.metric in [grader.title for grader in graders] for graders in items.graders)
        assert gate.suite is None or count >= 60
        rows = count if gate.suite else 32
        assert unreachable(gate, GateScope("share", rows, "items", "", lower_is_better=gate.suite is None)) is None
