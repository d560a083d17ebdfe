"""Answers of the eval stage: kept as they come, never stale, and nothing shown of what is asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import tiny
from tests.loopback import Reply, completion, echo, send, serving
from tests.trained import Trained
from trainer.recipe import load_recipe
from trainer.recipe.arms import Arm
from trainer.scoring.generation import endpoint as module
from trainer.scoring.generation.local import LocalModel
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.stages import eval as stage
from trainer.tokens.reasoning import THINKING, AnswerForm

Fresh = Callable[..., Trained]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)


def endpoint(url: str, name: str = "big", **more: Any) -> dict[str, Any]:
    section = {"base_url": url, "name": "big", "timeout_s": 5.0, "max_retries": 1, **more}
    return {"name": name, "model": section}


# What was answered is kept


def test_only_what_was_not_answered_is_asked_again(trained: Trained, generated: list[int]) -> None:
    trained.evaluate(metrics=["exact_match"])
    rows = len(trained.lines())
    assert generated == [rows, rows]
    texts = trained.texts("tuned")
    generated.clear()
    trained.evaluate(metrics=["token_f1", "exact_match"], gates=[{"metric": "loss", "max": 50.0}])
    assert generated == [] and trained.texts("tuned") == texts
    trained.evaluate(metrics=["exact_match"], slices=["colour"], concurrency=2, batch_size=1)
    assert generated == []
    trained.evaluate(metrics=["exact_match"], max_rows=2)
    assert generated == []


def test_an_interruption_loses_no_answer(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, generated: list[int]
) -> None:
    real, keys = LocalModel.answers, []

    def interrupted(self: LocalModel, prompts: Any, *, on_answer: Any) -> Any:
        def keep(index: int, answer: Any) -> None:
            on_answer(index, answer)
            keys.append(index)
            if len(keys) == 3:
                raise KeyboardInterrupt

        return real(self, prompts, on_answer=keep)

    with monkeypatch.context() as patch:
        patch.setattr(LocalModel, "answers", interrupted)
        trained.write({})
        try:
            result: Any = trained.project.call("eval")
        except KeyboardInterrupt:
            result = None
    assert (result is None or result.code) and not (trained.project.run / "eval").exists()
    generated.clear()
    rows = trained.evaluate()["heldout_rows"]
    assert generated == [rows - 3, rows]


@pytest.mark.parametrize(
    "section",
    [
        {"max_new_tokens": 9},
        {"sampling": {"temperature": 0.7, "top_p": 0.9, "seed": 3}},
        {
            "arms": [
                {"name": "base", "prompt": {"text": "Be brief."}},
                {"name": "tuned", "model": "tuned", "prompt": {"text": "Be brief."}},
            ]
        },
    ],
    ids=lambda section: next(iter(section)),
)
def test_what_changes_answers_asks_them_again(trained: Trained, generated: list[int], section: dict[str, Any]) -> None:
    trained.evaluate()
    rows = len(trained.lines())
    generated.clear()
    trained.evaluate(**section)
    assert generated == [rows, rows]
    generated.clear()
    trained.evaluate()  # the first answers are still there
    assert generated == []


def test_new_weights_answer_anew_and_the_base_does_not(trained: Trained, generated: list[int]) -> None:
    trained.evaluate()
    rows = len(trained.lines())
    generated.clear()
    trained.changes["train"] = {"max_steps": 3}
    trained.write({})
    trained.train_anew()
    trained.evaluate()
    assert generated == [rows]


def test_another_template_asks_everything_again(trained: Trained, generated: list[int], tmp_path: Path) -> None:
    trained.evaluate()
    rows = len(trained.lines())
    template = tiny.TEMPLATE_PATH.read_text()
    (tmp_path / "other.jinja").write_text(template.replace("<|im_end|>", "<|im_end|>\n", 1))
    generated.clear()
    second = Trained(trained.project, {"name_or_path": str(trained.model), "chat_template": "other.jinja"})
    second.write({})
    second.train_anew()
    second.evaluate()
    assert generated == [rows, rows]


def identity(
    arm: Arm, *, inputs: dict[str, str] | None = None, sampling: NucleusSampling | None = None, **changes: Any
) -> str:
    """Return what answers of an arm are kept under, with the stage's surroundings made up."""
    folder, form = changes.pop("folder"), changes.pop("form", THINKING)
    recipe = load_recipe(tiny.write_recipe(folder, **{"model": {"name_or_path": "none"}, **changes}))
    record = SimpleNamespace(
        inputs={
            "model/model.safetensors": "w",
            "adapter.init_from": "s",
            "train/adapter/adapter_model.safetensors": "a",
        }
        | (inputs or {})
    )
    work = SimpleNamespace(
        recipe=recipe,
        context=SimpleNamespace(record=record),
        renderer=SimpleNamespace(form=form),
        stop_ids=[4],
        sampling=sampling,
    )
    return stage.EvalRun._answer_key(work, arm, 8)  # type: ignore[arg-type]


