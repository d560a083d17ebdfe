"""Make up instruction rows at random and plant copies among them; one seed gives the same rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

SYLLABLES = [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "ar", "en", "is", "ol", "un")]
VOCABULARY, BLOCK = 30_000, 10_000
KINDS = ("exact", "form", "edit1", "edit5pct")
PII_EVERY = 50


def vocabulary(rng: random.Random) -> list[str]:
    """Return made-up words; the frequent ones are short, as in a language."""
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        num_syllables = 1 + min(3, int(len(words) ** 0.3 / 5) + rng.randrange(2))
        words["".join(rng.choices(SYLLABLES, k=num_syllables))] = None
    return list(words)


def write_rows(path: Path, num_rows: int, *, share: float = 0.2, seed: int = 7) -> dict[int, str]:
    """Write rows with a median of 400 characters; a share of them are copies of earlier rows.

    Returns:
        Line of each copy -> its kind.
    """
    planted = {}
    with path.open("wb") as file:
        for number, (prompt, answer, kind) in enumerate(rows(num_rows, share=share, seed=seed), start=1):
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            file.write(orjson.dumps({"messages": turns}, option=orjson.OPT_APPEND_NEWLINE))
            if kind:
                planted[number] = kind
    return planted


def rows(num_rows: int, *, share: float, seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield prompt, answer and, of a copy, its kind."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    words = vocabulary(rng)
    weights = 1 / (np.arange(VOCABULARY) + 10.0)
    cumulative = np.cumsum(weights / weights.sum())
    originals: list[tuple[str, str]] = []
    for _ in range(0, num_rows, BLOCK):
        lengths = np.clip(numbers.lognormal(4.05, 0.5, BLOCK), 12, 400).astype(int)
        drawn = np.searchsorted(cumulative, numbers.random(int(lengths.sum())))
        ends = np.cumsum(lengths)
        for row in range(min(BLOCK, num_rows)):
            if originals and rng.random() < share:
                kind = rng.choice(KINDS)
                yield *copied(rng.choice(originals), kind, words, rng), kind
                continue
            sentence = [words[i] for i in drawn[ends[row] - lengths[row] : ends[row]]]
            cut = len(sentence) // 3
            pair = (" ".join(sentence[:cut]).capitalize() + "?", _personal(row, rng) + " ".join(sentence[cut:]) + ".")
            if len(originals) < 50_000:
                originals.append(pair)
            elif rng.random() < 0.05:
                originals[rng.randrange(len(originals))] = pair
            yield *pair, ""


def _personal(row: int, rng: random.Random) -> str:
    if row % PII_EVERY:
        return ""
    number = rng.randrange(10**9)
    return f"Write to u{number}@mail-{number % 97}.net or call +49 30 {number % 10**7:07d}. "


def copied(pair: tuple[str, str], kind: str, words: list[str], rng: random.Random) -> tuple[str, str]:
    """Return a copy of a row, changed as `kind` says."""
    prompt, answer = pair
    match kind:
        case "form":
            return prompt.upper(), "  " + answer.replace(" ", "  ", 3) + "\n"
        case "edit1":
            return edited(prompt, 1, words, rng), edited(answer, 1, words, rng)
        case "edit5pct":
            return tuple(edited(text, max(1, round(0.05 * len(text.split()))), words, rng) for text in pair)  # type: ignore[return-value]
    return prompt, answer


def edited(text: str, count: int, words: list[str], rng: random.Random) -> str:
    """Replace `count` words by other words."""
    tokens = text.split()
    for index in rng.sample(range(len(tokens)), min(count, len(tokens))):
        tokens[index] = rng.choice(words)
    return " ".join(tokens)


def slipped(text: str, rng: random.Random) -> str:
    """Change 5 % of the words without a change of meaning: a slip in a word, one more stop word, other capitals."""
    tokens = text.split()
    plain = [index for index, word in enumerate(tokens) if word.isalpha() and word.islower() and len(word) > 5]
    for index in rng.sample(plain, min(len(plain), max(1, round(0.05 * len(tokens))))):
        word, cut = tokens[index], rng.randrange(1, len(tokens[index]) - 2)
        tokens[index] = rng.choice(
            (
                word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :],
                word[:cut] + word[cut + 1 :],
                f"just {word}",
                word.capitalize(),
            )
        )
    return " ".join(tokens)
