"""IFEval: how many of our verdicts are those of the published checks, as lm-evaluation-harness carries them.

    python -m pip install lm-eval nltk langdetect immutabledict
    python scripts/bench/ifeval.py PROMPTS.jsonl TEXTS.jsonl [TEXTS.jsonl ...]

PROMPTS is IFEval's file (`instruction_id_list`, `kwargs`); TEXTS are rows with `response`, `text` or `messages`. Each
instruction is put to two texts in about twenty forms that are made to keep it or to break it, strictly and, for a
fifth of them, loosely.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nltk
from nltk.tokenize.destructive import NLTKWordTokenizer

from trainer.scoring.graders.ifeval.checks import follows, follows_loosely

LOOSE_SHARE = 0.2
SHORTEST, LONGEST = 20, 3000
Check = Callable[..., Any]


def published() -> Any:
    """Load the published checks without NLTK's data, which it would download: they serve two of its functions."""
    nltk.data.find = lambda *_, **__: True
    nltk.download = lambda *_, **__: True
    nltk.word_tokenize = lambda text: NLTKWordTokenizer().tokenize(text)
    importlib.import_module("langdetect").DetectorFactory.seed = 0
    checks = importlib.import_module("lm_eval.tasks.ifeval.utils")
    words = importlib.import_module("lm_eval.tasks.ifeval.instructions_util")
    words.count_sentences = lambda text: len(words.split_into_sentences(text))
    return checks


def texts_of(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for value in (row.get("response"), row.get("text"), *(turn.get("content") for turn in row.get("messages", []))):
            if isinstance(value, str) and SHORTEST < len(value) < LONGEST:
                yield value


def forms(settings: dict[str, Any], text: str) -> Iterator[str]:
    """Yield a text in forms that keep or break each kind of instruction."""
    listed = [item for value in settings.values() for item in (value if isinstance(value, list) else [value])]
    yield from (text, text.upper(), text.lower(), f'"{text}"', text.replace(",", ""), f"<<Title>>\n{text}")
    yield from (f"{text}\n\nP.S. bye", f"{text}\nP.P.S bye", f"{text}\n******\n{text[::-1]}")
    yield from (f"* a\n* b\n- c\n*x* {text}", "***".join(text.split("\n\n")), '```json\n{"a": 1}\n```')
    yield from (f"My answer is yes. {text}", f"{text} {' '.join(map(str, listed))}", f"[x][x][x]{text}")
    yield "\n".join(
        f"{settings.get('section_spliter', 'Section')} {number}\n{text[:40]}"
        for number in range(1, 1 + (settings.get("num_sections") or 3))
    )
    yield "\n".join(["* item **b** *c*"] * (settings.get("num_bullets") or 3))
    yield "\n\n***\n\n".join(["text"] * (settings.get("num_paragraphs") or 2))
    if word := settings.get("first_word"):
        paragraphs = range(1, 1 + settings["num_paragraphs"])
        yield "\n\n".join((word if number == settings["nth_paragraph"] else "foo") + " bar" for number in paragraphs)
    if prompt := settings.get("prompt_to_repeat"):
        yield f"{prompt}\n{text}"
    if end := settings.get("end_phrase"):
        yield text + end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    chosen = parser.parse_args()
    checks, draw = published(), random.Random(0)
    pool = [text for path in chosen.texts for text in texts_of(path)]
    pairs: list[tuple[str, Check, Check]] = [
        ("strict", checks.test_instruction_following_strict, follows),
        ("loose", checks.test_instruction_following_loose, follows_loosely),
    ]
    agreed: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    for line in chosen.prompts.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, settings in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            for text in (form for item in draw.sample(pool, 2) for form in forms(settings, item)):
                example = checks.InputExample(row["key"], [name], row["prompt"], [settings])
                for mode, theirs, ours in pairs:
                    if mode == "loose" and draw.random() > LOOSE_SHARE:
                        continue
                    expected = theirs(example, text).follow_instruction_list[0]
                    agreed[name] += expected == ours(text, name, settings)
                    total[name] += 1
    for name in sorted(total):
        print(f"{name:45} {agreed[name]:6} of {total[name]:6}")
    print(f"{'all':45} {agreed.total():6} of {total.total():6}, {agreed.total() / total.total():.2%}")


if __name__ == "__main__":
    main()