def test_the_identity_of_answers_holds_all_that_they_depend_on(tmp_path: Path) -> None:
    arms = {name: Arm(name=name, model=name) for name in ("base", "start", "tuned")}  # type: ignore[arg-type]

    def of(name: str, **changes: Any) -> str:
        return identity(arms[name], folder=tmp_path, **changes)

    same = {name: of(name) for name in arms}
    assert len(set(same.values())) == 3 and same == {name: of(name, eval={"metrics": ["loss"]}) for name in arms}
    for name, changed in (
        ("base", {"inputs": {"model/model.safetensors": "x"}}),
        ("tuned", {"inputs": {"model/model.safetensors": "x"}}),
        ("tuned", {"inputs": {"train/adapter/adapter_model.safetensors": "x"}}),
        ("start", {"inputs": {"adapter.init_from": "x"}}),
        ("base", {"inputs": {"model.chat_template": "x"}}),
        ("base", {"sampling": NucleusSampling(1.0, 1.0, 0)}),
        ("base", {"model": {"name_or_path": "none", "dtype": "float32"}}),
        ("tuned", {"adapter": {"kind": "qlora"}}),
        ("tuned", {"form": AnswerForm(closing="</thought>")}),
    ):
        assert of(name, **changed) != same[name], changed  # type: ignore[arg-type]
    assert of("base", inputs={"train/adapter/adapter_model.safetensors": "x"}) == same["base"]
    second = [Arm(name="big", model={"base_url": url, "name": "m"}) for url in ("http://a/v1", "http://b/v1")]  # type: ignore[arg-type]
    assert len({identity(arm, folder=tmp_path) for arm in second}) == 2


# Endpoints that fail


def dead(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
    handler.connection.close()


def slow(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
    time.sleep(0.5)
    echo(handler, body, number)


def nonsense(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
    send(handler, 200, b"<html>welcome</html>")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (dead, "after 2 attempts"),
        (slow, "no answer within 0.1 s, after 2 attempts"),
        (nonsense, "answered no JSON: <html>"),
    ],
    ids=["dead", "slow", "nonsense"],
)
def test_an_endpoint_that_fails_is_a_clear_error_in_bounded_time(trained: Trained, reply: Reply, message: str) -> None:
    started = time.monotonic()
    with serving(reply) as (url, requests):
        result = trained.call(arms=["tuned", endpoint(url, timeout_s=0.1)], concurrency=2)
    assert result.code == 5 and message in result.err and "big" in result.err and url in result.err, result.text
    assert "fix: check that the server runs" in result.err and "Traceback" not in result.err
    assert time.monotonic() - started < 15 and len(requests) < 8
    assert not (trained.project.run / "eval").exists()


def test_an_endpoint_that_is_down_names_its_address(trained: Trained) -> None:
    result = trained.call(arms=[endpoint("http://127.0.0.1:9/v1")])
    assert result.code == 5 and "http://127.0.0.1:9/v1/chat/completions" in result.err and "2 attempts" in result.err


def test_what_an_endpoint_answered_before_it_died_is_not_asked_again(trained: Trained) -> None:
    alive = [True]

    def dies(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        if number > 3 and alive[0]:
            send(handler, 500, b"gone")
        else:
            send(handler, 200, completion(f"answer to {body['messages'][-1]['content']}"))

    with serving(dies) as (url, requests):
        section: dict[str, Any] = {"arms": [endpoint(url)], "concurrency": 1}
        assert trained.call(**section).code == 5
        before = [json.dumps(request["messages"]) for request in requests[:3]]
        alive[0] = False
        requests.clear()
        scores = trained.evaluate(**section)
        again = [json.dumps(request["messages"]) for request in requests]
    assert len(again) == scores["heldout_rows"] - 3 and not set(again) & set(before)
    for line in trained.lines():
        assert line["answers"]["big"]["text"] == f"answer to {line['messages'][-1]['content']}"


@pytest.mark.parametrize("text", ["", "\u2028 \u0000 \U0001f525 \ufffd", "x" * 20_000], ids=["empty", "odd", "long"])
def test_odd_answers_are_graded_and_written(trained: Trained, text: str) -> None:
    metrics = ["exact_match", "token_f1", "rouge_l", "chrf", "valid_json", "json_fields", "clean_stop"]
    with serving(lambda handler, body, number: send(handler, 200, completion(text))) as (url, _):
        scores = trained.evaluate(arms=[endpoint(url)], metrics=metrics)
    assert {scores["arms"]["big"][metric]["n"] for metric in metrics} == {scores["heldout_rows"]}
    assert set(trained.texts("big")) == {text} and scores["facts"]["big"]["valid"] == 0.0


# Leaks


def held_out(run: Trained) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.project.run / "data/heldout.jsonl").read_text().splitlines()]


