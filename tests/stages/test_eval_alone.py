"""`trainer eval` without a recipe: a model folder, an adapter or an address against suites, and two runs."""

from __future__ import annotations

import json
import shutil
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Result, call
from tests.loopback import completion, send, serving
from tests.trained import Trained
from trainer.scoring.generation import endpoint as module

SUITE = {
    "suite_version": 1,
    "name": "small",
    "max_new_tokens": 6,
    "items": [
        {"id": "capital", "prompt": "Capital of France?", "graders": [{"kind": "contains", "values": ["Paris"]}]},
        {
            "id": "sum",
            "prompt": "What is 2 + 2?",
            "reference": "4",
            "fields": {"choices": ["3", "4", "5"]},
            "graders": [{"kind": "multiple_choice"}],
        },
        {"id": "short", "prompt": "Say it.", "graders": [{"kind": "length", "unit": "characters", "max": 9999}]},
    ],
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(SUITE))
    return str(path)


def evaluated(result: Result, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores of the suite and its answers by item."""
    assert result.code == 0, result.text
    scores = json.loads((out / "scores.json").read_text())["suites"]["small"]
    lines = [json.loads(line) for line in (out / "suites.jsonl").read_bytes().splitlines()]
    return scores, {line["id"]: line["answers"]["model"] for line in lines}


def test_a_model_folder_and_an_adapter_answer_a_suite(trained: Trained, suite: str, tmp_path: Path) -> None:
    base = call("eval", str(trained.model), "--suite", suite, "--out", str(tmp_path / "base"))
    scores, answers = evaluated(base, tmp_path / "base")
    assert set(answers) == {"small/capital", "small/sum", "small/short"} and scores["n"] == 3
    assert scores["arms"]["model"]["contains"]["n"] == scores["arms"]["model"]["multiple_choice"]["n"] == 1
    assert "small" in base.out and "contains" in base.out
    adapter = trained.project.run / "train/adapter"
    tuned = call("eval", str(adapter), "--base", str(trained.model), "--suite", suite, "--out", str(tmp_path / "tuned"))
    _, tuned_answers = evaluated(tuned, tmp_path / "tuned")
    assert set(tuned_answers) == set(answers)


def test_a_wrong_must_pass_item_ends_with_6_and_its_name(trained: Trained, tmp_path: Path) -> None:
    ask = [{"role": "user", "content": "a?"}]
    any_text, never = {"kind": "regex", "pattern": ""}, {"kind": "contains", "values": ["nobody says this"]}
    items = [{"id": name, "messages": ask, "graders": [grader]} for name, grader in (("any", any_text), ("no", never))]
    for chosen_items, code in ((items[:1], 0), (items, 6)):
        path = tmp_path / "cases.yaml"
        suite = {"suite_version": 1, "name": "cases", "must_pass": True, "max_new_tokens": 4, "items": chosen_items}
        path.write_text(json.dumps(suite))
        result = call("eval", str(trained.model), "--suite", str(path))
        assert (result.code, "1 must-pass items are wrong: cases/no" in result.err) == (code, code == 6)


def test_the_same_suite_says_the_same_of_a_folder_and_of_an_adapter_that_changes_nothing(
    trained: Trained, suite: str, tmp_path: Path
) -> None:
    """LoRA's B is 0 where nothing was learnt."""
    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    shutil.copytree(trained.project.run / "train/adapter", adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({k: v * 0 if "lora_B" in k else v for k, v in weights.items()}, adapter / "adapter_model.safetensors")
    results = []
    for index, options in ((trained.model, []), (adapter, ["--base", str(trained.model)])):
        out = tmp_path / f"out{len(results)}"
        results.append(evaluated(call("eval", str(index), *options, "--suite", suite, "--out", str(out)), out))
    assert results[0] == results[1]


def test_an_address_answers_a_suite_choices_by_their_letter(suite: str, tmp_path: Path) -> None:
    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        prompt = body["messages"][-1]["content"]
        send(handler, 200, completion("B." if "A. 3\nB. 4\nC. 5" in prompt else "Paris, of course."))

    with serving(reply) as (url, requests):
        result = call("eval", url, "--model", "big", "--suite", suite, "--out", str(tmp_path / "out"))
        scores, answers = evaluated(result, tmp_path / "out")
        assert len(requests) == 3 and {request["model"] for request in requests} == {"big"}
        assert call("eval", url, "--model", "big", "--suite", suite).code == 0 and len(requests) == 6  # nothing is kept
    assert scores["arms"]["model"]["multiple_choice"]["value"] == scores["arms"]["model"]["contains"]["value"] == 1.0
    assert answers["small/capital"]["text"] == "Paris, of course."


def test_an_address_that_dies_goes_on_where_it_stopped(suite: str) -> None:
    alive = [True]

    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        send(handler, 404, b"no such model") if alive[0] and "Say" in str(body) else send(handler, 200, completion("4"))

    with serving(reply) as (url, bodies):
        result = call("eval", url, "--suite", suite)
        assert result.code == 5 and "404" in result.err and "fix:" in result.err
        requests = {str(request["messages"]) for request in bodies if "Say" not in str(request["messages"])}
        alive[0] = False
        bodies.clear()
        assert call("eval", url, "--suite", suite).code == 0
    assert not requests & {str(request["messages"]) for request in bodies}


@pytest.mark.parametrize(
    ("where", "code", "message"),
    [("nowhere/model", 5, "nowhere/model"), ("http://127.0.0.1:9/v1", 5, "127.0.0.1:9"), ("{empty}", 5, "{empty}")],
)
def test_what_cannot_be_opened_is_named(suite: str, tmp_path: Path, where: str, code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    where, message = (text.format(empty=tmp_path / "empty") for text in (where, message))
    result = call("eval", where, "--suite", suite)
    assert result.code == code and message in result.err and "Traceback" not in result.err, result.text


def test_an_adapter_whose_base_is_gone_asks_for_it(trained: Trained, suite: str, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(trained.project.run / "train/adapter", adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone/model"}))
    result = call("eval", str(adapter), "--suite", suite)
    assert result.code == 5 and "/gone/model" in result.err and "Traceback" not in result.err, result.text
    (adapter / "adapter_config.json").write_text("{}")
    result = call("eval", str(adapter), "--suite", suite)
    assert result.code == 4 and "names no base model" in result.err and "--base" in result.err, result.text
    for options in ([], ["--base", str(trained.model)]):
        (adapter / "adapter_config.json").unlink(missing_ok=True)
        result = call("eval", str(adapter), *options, "--suite", suite)
        assert result.code == 4 and "is no whole adapter" in result.err, result.text


def test_suites_of_one_name_are_refused_before_a_model_is_loaded(suite: str, tmp_path: Path) -> None:
    (tmp_path / "copy.yaml").write_text(Path(suite).read_text())
    result = call("eval", "nowhere/model", "--suite", suite, "--suite", str(tmp_path / "copy.yaml"))
    assert result.code == 3 and "two suites are called 'small'" in result.err and "fix: " in result.err


# Two runs


def test_two_runs_are_compared_on_the_rows_that_both_have(trained: Trained, tmp_path: Path) -> None:
    second = Trained(trained.project.copied_to(tmp_path / "other"), trained.model)
    missing = call("eval", str(trained.project.run), "--against", str(second.project.run))
    assert missing.code == 4 and "is not evaluated" in missing.err and "trainer eval" in missing.err
    metrics = ["exact_match", "token_f1"]
    trained.evaluate(metrics=metrics)
    second.evaluate(metrics=[*metrics, "chrf"], max_rows=5)
    path = second.project.run / "eval/predictions.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    for line in lines:
        line["answers"]["tuned"]["grades"] = {"exact_match": 1.0, "token_f1": 1.0, "chrf": 1.0}
    tiny.write_rows(path, lines)
    result = call("eval", str(trained.project.run), "--against", str(second.project.run))
    assert result.code == 0, result.text
    output = dict(line.split(": ", 1) for line in result.out.strip().splitlines())
    assert (
        set(output) == set(metrics)
        and str(second.project.run) in output["exact_match"]
        and "5" in output["exact_match"]
    )


def test_runs_that_share_no_row_are_not_compared(trained: Trained, tmp_path: Path) -> None:
    trained.evaluate()
    shutil.copytree(trained.project.run, tmp_path / "strange")
    path = tmp_path / "strange/eval/predictions.jsonl"
    lines = [json.loads(line) | {"reference": "other"} for line in path.read_bytes().splitlines()]
    tiny.write_rows(path, lines)
    result = call("eval", str(trained.project.run), "--against", str(tmp_path / "strange"))
    assert result.code == 4 and "share no held-out row" in result.err and "data.split.seed" in result.err
