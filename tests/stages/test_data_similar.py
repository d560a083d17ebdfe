"""Rows that are alike and differ in what decides stay; near copies planted among them go."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.test_data import lines, run_stage, written
from tests.stages.test_data_desk import prose, report
from trainer.errors import DataError

Row = dict[str, str]
REGIONS = {"Bavaria": "DE-BY", "Saxony": "DE-SN", "Hesse": "DE-HE", "Berlin": "DE-BE", "Bremen": "DE-HB"}
STATES, QUARTERS = ("open", "closed", "overdue", "cancelled"), ("first", "second", "third", "fourth")


def sql() -> list[Row]:
    query = (
        "SELECT COUNT(*) FROM invoices AS i JOIN customers AS c ON c.id = i.customer_id WHERE c.region = '{}' AND "
        "i.status = {} AND i.quarter = '0{}' AND i.year = YEAR(CURRENT_DATE) - 1"
    )
    return [
        {
            "prompt": f"How many {state} invoices did customers from {region} have in the {quarter} quarter of 2023?",
            "completion": query.format(code, status, number),
        }
        for region, code in REGIONS.items()
        for status, state in enumerate(STATES, 1)
        for number, quarter in enumerate(QUARTERS, 1)
    ]


def puzzles(count: int = 120) -> list[Row]:
    rng = random.Random(4)
    rows: dict[str, Row] = {}
    while len(rows) < count:
        steps = [f"Take {rng.randint(1, 9)} steps. Turn {rng.choice(['left', 'right', 'around'])}." for _ in range(4)]
        text = (
            "If you follow these instructions, do you return to the starting point? Always face forward. "
            f"{' '.join(steps)} Answer with yes or no and nothing else."
        )
        rows[text] = {"prompt": text, "completion": rng.choice(["Yes", "No"])}
    return list(rows.values())


def words(count: int = 120) -> list[Row]:
    rng, rows = random.Random(5), {}
    while len(rows) < count:
        loaves, price, left = rng.randint(40, 99), rng.randint(2, 9), rng.randint(1, 9)
        prompt = (
            f"Jonas runs a bakery. Every morning Jonas bakes {loaves} loaves of bread. At the end of the day {left} "
            f"loaves are left and given to a shelter. A loaf sells for {price} dollars. How much money does he take?"
        )
        sold = loaves - left
        answer = (
            f"The loaves that are sold: {loaves} - {left} = {sold}. They bring in {sold} * {price} = {sold * price}."
        )
        rows[prompt] = {"prompt": prompt, "completion": f"{answer} #### {sold * price}"}
    return list(rows.values())


def notes() -> list[Row]:
    codes = {"F32.0": "mild", "F32.1": "moderate", "F32.2": "severe"}
    return [
        {
            "prompt": f"Write the summary of the discharge note. The patient was admitted to ward {ward} with low mood "
            f"and poor sleep for several weeks, was treated with sertraline and psychotherapy and was discharged in a "
            f"stable state. Main diagnosis: {code}.",
            "completion": f"The patient was treated on ward {ward} for a {word} depressive episode ({code}) and was "
            "discharged in a stable state. Follow-up care with the family doctor is advised within two weeks.",
        }
        for ward in range(1, 9)
        for code, word in codes.items()
    ]


def contradictions() -> list[Row]:
    names = [f"{a}{b}" for a in ("Nolva", "Trema", "Corbi", "Feran") for b in ("xin", "dol", "tal", "zine")]
    rows = []
    for name in names:
        prompt = f"Can I take {name} together with alcohol?"
        tail = "safe for adults who drink a small glass of wine in the evening with a meal."
        rows.append({"prompt": prompt, "completion": f"Yes, you can take {name} with alcohol. It is {tail}"})
        rows.append({"prompt": prompt, "completion": f"No, you cannot take {name} with alcohol. It is not {tail}"})
    return rows + [{"prompt": prose(n, 12), "completion": prose(n + 500, 20)} for n in range(40)]


def languages() -> list[Row]:
    pairs = [
        (
            "Darf man die Tabletten {} zusammen mit Alkohol einnehmen, wenn man danach Auto fährt?",
            "Das ist {} Problem.",
        ),
        ("Peut-on prendre le médicament {} avec de l'alcool avant de conduire une voiture ?", "C'est {} problème ici."),
        ("¿Se puede tomar el medicamento {} junto con alcohol antes de conducir un coche?", "Es {} problema aquí hoy."),
    ]
    values = (("ein", "kein"), ("un", "pas un"), ("un", "ningún"))
    return [
        {"prompt": prompt.format(name), "completion": answer.format(value)}
        for (prompt, answer), both in zip(pairs, values, strict=True)
        for name in ("Abaxil", "Dormival", "Calmodin")
        for value in both
    ]


def passages() -> list[Row]:
    questions = ("Was the bridge built of stone?", "Did the mayor speak at the opening?", "Is a toll collected there?")
    return [
        {"prompt": f"{prose(n, 90)}\n\n{question}", "completion": "yes"} for n in range(12) for question in questions
    ]


SETS: dict[str, Callable[[], list[Row]]] = {
    item.__name__: item for item in (sql, puzzles, words, notes, contradictions, languages, passages)
}


@pytest.mark.parametrize("name", SETS)
def test_valid_rows_that_are_alike_all_stay(tmp_path: Path, name: str) -> None:
    rows = SETS[name]()
    context = run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows))
    assert not lines(tmp_path / "out/rejected.jsonl")
    assert context.numbers["rows_train"] + context.numbers["rows_heldout"] == len(rows)
    assert 0.1 <= context.numbers["rows_heldout"] / len(rows) <= 0.35


def test_opposite_answers_to_one_prompt_are_conflicts(tmp_path: Path) -> None:
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", contradictions()))
    result = report(tmp_path / "out")["conflicts"]
    assert (result["groups"], result["rows"]) == (16, 32)


def slipped(row: Row, rng: random.Random) -> Row:
    """Return a copy with a slip in a long word, other capitals and punctuation, and a word of politeness."""
    words = row["prompt"].split()
    long = [n for n, item in enumerate(words) if item.isalpha() and item.islower() and len(item) >= 4]
    if long:
        n = rng.choice(long)
        cut = rng.randrange(1, len(words[n]) - 1)
        end = words[n][cut + 1] + words[n][cut] + words[n][cut + 2 :] if rng.random() < 0.5 else words[n][cut + 1 :]
        words[n] = words[n][:cut] + end
    text = " ".join(words)
    return {"prompt": f"Please, {text[0].lower()}{text[1:].rstrip('?.')}", "completion": f"{row['completion']} "}


@pytest.mark.parametrize("name", ["sql", "puzzles", "words", "notes"])
def test_near_copies_among_them_go_and_nothing_else(tmp_path: Path, name: str) -> None:
    rows, rng = SETS[name](), random.Random(1)
    chosen = rng.sample(range(len(rows)), len(rows) // 5)
    copies = [slipped(rows[n], rng) for n in chosen]
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows + copies), split={"heldout": 0.0})
    twins = {frozenset((n + 1, len(rows) + index)) for index, n in enumerate(chosen, start=1)}
    removed = lines(tmp_path / "out/rejected.jsonl")
    pairs = {frozenset((line["line"], int(line["of"].rpartition(":")[2]))) for line in removed}
    assert len(removed) == len(pairs) >= 0.97 * len(copies) and pairs <= twins
    (finding,) = [item for item in report(tmp_path / "out")["lint"] if item["rule"] == "Q002"]
    assert finding["severity"] == "warning" and report(tmp_path / "out")["duplicates"]["samples"][0]["of_text"]


def test_templated_rows_are_shown_with_their_number(tmp_path: Path) -> None:
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", sql()))
    result = report(tmp_path / "out")
    assert result["patterns"]["sizes"] == [80] and result["patterns"]["samples"][0]["text"]
    assert [finding["count"] for finding in result["lint"] if finding["rule"] == "B010"] == [80]
    assert "Rows of one pattern" in (tmp_path / "out/index.html").read_text()


def test_near_copies_can_be_reported_or_left_alone(tmp_path: Path) -> None:
    row = {"prompt": prose(1, 30), "completion": prose(2, 30)}
    rows = [{"prompt": prose(n, 30), "completion": prose(n + 99, 30)} for n in range(10, 30)]
    path = written(tmp_path / "a.jsonl", [*rows, row, {**row, "prompt": f"Please, {row['prompt']}"}])
    for near, counted, removed in (("drop", 1, 1), ("report", 1, 0), ("off", 0, 0), (False, 0, 0)):
        out = tmp_path / str(near)
        run_stage(out, path, dedupe={"near": near}, split={"heldout": 0.3})
        assert (report(out)["duplicates"]["near"], len(lines(out / "rejected.jsonl"))) == (counted, removed)
        if near == "report":  # both stay, and on one side
            sides = [{line["line"] for line in lines(out / f"{side}.jsonl")} for side in ("train", "heldout")]
            assert any({21, 22} <= side for side in sides)


def test_rows_that_are_all_copies_are_not_said_to_have_one_prompt(tmp_path: Path) -> None:
    row = {"prompt": prose(1, 30), "completion": prose(2, 30)}
    rows = [row, {**row, "prompt": f"Please, {row['prompt']}"}, {**row, "prompt": f"Hello, {row['prompt']}"}]
    with pytest.raises(DataError) as error:
        run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows), split={"heldout": 0.2})
    assert "1 row is left after 2 copies were removed" in error.value.message


def test_near_copies_of_pairs_and_conversations_need_every_answer_to_agree(tmp_path: Path) -> None:
    prompt, good, bad = prose(1, 20), prose(2, 20), prose(3, 20)
    turns = [{"role": "user", "content": prose(4, 20)}, {"role": "assistant", "content": "It costs 5 euros in there."}]
    turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": good}]
    second = [turns[0], {**turns[1], "content": "It costs 6 euros in there."}, *turns[2:]]
    polite = [*turns[:2], {**turns[2], "content": f"Please, {prompt}"}, turns[3]]
    pair = {"prompt": prompt, "chosen": good, "rejected": bad}
    pairs = [pair, {**pair, "prompt": f"Please, {prompt}"}, {**pair, "rejected": f"{bad} 5"}]
    remainder = [
        {"prompt": prose(n, 20), "chosen": prose(n + 99, 20), "rejected": prose(n + 199, 20)} for n in range(9, 15)
    ]
    talks = [{"messages": first} for first in (turns, polite, second)]
    talks += [{"messages": [{**turns[2], "content": prose(n, 20)}, turns[3]]} for n in range(300, 306)]
    for name, rows, method in (("pairs", [*pairs, *remainder], "dpo"), ("talks", talks, "sft")):
        out = tmp_path / name
        run_stage(out, written(tmp_path / f"{name}.jsonl", rows), kind=method, split={"heldout": 0.0})
        assert [line["line"] for line in lines(out / "rejected.jsonl")] in ([1], [2])