def prompts_of(run: Trained, shots: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return what an arm with these shots sends for each question."""
    with serving(echo) as (url, requests):
        run.evaluate(arms=[endpoint(url) | {"shots": {"retriever": "bm25", **shots}}])
    return [request["messages"] for request in requests]


@pytest.mark.parametrize("earlier", [False, True], ids=["as it stands", "in an earlier turn"])
def test_a_held_out_row_in_a_file_of_examples_is_refused(trained: Trained, tmp_path: Path, earlier: bool) -> None:
    planted = held_out(trained)[2]["messages"]
    more = [{"role": "user", "content": "And in French?"}, {"role": "assistant", "content": "Non."}] if earlier else []
    good = {
        "messages": [{"role": "user", "content": "Something else entirely"}, {"role": "assistant", "content": "ok"}]
    }
    tiny.write_rows(tmp_path / "shots.jsonl", [good, {"messages": [*planted, *more]}])
    arm = {"name": "shown", "shots": {"fixed": 2, "path": "shots.jsonl"}}
    result = trained.call(arms=["base", "tuned", arm])
    assert result.code == 3 and "example 2 of" in result.err and "shots.jsonl" in result.err, result.text
    assert planted[0]["content"] in result.err and (not earlier or "And in French?" in result.err)
    assert not (trained.project.run / "eval").exists()


@pytest.mark.parametrize("earlier", [False, True], ids=["as they stand", "in an earlier turn"])
@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_held_out_rows_among_the_training_rows_are_never_shown(trained: Trained, earlier: bool, kind: str) -> None:
    path = trained.project.run / "data/train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    heldout_rows = held_out(trained)
    more = [{"role": "user", "content": "And in French?"}, {"role": "assistant", "content": "Non."}] if earlier else []
    tiny.write_rows(path, [*rows, *({**row, "messages": [*row["messages"], *more]} for row in heldout_rows)])
    trained.train_anew()
    sent = prompts_of(trained, {kind: 12})
    assert len(sent) == len(heldout_rows) and max(map(len, sent)) > 9
    for messages in sent:
        prompt = messages[-1]["content"]
        assert all(prompt != message["content"] for message in messages[:-1])


def test_the_prompt_may_not_hold_a_question(trained: Trained) -> None:
    prompt = held_out(trained)[0]["messages"][0]["content"]
    result = trained.call(arms=["tuned", {"name": "best", "prompt": {"text": f"Example: {prompt.upper()} -> {{}}"}}])
    assert result.code == 3 and prompt in result.err and "would be shown what it is tested on" in result.err


# Suites and graders that cannot be used


BAD_SUITES: dict[str, tuple[dict[str, Any], str, int, Sequence[str]]] = {
    "no items": ({}, "", 2, ["a suite needs `items` or `sources`"]),
    "empty file": ({"sources": [{"path": "items.jsonl"}]}, "\n", 3, ["has no items"]),
    "missing file": ({"sources": [{"path": "none.jsonl"}]}, "", 3, ["none.jsonl"]),
    "no field": (
        {"sources": [{"path": "items.jsonl"}], "graders": [{"kind": "one_of"}]},
        '{"id": "a", "prompt": "Hm?", "accepted": ["x"]}\n{"id": "b", "prompt": "Ha?"}\n',
        3,
        ["items.jsonl:2", "needs the field `accepted`", "add the field"],
    ),
    "no reference": (
        {"items": [{"id": "a", "prompt": "Hm?"}], "graders": [{"kind": "exact_match"}]},
        "",
        3,
        ["bad/a", "compares with a reference answer", "add `reference`"],
    ),
    "no schema": (
        {"items": [{"id": "a", "prompt": "Hm?"}], "graders": [{"kind": "json_schema", "schema": {"type": "objekt"}}]},
        "",
        2,
        ["bad.yaml", "schema", "objekt"],
    ),
    "same name twice": (
        {"items": [{"id": "a", "prompt": "Hm?"}], "graders": [{"kind": "contains", "values": [text]} for text in "xy"]},
        "",
        3,
        ["two graders called 'contains'", "give each its own `name`"],
    ),
    "not an item": (
        {"sources": [{"path": "items.jsonl"}], "graders": [{"kind": "valid_json"}]},
        '{"id": "a", "prompt": "Hm?"}\n[1, 2]\n',
        3,
        ["items.jsonl:2", "no item"],
    ),
}


@pytest.mark.parametrize("name", BAD_SUITES)
def test_a_bad_suite_says_where_and_what_before_anything_is_generated(
    trained: Trained, tmp_path: Path, name: str, generated: list[int]
) -> None:
    values, items, code, text = BAD_SUITES[name]
    (tmp_path / "bad.yaml").write_text(json.dumps({"suite_version": 1, "name": "bad", **values}))
    (tmp_path / "items.jsonl").write_text(items)
    result = trained.call(suites=["bad.yaml"])
    assert result.code == code, result.text
    for part in (*text, "fix: "):
        assert part in result.err
    assert generated == [] and "Traceback" not in result.err


def test_a_grader_of_the_rows_that_lacks_its_field_names_the_row(trained: Trained, generated: list[int]) -> None:
    result = trained.call(metrics=[{"kind": "exact_match", "key": "gold"}])
    assert result.code == 3 and "rows.jsonl:" in result.err and "needs the field `gold`" in result.err
    assert generated == []


def test_a_metric_that_applies_to_no_row_is_not_measured(trained: Trained) -> None:
    ece = {"kind": "confidence", "name": "ece", "when": {"topic": "none"}}
    second = {"kind": "exact_match", "key": "gold", "when": {"topic": "none"}}
    gates = [{"metric": metric, "max": 1.0} for metric in ("ece", "exact_match")]
    result = trained.call(metrics=["token_f1", ece, second], gates=gates)
    assert result.code == 6 and [entry["verdict"] for entry in trained.read("gates.json")] == ["not_run"] * 2
    assert not {"ece", "exact_match"} & set(trained.read("scores.json")["arms"]["tuned"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"metrics": ["exact_match", {"kind": "exact_match", "key": "gold"}]}, "two metrics are called 'exact_match'"),
        ({"metrics": []}, "name at least one metric"),
        ({"gates": [{"metric": "exact_match", "min": 0.5, "slice": {"topic": "a"}}]}, "which `slices` leaves out"),
        ({"metrics": ["llm_judge"]}, "give eval.judge"),
        ({"metrics": [{"kind": "json_schema", "schema": "rows.jsonl"}]}, "schema"),
    ],
)
def test_a_wrong_section_is_a_recipe_error(trained: Trained, section: dict[str, Any], message: str) -> None:
    result = trained.call(**section)
    assert result.code == 2 and message in result.err and "recipe.yaml:" in result.err, result.text
