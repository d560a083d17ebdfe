"""No file, page, line or log of `data`, `check` and `inspect` holds personal data or a secret in clear."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Project
from tests.unit.data.pii.examples import IDENTITIES
from tests.unit.data.pii.person_rows import SENTENCES, number_of
from tests.unit.data.pii.secret_kinds import FIXED, NAMED, TEXTS
from tests.unit.data.pii.test_secrets import secret_span

NUM_CHARS = 12
"""Of a value, so many characters in a row count as the value itself."""
LABELS = ("BEGIN", "END", "PRIVATE", "PuTTY", "Version", "Proc-Type", "DEK-Info", "Comment", "Encryption")


def secrets() -> Iterator[tuple[str, str]]:
    """Yield a text and the secret in it, one of every kind."""
    for kind in [*FIXED, *NAMED]:
        rng = random.Random(kind)
        if kind in FIXED:
            value = FIXED[kind](rng)
            yield rng.choice(TEXTS).format(value), value
        else:
            text, value = NAMED[kind](rng)
            yield text, text[slice(*secret_span(kind, text, value))]


def persons() -> Iterator[tuple[str, str]]:
    """Yield a sentence and the value in it: telephone numbers of 41 countries, identities, an address, a card."""
    for region, sentences in SENTENCES.items():
        rng = random.Random(region)
        number = number_of(rng, region)
        yield rng.choice(sentences).format(number), number
    for text in IDENTITIES.values():
        words = [word.strip(".,") for word in text.split() if any(char.isdigit() for char in word)]
        yield text, max(words, key=len)
    yield "Write to maria.lopez@acme-widgets.com.", "maria.lopez@acme-widgets.com"
    yield "The card is 4111 1111 1111 1111.", "4111 1111 1111 1111"
    yield "IBAN DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00"


def secret_part(value: str) -> str:
    """Return the key of a connection string: account and dates before it stay."""
    return re.split(r"AccountKey=|SharedAccessKey=|&sig=", value)[-1]


def pieces(value: str) -> set[str]:
    """Return what gives a value away: all of it, or the beginning, middle and end of a long one."""
    value = secret_part(value)
    last = max(0, len(value) - NUM_CHARS)
    cut = [value[start : start + NUM_CHARS] for start in (0, last // 2, last)]
    clear_pieces = [piece for piece in cut if len(piece) > 5 and not any(label in piece for label in LABELS)]
    return {*clear_pieces, *(json.dumps(piece)[1:-1] for piece in clear_pieces)}


def rows(text: str, n: int) -> list[Any]:
    """Return rows that hold a text in every place, and that end in every way: kept, changed, a copy, refused."""
    requests = {"role": "user", "content": f"Read note {n}. {text}"}
    system = {"role": "system", "content": f"Remember: {text}"}
    answer = {"role": "assistant", "content": f"Noted under {n}."}
    call = {"type": "function", "function": {"name": "note", "arguments": json.dumps({"text": text})}}
    tools = [{"type": "function", "function": {"name": "note", "parameters": {"type": "object", "properties": {}}}}]
    return [
        {"messages": [requests, answer]},
        {"messages": [requests, {"role": "assistant", "content": f"Another answer, {n}."}]},  # a conflict
        {"messages": [system, {"role": "user", "content": f"q {n}"}, answer]},
        {"messages": [{"role": "user", "content": f"Repeat {n}"}, {"role": "assistant", "content": text}]},
        {"messages": [{"role": "user", "content": f"r {n}"}, {"role": "assistant", "content": f"<b>{text}</b>&amp;"}]},
        {"messages": [requests, {"role": "assistant", "content": "", "tool_calls": [call]}], "tools": tools},
        {"messages": [requests, requests, answer]},  # roles do not alternate
        {"messages": [{"role": text, "content": text}, answer]},  # no such role
        {"messages": [{"role": "assistant", "content": text}]},  # no question
        {"messages": [requests, {"role": "assistant", "content": ""}]},
        {"left": text, text: "b"},  # no layout
        {"prompt": text, "completion": {"a": [text]}},
        {"instruction": text, "output": f"fine {n}", "customer": text},
    ]


def in_clear(texts: dict[str, str], values: list[str]) -> list[tuple[str, str]]:
    """Return the places and the pieces of values that stand there."""
    return [
        (name, piece) for name, text in texts.items() for value in values for piece in pieces(value) if piece in text
    ]


def told(project: Project) -> dict[str, str]:
    """Run the verbs that read rows; return all that they printed and wrote."""
    texts = {}
    calls = [("check",), ("data",), ("inspect",), ("inspect", "--rejected", "--limit", "1000")]
    for verb, *options in calls:
        process = project.call(verb, *options, "--debug")
        texts[" ".join([verb, *options])] = process.text
    for path in project.folder.rglob("*"):
        if path.is_file() and path.name not in ("rows.jsonl", "recipe.yaml"):
            texts[str(path.relative_to(project.folder))] = path.read_text(errors="replace")
    return texts


@pytest.mark.slow
@pytest.mark.parametrize("action", ["redact", "drop"])
def test_no_file_page_or_line_holds_a_value_in_clear(tmp_path: Path, tiny_model_dir: Path, action: str) -> None:
    cases = [*secrets(), *persons()]
    project = Project(tmp_path / "project")
    pii = {"action": action, "secrets": action}
    data = {"sources": [{"path": "rows.jsonl"}], "pii": pii, "max_rejected": 1.0, "split": {"heldout": 0.05}}
    tiny.write_recipe(project.folder, model=tiny_model_dir, data=data)
    lines = [json.dumps(row, ensure_ascii=n % 2 == 0) for n, (text, _) in enumerate(cases) for row in rows(text, n)]
    lines += [json.dumps({"prompt": text})[:-2] for text, _ in cases]  # no JSON
    lines += [json.dumps(row) for row in tiny.rows(40)]  # what is left where every other row is dropped
    (project.folder / "rows.jsonl").write_text("\n".join(lines))
    texts = told(project)
    assert any(name.endswith("index.html") for name in texts) and "data/train.jsonl" in "".join(texts)
    assert in_clear(texts, [value for _, value in cases]) == []


ALIKE = {
    "email": ("Mail zelda.quirk77@fjordmail.de", "zelda.quirk77@fjordmail.de"),
    "phone": ("Call me on +49 1512 3456789", "1512 3456789"),
    "ssn": ("The SSN is 536-22-8726", "536-22-8726"),
    "password": ("My password: Hk7vRq2zLs9QmT4wZp", "Hk7vRq2zLs9QmT4wZp"),
}
"""Texts that a value ends, so that what findings quote of many rows is cut inside of it."""


def rows_alike(text: str, where: str) -> list[Any]:
    """Return rows that all begin, or all end, with a text, or that have it as class or as name of a column."""
    words = [f"{word} {number}" for number, word in enumerate(("harbour", "lantern", "orchard", "saddle") * 15)]
    match where:
        case "prompt":
            return [
                {"prompt": f"{text} about the {word}, {word * 9}", "completion": f"Noted {word}."} for word in words
            ]
        case "begin":
            return [
                {"prompt": f"ask {word}", "completion": f"{text} is {word}, {word * n}"}
                for n, word in enumerate(words, 8)
            ]
        case "end":
            return [
                {"prompt": f"ask {word}", "completion": f"{word * n}, and: {text}"} for n, word in enumerate(words, 8)
            ]
        case "sentence":
            return [
                {"prompt": f"ask {word}", "completion": f"{text}. It is {word * n}"} for n, word in enumerate(words, 8)
            ]
        case "class":
            return [
                {"prompt": f"ask {word}", "completion": text if n % 9 else text + "."} for n, word in enumerate(words)
            ]
        case "key":
            return [
                {"prompt": f"ask {word}", "completion": json.dumps({"a" if n % 9 else text: 1})}
                for n, word in enumerate(words)
            ]
    return [{"prompt": f"ask {word}", "completion": f"said {word * 3}", text: "x"} for word in words]


@pytest.mark.parametrize("kind", ALIKE)
def test_what_is_quoted_of_many_rows_is_masked_before_it_is_cut(
    tmp_path: Path, tiny_model_dir: Path, kind: str
) -> None:
    text, value = ALIKE[kind]
    for index in ("prompt", "begin", "end", "sentence", "class", "key", "column"):
        if index == "sentence" and "." in text:
            continue  # such a text is never taken for a sentence
        folder = tmp_path / index
        pii = {"action": "report", "secrets": "report"}
        lint = {"severity": {"P100": "info"}}
        data = {"sources": [{"path": "rows.jsonl"}], "pii": pii, "lint": lint, "split": {"heldout": 0.0}}
        tiny.write_recipe(folder, model=tiny_model_dir, data=data)
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows_alike(text, index))))
        project = Project(folder)
        texts = {"data": project.call("data").text}
        for path in folder.rglob("data/*"):
            if path.name in ("report.json", "index.html"):
                texts[path.name] = path.read_text()
        assert len(texts) == 3, texts["data"]
        quoted = {"prompt": "B007", "begin": "Q015", "end": "Q015", "sentence": "Q026", "class": "B011", "key": "Q017"}
        assert quoted.get(index, "not used") in texts["data"], texts["data"]
        assert [(name, piece) for name, content in texts.items() for piece in halves(value) if piece in content] == []


def halves(value: str) -> set[str]:
    """Return the first and last eight characters of a value."""
    return {value[:8], value[-8:]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("rows.csv", "prompt,completion,ann.lee@fjordmail.de,ann.lee@fjordmail.de\na,b,1,2\n", id="csv"),
        pytest.param("rows.json", '[{"prompt": "a", "ann.lee@fjordmail.de": 1, "ann.lee@fjordmail.de": 2}]', id="json"),
        pytest.param("rows.json", '{"ann.lee@fjordmail.de": [{"a": 1}], "b": [{"a": 1}]}', id="lists"),
    ],
)
def test_a_reader_hides_names_of_columns_that_are_personal(
    tmp_path: Path, tiny_model_dir: Path, name: str, text: str
) -> None:
    tiny.write_recipe(tmp_path, model=tiny_model_dir, data={"sources": [{"path": name}]})
    (tmp_path / name).write_text(text)
    output = Project(tmp_path).call("data").text
    assert "a***@f***.de" in output and "ann.lee" not in output
