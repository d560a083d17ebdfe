"""From files and overrides to a recipe: extends, --set, numbers and words, paths, resolved recipes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainer.errors import RecipeError
from trainer.recipe import Recipe, load_recipe
from trainer.recipe.load import RESOLVED_NAME
from trainer.recipe.model import LoraAdapter, QloraAdapter

START = """\
recipe_version: 1
name: x
model: {name_or_path: org/model}
data: {sources: [{path: rows.jsonl}]}
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, added: str = "", *sets: str) -> Recipe:
    return load_recipe(write(folder / "r.yaml", START + added), sets=list(sets))


# extends


def test_extends_merges_deeply_and_replaces_lists(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", START + "train: {max_steps: 5, weight_decay: 0.5}\neval: {arms: [base, tuned]}\n")
    child = write(tmp_path / "c.yaml", "extends: base.yaml\nname: y\ntrain: {max_steps: 7}\neval: {arms: [tuned]}\n")
    recipe = load_recipe(child)
    assert (recipe.name, recipe.train.max_steps, recipe.train.weight_decay) == ("y", 7, 0.5)
    assert recipe.eval.arms == ["tuned"]


def test_extends_goes_over_several_files(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", START + "seed: 1\n")
    write(tmp_path / "b/b.yaml", "extends: ../a.yaml\nseed: 2\n")
    assert load_recipe(write(tmp_path / "c.yaml", "extends: b/b.yaml\nname: z\n")).seed == 2


def test_an_empty_parent_adds_nothing(tmp_path: Path) -> None:
    write(tmp_path / "empty.yaml", "# nothing yet\n")
    assert load_recipe(write(tmp_path / "c.yaml", "extends: empty.yaml\n" + START)).name == "x"


def test_a_problem_of_a_parent_is_named_at_its_own_line(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", START + "train:\n  lr: 3\n  max_steps: x\n")
    child = write(tmp_path / "c.yaml", "extends: base.yaml\nseed: y\ntrain: {max_steps: 3}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(child)
    assert [(problem.file, problem.line, problem.key) for problem in caught.value.problems] == [
        (str(base), 6, "train.lr"),
        (str(child), 2, "seed"),
    ]


def test_a_replaced_list_keeps_no_line_of_the_parent(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", START.replace("rows.jsonl", "a.jsonl, format: x"))
    child = write(tmp_path / "c.yaml", "extends: base.yaml\ndata:\n  sources:\n    - {path: b.jsonl, format: y}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(child)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.key) == (str(child), 4, "data.sources.0.format")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.yaml", "no such file: none.yaml"),
        ("c.yaml", "c.yaml extends this file itself"),
        ("loop.yaml", "c.yaml extends this file itself"),
        ("list.yaml", "list.yaml does not hold keys and values"),
        ("3", "no such file: 3"),
        ("broken.yaml", "broken.yaml cannot be read"),
    ],
)
def test_a_parent_that_cannot_be_used_is_the_only_problem(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path / "loop.yaml", "extends: c.yaml\n")
    write(tmp_path / "list.yaml", "- 1\n")
    write(tmp_path / "broken.yaml", "a: [\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path / "c.yaml", f"extends: {name}\nname: y\n"))
    listed = [problem for problem in caught.value.problems if problem.key == "extends"]
    assert [problem.message for problem in listed] == [message]
    other_problems = [problem for problem in caught.value.problems if problem.key != "extends"]
    assert [Path(problem.file).name for problem in other_problems] == (["broken.yaml"] if name == "broken.yaml" else [])


# --set


def test_set_replaces_list_items_and_makes_missing_sections(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "",
        "data.sources.0.repeat=0.5",
        "data.sources.1.path=/b.jsonl",
        "train.learning_rate=3e-4",
        "eval.gates.0={metric: loss, max: 2.0}",
        "model.chat_template_kwargs.enable_thinking=false",
        "data.system_prompt.text=no",
    )
    assert [(source.path, source.repeat) for source in recipe.data.sources] == [
        (str(tmp_path / "rows.jsonl"), 0.5),
        ("/b.jsonl", 1.0),
    ]
    assert recipe.train.learning_rate == 3e-4
    assert recipe.eval.gates[0].max == 2.0
    assert recipe.model.chat_template_kwargs == {"enable_thinking": False}
    assert recipe.data.system_prompt is not None and recipe.data.system_prompt.text == "no"


def test_set_can_give_all_of_a_section_that_the_file_lacks(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "recipe_version: 1\nname: x\nmodel: {name_or_path: org/model}\n")
    assert load_recipe(path, sets=["data.sources.0.path=/a.jsonl"]).data.sources[0].path == "/a.jsonl"


def test_the_last_set_wins(tmp_path: Path) -> None:
    assert load(tmp_path, "", "seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    "text", ["seed", "=3", "train..lr=3", "name.x=3", "data.sources.x=3", "data.sources.-1.path=a"]
)
def test_a_set_that_names_no_place_is_a_problem(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "", text)
    (problem,) = caught.value.problems
    assert problem.file == f"--set {text}"


# Numbers and words


@pytest.mark.parametrize(
    ("text", "value"), [("3e-4", 3e-4), ("1e-05", 1e-5), ("0.0002", 2e-4), ("1", 1.0), ("5E-6", 5e-6)]
)
def test_a_learning_rate_is_a_number_however_it_is_written(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, f"train: {{learning_rate: {text}}}").train.learning_rate == value


@pytest.mark.parametrize("text", ["no", "on", "yes", "2026-11-24", "12:30", "null_", "'5'"])
def test_a_word_stays_a_word(tmp_path: Path, text: str) -> None:
    word = text.strip("'")
    assert load(tmp_path, f"track: {{project: {text}}}").track.project == word
    assert load(tmp_path, "", f"track.project={text}").track.project == word


# Paths


def test_relative_paths_stand_against_the_file_that_states_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(tmp_path / "cwd/x", "").parent)
    write(tmp_path / "shared/base.yaml", START + "launch: {accelerate_config: acc.yaml}\n")
    child = (
        "extends: ../shared/base.yaml\nmodel: {chat_template: t.jinja}\nadapter: {kind: lora, init_from: ../runs/a}\n"
    )
    recipe = load_recipe(write(tmp_path / "mine/c.yaml", child), sets=["data.split.heldout_path=h.jsonl"])
    assert recipe.data.sources[0].path == str(tmp_path / "shared/rows.jsonl")
    assert recipe.launch.accelerate_config == str(tmp_path / "shared/acc.yaml")
    assert recipe.model.chat_template == str(tmp_path / "mine/t.jinja")
    assert isinstance(recipe.adapter, LoraAdapter) and recipe.adapter.init_from == str(tmp_path / "runs/a")
    assert recipe.data.split.heldout_path == str(tmp_path / "cwd/h.jsonl")


def test_paths_are_absolute_even_if_the_recipe_is_named_relatively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "r.yaml", START)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("r.yaml").data.sources[0].path == str(tmp_path / "rows.jsonl")


def test_a_hub_id_and_a_package_are_no_paths(tmp_path: Path) -> None:
    assert load(tmp_path).model.name_or_path == "org/model"
    assert load(tmp_path, "", "model.name_or_path=package:llm").model.name_or_path == "package:llm"


@pytest.mark.parametrize("name", ["./none", "file.gguf", "/abs", "there"])
def test_a_local_model_is_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    path = write(tmp_path / "r.yaml", START.replace("org/model", name))
    assert load_recipe(path).model.name_or_path == str((tmp_path / name).absolute())


def test_variables_expand_in_paths_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS", str(tmp_path / "far"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    recipe = load(
        tmp_path,
        "track: {project: '${ROWS}'}\n",
        "data.sources.0.path=${ROWS}/a.jsonl",
        "data.split.heldout_path=~/h.jsonl",
        "data.system_prompt.text=${ROWS}",
    )
    assert recipe.data.sources[0].path == str(tmp_path / "far/a.jsonl")
    assert recipe.data.split.heldout_path == str(tmp_path / "home/h.jsonl")
    assert recipe.track.project == "${ROWS}"
    assert recipe.data.system_prompt is not None and recipe.data.system_prompt.text == "${ROWS}"


def test_a_parent_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "base/b.yaml", START)
    monkeypatch.setenv("BASE", str(tmp_path / "base"))
    assert load_recipe(write(tmp_path / "c.yaml", "extends: ${BASE}/b.yaml\nname: y\n")).name == "y"


