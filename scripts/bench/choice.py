"""Multiple choice by log-probability: counts to compare with another harness on the same items and model.

    python scripts/bench/choice.py MODEL ITEMS.jsonl [--out marks.json]

An item is {"query", "choices", "gold"}. The context is "QUERY\\nAnswer:", each continuation " CHOICE", without a chat
template. Prints how many are right by log-probability (acc) and by log-probability per character (acc_norm).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from trainer.model.load import load_model, load_tokenizer
from trainer.recipe.metrics import MultipleChoice
from trainer.recipe.model import ModelSection
from trainer.scoring.generation.likelihood import choice_log_probs
from trainer.scoring.graders import GraderServices, grade
from trainer.scoring.question import Answer, Question

CACHE = Path("~/.cache/trainer").expanduser()


def scores_of(model: Any, tokenizer: Any, items: list[dict[str, Any]]) -> list[list[float]]:
    """Return the log-probability of each choice; the continuation's tokens are what it adds to the context's."""
    contexts, continuations = [], []
    for item in items:
        context = f"{item['query']}\nAnswer:"
        ids = tokenizer(context)["input_ids"]
        contexts.append(ids)
        continuations.append([tokenizer(f"{context} {choice}")["input_ids"][len(ids) :] for choice in item["choices"]])
    log_prob = choice_log_probs(model, tokenizer, contexts, continuations, 8)
    return [[score for score, _ in row] for row in log_prob]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("items", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for converted models")
    chosen = parser.parse_args()
    section = ModelSection(name_or_path=chosen.model)
    model = load_model(section, chosen.cache, dtype=torch.float32).eval()
    items = [json.loads(line) for line in chosen.items.read_text().splitlines()]
    scores = scores_of(model, load_tokenizer(section, chosen.cache), items)
    questions = [Question(str(row), [], None, item) for row, item in enumerate(items)]
    marks = {}
    for name, length in (("acc", "none"), ("acc_norm", "characters")):
        grader = MultipleChoice(key="gold", normalise=length)  # type: ignore[arg-type]
        grades = grade(
            grader, [Answer("", 0, True)] * len(items), questions, GraderServices(choice_scores=lambda *_: scores)
        )
        marks[name] = [result.score for result in grades if result]
        print(f"{name}: {sum(marks[name]):g} of {len(items)}")
    if chosen.out:
        chosen.out.write_text(json.dumps({**marks, "scores": scores}))


if __name__ == "__main__":
    main()
