"""A letter, a stop word or a sign stays where it is the task, or where another answer hangs on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from stages.test_data import lines, run_stage, written
from stages.test_data_desk import prose, report

Row = dict[str, str]
WORDS = "orchard driver ribbon quartz singer clerk saddle granite fossil painter pebble teacher timber sailor"
NOUNS = WORDS.split()
ENOUGH = [{"prompt": prose(n, 14), "completion": prose(n + 500, 14)} for n in range(40)]


def sentences() -> list[str]:
    rng = random.Random(11)
    return [
        "The {} gave a {} to the {} because it was in the {} near an old {}, and then they left for the {}.".format(
            *rng.choices(NOUNS, k=6)
        )
        for _ in range(20)
    ]


def swapped(text: str, place: int) -> str:
    """Swap two letters inside a long word."""
    words = text.split()
    long = [n for n, word in enumerate(words) if len(word) > 5]
    word = words[long[place % len(long)]]
    words[long[place % len(long)]] = word[:2] + word[3] + word[2] + word[4:]
    return " ".join(words)


def spelling() -> list[Row]:
    return [
        {"prompt": f"Correct the spelling: {swapped(text, n)}", "completion": text}
        for text in sentences()
        for n in range(3)
    ]


def grammar() -> list[Row]:
    wrong = ((" a ", " an "), (" the ", " a "), (" to ", " for "), (" because ", " , because "), (" was ", " were "))
    return [
        {"prompt": f"Correct the grammar: {text.replace(*one, 1)}", "completion": text}
        for text in sentences()
        for one in wrong
    ]


def short_grammar() -> list[Row]:
    rows = []
    for text in ("She is in the garden.", "He waits at the station.", "They sit on the bench."):
        for old, new in ((" the ", " a "), (" the ", " an "), (".", ""), (" the ", " ")):
            asked = f"Correct the mistakes in the following sentence and return nothing else: {text.replace(old, new)}"
            rows.append({"prompt": asked, "completion": text})
    return rows


def one_word() -> list[Row]:
    asked = "Write the following word as it is spelt in a dictionary and return nothing else: {}"
    return [
        {"prompt": asked.format(wrong), "completion": right}
        for right in ("government", "separate", "necessary")
        for wrong in (right[:3] + right[4:], right[:4] + right[5] + right[4] + right[6:], right)
    ]


def punctuation() -> list[Row]:
    return [
        {"prompt": f"Add what is missing: {asked}", "completion": text}
        for text in sentences()
        for asked in (text.replace(",", ""), text.replace(".", ""), text.lower(), text.capitalize())
        if asked != text
    ]


TASKS: dict[str, Callable[[], list[Row]]] = {
    one.__name__: one for one in (spelling, grammar, short_grammar, one_word, punctuation)
}


def gone(folder: Path, rows: list[Row]) -> list[int]:
    run_stage(folder / "out", written(folder / "a.jsonl", rows), split={"heldout": 0.0}, dedupe={"exact": False})
    return [line["line"] for line in lines(folder / "out/rejected.jsonl")]


@pytest.mark.parametrize("name", TASKS)
def test_rows_that_correct_their_prompt_are_no_copies(tmp_path: Path, name: str) -> None:
    rows = list({row["prompt"]: row for row in TASKS[name]()}.values())
    assert not gone(tmp_path, [*rows, *ENOUGH])


def test_words_for_one_gap_are_conflicts(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Fill the gap: {text.replace(' to ', ' ___ ')}",
            "completion": f"The word is '{word}': {text.replace(' to ', f' {word} ')}",
        }
        for text in sentences()
        for word in ("to", "for")
    ]
    assert not gone(tmp_path, rows)
    assert report(tmp_path / "out")["conflicts"]["rows"] == len(rows)


OTHER_WORDS = (
    "arteritis/arthritis payer/payee latitude/altitude moral/morale debit/debt Maria/Marta causal/casual "
    "desert/dessert lessor/lessee nitrate/nitrite Kalman/Kalmar Niger/Nigeria mortgagor/mortgagee"
)


@pytest.mark.parametrize("pair", OTHER_WORDS.split())
def test_other_words_under_one_prompt_are_a_conflict(tmp_path: Path, pair: str) -> None:
    often, once = pair.split("/")
    rows = [{"prompt": prose(n, 14), "completion": f"{prose(n + 300, 14)} about {often}"} for n in range(12)]
    rows += [
        {"prompt": prose(99, 30), "completion": f"{prose(98, 20)} The role of {word} is told in there."}
        for word in (often, once)
    ]
    assert not gone(tmp_path, rows)
    assert report(tmp_path / "out")["conflicts"]["rows"] == 2