# auto, resolved recipes, schema


def test_solve_fills_what_the_recipe_alone_decides(tmp_path: Path) -> None:
    recipe = load(tmp_path, "adapter: {kind: lora, r: 8}\n")
    assert isinstance(recipe.adapter, LoraAdapter)
    assert (recipe.adapter.alpha, recipe.train.learning_rate, recipe.train.num_train_epochs) == (16.0, 2e-4, 3.0)
    assert (recipe.export.formats, recipe.track.run_name) == (["adapter"], "x")
    full = load(tmp_path, "adapter: {kind: none}\ntrain: {max_steps: 5}\n")
    assert (full.train.learning_rate, full.train.num_train_epochs, full.export.formats) == (1e-5, None, ["merged"])
    assert load(tmp_path, "method: {kind: dpo}\n").train.learning_rate == pytest.approx(1e-5)
    loaded = load(tmp_path, "adapter: {kind: lora, alpha: 3}\ntrain: {learning_rate: 1}\ntrack: {run_name: n}\n")
    assert isinstance(loaded.adapter, LoraAdapter)
    assert (loaded.adapter.alpha, loaded.train.learning_rate, loaded.track.run_name) == (3.0, 1.0, "n")


def test_a_recipe_cannot_be_changed(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.max_steps = 1


ADAPTERS = ["{kind: none}", "{kind: lora, r: 4}", "{kind: qlora, use_dora: true}", "{kind: lora, init_from: ../runs/a}"]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_run_folder_is_a_recipe_and_gives_the_same_one(
    tmp_path: Path, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(tmp_path / "recipes", f"adapter: {adapter}\ntrain: {{learning_rate: 3e-4}}\nmethod: {{kind: dpo}}\n")
    run = tmp_path / "runs/x"
    write(run / RESOLVED_NAME, json.dumps(recipe.model_dump(mode="json")))
    (tmp_path / "org/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)  # where the hub id happens to be a folder
    assert load_recipe(run) == recipe
    assert load_recipe(run, sets=["seed=7"]) == recipe.model_copy(update={"seed": 7})


def test_a_damaged_resolved_recipe_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / RESOLVED_NAME, '{"name":')
    with pytest.raises(RecipeError, match="damaged"):
        load_recipe(tmp_path)


def test_an_unknown_key_of_a_resolved_recipe_is_named_with_its_file(tmp_path: Path) -> None:
    values = load(tmp_path).model_dump(mode="json") | {"nonsense": 1}
    path = write(tmp_path / "run" / RESOLVED_NAME, json.dumps(values))
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "run")
    assert str(caught.value.problems[0]).startswith(f"{path}: nonsense: unknown key")


def test_a_started_adapter_takes_what_a_fresh_one_says(tmp_path: Path) -> None:
    recipe = load(tmp_path, "adapter: {kind: qlora, init_from: a, bnb_4bit_quant_type: fp4}\n")
    assert isinstance(recipe.adapter, QloraAdapter)
    assert (recipe.adapter.init_from, recipe.adapter.alpha) == (str(tmp_path / "a"), "auto")


def every_field(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    parts = {"Recipe": schema, **schema["$defs"]}
    return {f"{part}.{name}": field for part, content in parts.items() for name, field in content["properties"].items()}


def test_every_field_has_a_description_in_the_schema_for_editors() -> None:
    schema = json.loads(json.dumps(Recipe.model_json_schema()))
    fields = every_field(schema)
    assert len(fields) > 80
    for field in fields.values():  # pydantic leaves out a description that repeats that of the section
        field.setdefault(
            "description", schema["$defs"].get(field.get("$ref", "").rpartition("/")[2], {}).get("description")
        )
    assert [name for name, field in fields.items() if not field["description"]] == []
    assert schema["required"] == ["recipe_version", "name", "model", "data"]
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


def test_only_four_things_are_required(tmp_path: Path) -> None:
    assert load(tmp_path).pack.max_length == 2048


def test_torch_is_not_needed_for_a_recipe() -> None:
    import subprocess
    import sys

    code = "import sys, trainer.recipe, trainer.tokens.chat, trainer.tokens.pack; print('torch' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert process.stdout.strip() == "False"
