"""Items of a suite as questions, and the suite that is shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from trainer.errors import DataError
from trainer.recipe.load import load_suite
from trainer.scoring.questions.suite import SuiteItems, read_items

EXACT = {"kind": "exact_match"}


def read(folder: Path, lines: list[Any] | None = None, **values: Any) -> SuiteItems:
    """Write a suite, and `lines` as its file where there are any; read both."""
    path = folder / "made.yaml"
    if lines is not None:
        (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        values["sources"] = [{"path": "items.jsonl", **values.pop("source", {})}]
    path.write_text(json.dumps({"suite_version": 1, "name": "made", **values}))
    return read_items(load_suite(path))


def test_keys_that_an_item_does_not_know_are_what_its_graders_read(tmp_path: Path) -> None:
    item = {"prompt": "Hm?", "reference": "yes", "accepted": ["y"], "topic": {"deep": 1}}
    (question,) = read(tmp_path, [item], graders=[{"kind": "one_of"}]).questions
    assert question.row == {"accepted": ["y"], "topic": {"deep": 1}} and question.reference == "yes"
    assert question.id == question.group == "made/1"  # without an id its line
    assert question.messages == [{"role": "user", "content": "Hm?"}]


def test_the_nearest_graders_count_the_item_s_then_the_file_s_then_the_suite_s(tmp_path: Path) -> None:
    items = [
        {"id": "own", "prompt": "a", "reference": "b", "graders": [{"kind": "chrf"}]},
        {"id": "file", "prompt": "a"},
    ]
    inline = [{"id": "suite", "prompt": "a", "reference": "b"}]
    result = read(tmp_path, items, source={"graders": [{"kind": "valid_json"}]}, items=inline, graders=[EXACT])
    kinds = {question.id: graders[0].kind for question, graders in zip(result.questions, result.graders, strict=True)}
    assert kinds == {"made/suite": "exact_match", "made/own": "chrf", "made/file": "valid_json"}
    assert list(result.metrics) == ["exact_match", "chrf", "valid_json"]


def test_the_system_prompt_goes_to_items_that_have_none(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "mine"}, {"role": "user", "content": "b"}]
    items = [{"id": "a", "prompt": "a", "reference": "x"}, {"id": "b", "messages": turns, "reference": "x"}]
    first, second = read(tmp_path, items=items, system_prompt="Be brief.", graders=[EXACT]).questions
    assert first.messages[0] == {"role": "system", "content": "Be brief."} and second.messages == turns


def test_max_items_takes_the_first(tmp_path: Path) -> None:
    items = [{"id": str(index), "prompt": "a", "reference": "b"} for index in range(5)]
    result = read(tmp_path, items, source={"max_items": 2}, graders=[EXACT])
    assert [question.id for question in result.questions] == ["made/0", "made/1"]


@pytest.mark.parametrize(
    ("items", "values", "message"),
    [
        ([{"id": "a", "prompt": "a"}], {"graders": [EXACT]}, r"items.jsonl:1: made/a: .* reference answer"),
        ([{"id": "a", "prompt": "a"}], {}, r"items.jsonl:1: the item 'a' has no grader"),
        ([{"id": "a"}], {"graders": [EXACT]}, r"items.jsonl:1: no item: .*exactly one of"),
        (["text"], {"graders": [EXACT]}, r"items.jsonl:1: no item"),
        (
            [{"id": "a", "prompt": "a", "reference": "b"}] * 2,
            {"graders": [EXACT]},
            r"two items called 'a': .*items.jsonl:1 and .*items.jsonl:2",
        ),
        (
            [{"prompt": "a", "reference": "b", "graders": [EXACT, EXACT | {"key": "other"}], "other": "c"}],
            {},
            r"two graders called 'exact_match'",
        ),
        (
            [
                {"prompt": "a", "reference": "b", "graders": [{"kind": "chrf", "name": "m"}]},
                {"prompt": "a", "reference": "b", "graders": [{"kind": "rouge_l", "name": "m"}]},
            ],
            {},
            r"calls two kinds of metric 'm': chrf and rouge_l",
        ),
        (
            [{"prompt": "a", "reference": "d", "choices": ["b", "c"]}],
            {"graders": [{"kind": "multiple_choice"}]},
            r"items.jsonl:1: .*'d' is none of the 2 choices",
        ),
        (
            [{"prompt": "a", "reference": "b", "choices": "b"}],
            {"graders": [{"kind": "multiple_choice"}]},
            r"items.jsonl:1: .*must list at least two choices",
        ),
        (
            [{"prompt": "a", "instruction_id_list": ["never:heard_of"], "kwargs": [{}]}],
            {"graders": [{"kind": "ifeval"}]},
            r"items.jsonl:1: ",
        ),
    ],
)
def test_what_could_not_be_marked_is_refused_by_place(
    tmp_path: Path, items: list[Any], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, items, **values)
    assert caught.value.hint


def test_a_line_of_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(
        json.dumps({"suite_version": 1, "name": "made", "graders": [EXACT], "sources": [{"path": "i.jsonl"}]})
    )
    (tmp_path / "i.jsonl").write_text('\n{"id": "a", "prompt": "b", "reference": "c"}\n{"id": \n')
    with pytest.raises(DataError, match=r"i\.jsonl:3: no item"):
        read_items(load_suite(path))


def test_the_shipped_suite_covers_what_it_says() -> None:
    items = read_items(load_suite(tiny.ROOT / "recipes/suites/general.yaml"))
    per_metric: dict[str, int] = {}
    for graders in items.graders:
        per_metric[graders[0].title] = per_metric.get(graders[0].title, 0) + 1
    assert set(per_metric) == {"knowledge", "truthfulness", "arithmetic", "instructions", "refusal", "plain_answer"}
    assert min(per_metric.values()) >= 12 and sum(per_metric.values()) == len(items.questions) >= 144
    assert len({question.id for question in items.questions}) == len(items.questions)
    prompts = [question.messages[-1]["content"] for question in items.questions]
    assert len(set(prompts)) == len(prompts)
