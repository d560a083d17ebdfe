"""What is wrong with a recipe: every problem, at its line, in words that help."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.errors import RecipeError
from trainer.recipe import load_recipe
from trainer.recipe.explain import _keys_by_name
from trainer.recipe.spellings import FOREIGN
from trainer.recipe.yaml import MAX_BYTES, MAX_DEPTH, MAX_PARTS

START = """\
recipe_version: 1
name: x
model: {name_or_path: org/model}
data: {sources: [{path: rows.jsonl}]}
"""


def problems(folder: Path, text: str, *, sets: list[str] | None = None) -> list[str]:
    """Return the lines of the error, the folder left out; none when the recipe is right."""
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        load_recipe(path, sets=sets)
    except RecipeError as error:
        assert error.exit_code == 2 and error.hint
        return [str(problem).replace(f"{folder}{os.sep}", "") for problem in error.problems]
    return []


ONE_PROBLEM = {
    "number beyond 64 bits": (
        "train: {max_steps: 99999999999999999999999}",
        "5: train.max_steps: 99999999999999999999999 is beyond 64 bits, from -2^63 to 2^63 - 1",
    ),
    "number beyond 64 bits where any value may stand": (
        "train: {lr_scheduler_kwargs: {power: -9223372036854775809}}",
        "5: train.lr_scheduler_kwargs.power: -9223372036854775809 is beyond 64 bits, from -2^63 to 2^63 - 1",
    ),
    "unknown key": ("pack: {max_lenght: 8}", "5: pack.max_lenght: unknown key; did you mean `max_length`?"),
    "key of another section": (
        "train: {dropout: 0.1}",
        "5: train.dropout: unknown key; did you mean `adapter.dropout`?",
    ),
    "Axolotl": (
        "adapter: {kind: lora, lora_r: 8}",
        "5: adapter.lora_r: unknown key; that is called `adapter.r` here",
    ),
    "LLaMA-Factory": ("cutoff_len: 512", "5: cutoff_len: unknown key; that is called `pack.max_length` here"),
    "TRL": (
        "train: {per_device_train_batch_size: 2}",
        "5: train.per_device_train_batch_size: unknown key; that is called `train.micro_batch_size` here",
    ),
    "ms-swift": ("tuner_type: lora", "5: tuner_type: unknown key; that is called `adapter.kind` here"),
    "foreign name beats a near one": (
        "train: {batch_size: 8}",
        "5: train.batch_size: unknown key; that is called `train.global_batch_size` here",
    ),
    "nothing near": (
        "data: {sources: [{path: a}], dedupe: {qqqq: 1}}",
        "5: data.dedupe.qqqq: unknown key; known here: exact, group_threshold, near, semantic, threshold",
    ),
    "unknown type of personal data": (
        "data: {sources: [{path: a}], pii: {types: {emial: redact}}}",
        "5: data.pii.types.emial: unknown key; did you mean `email`?",
    ),
    "country by another name": (
        "data: {sources: [{path: a}], pii: {phone_regions: [UK]}}",
        "5: data.pii.phone_regions: 'UK' is no country of two capital letters, such as US; did you mean GB?",
    ),
    "country in small letters": (
        "data: {sources: [{path: a}], pii: {phone_regions: [DE, fr]}}",
        "5: data.pii.phone_regions: 'fr' is no country of two capital letters, such as US; did you mean FR?",
    ),
    "no country": (
        "data: {sources: [{path: a}], pii: {phone_regions: [XX]}}",
        "5: data.pii.phone_regions: 'XX' is no country of two capital letters, such as US",
    ),
    "wrong type": ("seed: '42'", "5: seed: input should be a valid integer (got '42')"),
    "a number is no text": ("track: {project: 7}", "5: track.project: input should be a valid string (got 7)"),
    "no is a text": (
        "pack: {packing: no}",
        "5: pack.packing: input should be a valid boolean or input should be 'auto' (got 'no')",
    ),
    "one line for a union": (
        "train:\n  learning_rate: abc",
        "6: train.learning_rate: input should be a valid number or input should be 'auto' (got 'abc')",
    ),
    "a section in place of a number": (
        "train: {micro_batch_size: {a: 1}}",
        "5: train.micro_batch_size: input should be a valid integer or input should be 'auto' (got {'a': 1})",
    ),
    "a fault inside one member of a union": (
        "adapter:\n  kind: lora\n  target_modules:\n    - q_proj\n    - 3",
        "9: adapter.target_modules.1: input should be a valid string (got 3)",
    ),
    "a wrong word in a list": (
        "export: {formats: [merged, onnx]}",
        "5: export.formats.1: input should be 'adapter', 'merged', 'gguf', 'bnb4', 'fp8', 'awq' or 'gptq' (got 'onnx')",
    ),
    "wrong union tag": ("adapter:\n  kind: dora", "6: adapter.kind: 'dora' is none of 'none', 'lora', 'qlora'"),
    "missing union tag": ("adapter: {r: 8}", "5: adapter.kind: required; one of 'none', 'lora', 'qlora'"),
    "a word in place of a section": ("adapter: lora", "5: adapter: expected keys and values (got 'lora')"),
    "a list in place of a section": ("train: [1]", "5: train: expected keys and values (got [1])"),
    "alias": ("seed: &s 1", "5: seed: anchors and aliases are not allowed; use `extends`"),
    "tag": ("track: !Thing {a: 1}", "5: track: tag !Thing is not allowed"),
    "too deep": (
        f"train: {{lr_scheduler_kwargs: {{a: {'[' * 40}{']' * 40}}}}}",
        f"5: train.lr_scheduler_kwargs.a{'.0' * (MAX_DEPTH - 2)}: nested deeper than {MAX_DEPTH}",
    ),
    "zero micro batch": (
        "train: {micro_batch_size: 0}",
        "5: train.micro_batch_size: input should be greater than 0 or input should be 'auto' (got 0)",
    ),
    "not a number": (
        "train: {learning_rate: .nan}",
        "5: train.learning_rate: input should be a finite number or input should be 'auto' (got nan)",
    ),
    "infinite": ("train: {weight_decay: .inf}", "5: train.weight_decay: input should be a finite number (got inf)"),
    "rule of one section": (
        "train: {micro_batch_size: 3}",
        "5: train: micro_batch_size 3 does not divide global_batch_size 16",
    ),
    "epochs and steps": (
        "train: {max_steps: 3, num_train_epochs: 1}",
        "5: train: give one of `num_train_epochs` and `max_steps`",
    ),
    "rule across sections": (
        "method: {kind: dpo}\npack:\n  packing: true",
        "7: pack.packing: preference pairs are not packed; use auto or false",
    ),
    "no adapter to export": (
        "adapter: {kind: none}\nexport: {formats: [adapter]}",
        "6: export.formats: there is no adapter to export with adapter.kind none; use [merged]",
    ),
    "early stopping without validation rows": (
        "train: {early_stopping_patience: 2}",
        "4: data.split.validation: load_best_model_at_end and early_stopping_patience need such rows",
    ),
    "accuracy without pairs": (
        "eval: {metrics: [preference_accuracy]}",
        "5: eval.metrics: preference_accuracy needs preference rows, and method.kind is sft",
    ),
    "a weight for each loss": (
        "method: {kind: dpo, loss_type: [sigmoid, sft], loss_weights: [1.0]}",
        "5: method: 1 loss_weights for 2 losses in loss_type",
    ),
    "gate against itself": (
        "eval: {gates: [{metric: exact_match, vs: tuned, min_gain: 0.1}]}",
        "5: eval.gates.0: `vs` is the arm that is judged, tuned: it is never better than itself",
    ),
    "gate that no value keeps": (
        "eval: {gates: [{metric: loss, min: 2, max: 1}]}",
        "5: eval: gates on loss of tuned ask for at least 2 and at most 1",
    ),
    "gates that no value keeps": (
        "eval: {gates: [{metric: exact_match, min: 0.9}, {metric: exact_match, max: 0.1}]}",
        "5: eval: gates on exact_match of tuned ask for at least 0.9 and at most 0.1",
    ),
    "metric misspelt": (
        "eval: {metrics: [exact_mach]}",
        "5: eval.metrics.0: 'exact_mach' is unknown; did you mean `exact_match`?",
    ),
    "bad key of a metric": (
        'eval: {metrics: [exact_match, {kind: regex, pattern: "("}]}',
        "5: eval.metrics.1.pattern: not a regular expression: missing ), unterminated subpattern at position 0",
    ),
    "bad word in a metric": (
        "eval: {metrics: [{kind: json_fields, fields: {a: exakt}}]}",
        "5: eval.metrics.0.fields.a: 'exakt' is unknown; did you mean `exact`?",
    ),
    "gate without a limit": (
        "eval: {gates: [{metric: loss}]}",
        "5: eval.gates.0: give at least one of `min`, `max`, `min_gain` and `max_drop`",
    ),
    "r beside init_from": (
        "adapter: {kind: lora, init_from: runs/a, r: 8, alpha: 16, target_modules: [q_proj]}",
        "5: adapter: r, alpha, target_modules: comes from the adapter in init_from; remove it here",
    ),
    "r beside init_from, in 4 bits": (
        "adapter: {kind: qlora, init_from: runs/a, r: 8}",
        "5: adapter: r: comes from the adapter in init_from; remove it here",
    ),
    "no room for training rows": (
        "data: {sources: [{path: a}], split: {validation: 0.5, heldout: 0.5}}",
        "5: data.split: validation 0.5 + heldout 0.5 leave no training rows",
    ),
    "both texts": (
        "data: {sources: [{path: a}], system_prompt: {text: a, path: b}}",
        "5: data.system_prompt: give exactly one of `text` and `path`",
    ),
}


@pytest.mark.parametrize("case", ONE_PROBLEM)
def test_a_problem_is_one_line_at_its_place(tmp_path: Path, case: str) -> None:
    added, expected = ONE_PROBLEM[case]
    start = START if not added.startswith("data:") else START.replace("data:", "#data:")
    assert problems(tmp_path, start + added + "\n") == [f"r.yaml:{expected}"]


def test_required_keys_are_all_named(tmp_path: Path) -> None:
    assert problems(tmp_path, "# a comment\n\nseed: 1\ndata: {}\n") == [
        "r.yaml:3: recipe_version: required",
        "r.yaml:3: name: required",
        "r.yaml:3: model: required",
        "r.yaml:4: data.sources: required",
    ]


def test_a_duplicate_key_names_both_lines(tmp_path: Path) -> None:
    text = START + "train:\n  max_steps: 1\n  max_steps: 2\n"
    assert problems(tmp_path, text) == ["r.yaml:7: train.max_steps: duplicate key, first given on line 6"]


def test_an_alias_is_named_where_it_stands(tmp_path: Path) -> None:
    text = START + "track: {project: &p a}\nexport:\n  dtype: *p\n"
    assert [line.partition(": anchors")[0] for line in problems(tmp_path, text)] == [
        "r.yaml:5: track.project",
        "r.yaml:7: export.dtype",
    ]


def test_all_problems_come_at_once_in_the_order_of_the_file_then_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    text = START.replace("rows.jsonl", "'${NOT_SET_ANYWHERE}/rows.jsonl'") + "train: {lr: 1}\nseed: x\nseed: 2\n"
    messages = problems(tmp_path, text, sets=["pack.max_length=2", "nonsense", "data.sources.5.path=x", "name={"])
    assert messages == [
        "r.yaml:4: data.sources.0.path: ${NOT_SET_ANYWHERE} is not set",
        "r.yaml:5: train.lr: unknown key; that is called `train.learning_rate` here",
        "r.yaml:6: seed: input should be a valid integer (got 'x')",
        "r.yaml:7: seed: duplicate key, first given on line 6",
        "--set data.sources.5.path=x: data.sources.5.path: there is no such place in the recipe",
        "--set name={: name: expected the node content, but found '<stream end>'",
        "--set nonsense: nonsense: expected key.path=value",
        "--set pack.max_length=2: pack.max_length: input should be greater than or equal to 8 (got 2)",
    ]


WHOLE_FILE = {
    "empty": (b"", "r.yaml: recipe: expected keys and values"),
    "a list": (b"- 1\n", "r.yaml: recipe: expected keys and values"),
    "not UTF-8": (b"name: a\nseed: \xff\n", "r.yaml:2: recipe: not UTF-8 text"),
    "too large": (b"#" * (MAX_BYTES + 1), f"r.yaml: recipe: more than {MAX_BYTES} bytes"),
    "far too deep": (b"[" * 10_000, f"r.yaml: yaml: nested deeper than {MAX_DEPTH}"),
    "far too many brackets": (b"[" * 100_000, f"r.yaml: yaml: more than {MAX_PARTS} lines, keys"),
    "far too many keys": (b"".join(b"key%d: 1\n" % n for n in range(60_000)), f"r.yaml: yaml: more than {MAX_PARTS}"),
    "no YAML": (b"a: 1\nb: [\n", "r.yaml:3: yaml: "),
    "two documents": (b"a: 1\n---\nb: 2\n", "r.yaml:2: yaml: but found another document"),
    "NUL": (b"a: \x00", "r.yaml: yaml: unacceptable character"),
    "an anchored root": (b"&a {name: x}", "r.yaml:1: recipe: anchors and aliases are not allowed"),
}


@pytest.mark.parametrize("case", WHOLE_FILE)
def test_a_file_that_is_no_recipe_is_one_problem(tmp_path: Path, case: str) -> None:
    content, expected = WHOLE_FILE[case]
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (problem,) = caught.value.problems
    assert str(problem).replace(f"{tmp_path}{os.sep}", "").startswith(expected)


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: recipe: no such file"):
        load_recipe(tmp_path / "none.yaml")


def test_a_folder_that_is_no_run_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no run folder"):
        load_recipe(tmp_path)


def test_what_other_tools_call_a_key_leads_to_a_key_that_exists() -> None:
    import re

    from trainer.recipe.schema import Recipe

    keys = set(_keys_by_name().values()) | set(Recipe.model_fields)
    keys |= {"adapter.kind", "method.kind", "data.system_prompt.text"}
    listed = {re.split(r"[: ]", target)[0] for target in FOREIGN.values()}
    # two sections share a name: `_keys_by_name` holds the first
    twice = {"train.micro_batch_size", "data.sources.format", "export.formats", "train.max_steps"}
    assert listed - keys <= twice, listed - keys - twice


def test_our_own_keys_are_never_called_foreign(tmp_path: Path) -> None:
    assert problems(tmp_path, START + "max_length: 3\n") == [
        "r.yaml:5: max_length: unknown key; did you mean `pack.max_length`?"
    ]


REFUSED = {
    "adapter: {kind: lora, dropout: 0.1}\ntrain: {torch_compile: true}\n": "adapter.dropout is 0.1",
    "train: {torch_compile: true}\nlaunch: {strategy: fsdp2}\n": "not with launch.strategy fsdp2",
}


@pytest.mark.parametrize("text", REFUSED)
def test_layers_are_compiled_only_where_that_can_be_right(tmp_path: Path, text: str) -> None:
    (problem,) = problems(tmp_path, START + text)
    assert "train.torch_compile: " in problem and REFUSED[text] in problem


def test_devices_and_pipes_are_no_recipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(RecipeError, match="is a device or a pipe"):
            load_recipe(str(path))


def test_of_many_problems_some_are_listed_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("".join(f"key{number}: 1\n" for number in range(3000)))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert len(caught.value.problems) >= 3000
    assert len(caught.value.message.splitlines()) == 51 and caught.value.message.endswith(" more")
