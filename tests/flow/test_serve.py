"""predict, chat and serve on a finished run: they answer as the eval stage does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import command, tiny

pytestmark = pytest.mark.slow

READY_S = 120


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tuned_answers(run: Path) -> dict[tuple[str, int], str]:
    return {(line["source"], line["line"]): line["answers"]["tuned"]["text"] for line in heard(run)}


def heard(run: Path) -> list[dict[str, Any]]:
    return lines_of(run / "eval" / "predictions.jsonl")


@pytest.fixture(scope="module")
def merged_run(finished_run: command.Project, tmp_path_factory: pytest.TempPathFactory) -> command.Project:
    """The finished run with its merged model."""
    project = finished_run.copied_to(tmp_path_factory.mktemp("merged"))
    result = project.call("export", "--set", "export.formats=[adapter, merged]")
    assert result.code == 0, result.text
    return project


@pytest.fixture
def finished(merged_run: command.Project, tmp_path: Path) -> command.Project:
    """A copy of it in `tmp_path`."""
    return merged_run.copied_to(tmp_path)


@pytest.fixture
def questions(finished: command.Project) -> Path:
    """The held-out rows, as they were asked in eval."""
    expected = tuned_answers(finished.run)
    rows = [row for row in lines_of(finished.run / "data/heldout.jsonl") if (row["source"], row["line"]) in expected]
    assert rows
    return tiny.write_rows(finished.folder / "in.jsonl", rows)


def predict(project: command.Project, *arguments: str | Path) -> command.Result:
    return command.call("predict", str(project.run), *map(str, arguments))


def test_predictions_are_the_answers_of_eval(finished: command.Project, questions: Path) -> None:
    output = finished.folder / "out.jsonl"
    result = predict(finished, questions, output)
    assert result.code == 0, result.text
    rows, expected = lines_of(output), tuned_answers(finished.run)
    assert [(row["source"], row["line"]) for row in rows] == [(r["source"], r["line"]) for r in lines_of(questions)]
    assert all(row["answer"] == expected[row["source"], row["line"]] for row in rows)
    lengths = {(line["source"], line["line"]): line["answers"]["tuned"] for line in heard(finished.run)}
    assert all(row["answer_tokens"] == lengths[row["source"], row["line"]]["num_tokens"] for row in rows)
    assert all(row["messages"] and row["prompt_tokens"] > 0 for row in rows)


def test_merged_weights_answer_alike(finished: command.Project, questions: Path) -> None:
    item, second = finished.folder / "one.jsonl", finished.folder / "other.jsonl"
    assert predict(finished, questions, item).code == predict(finished, questions, second, "--merged").code == 0
    assert item.read_bytes() == second.read_bytes()


def test_an_interrupted_batch_ends_with_the_same_bytes(finished: command.Project, questions: Path) -> None:
    complete, cut = finished.folder / "whole.jsonl", finished.folder / "cut.jsonl"
    assert predict(finished, questions, complete).code == 0
    state = (finished.folder / "whole.state.json").read_text()
    (finished.folder / "cut.state.json").write_text(state)
    cut.write_bytes(b"".join(reversed(complete.read_bytes().splitlines(keepends=True)))[:-20])
    result = predict(finished, questions, cut)
    assert result.code == 0 and "are done" in result.out
    assert cut.read_bytes() == complete.read_bytes()
    assert predict(finished, questions, cut).code == 0 and cut.read_bytes() == complete.read_bytes()


def test_an_output_of_something_else_is_never_mixed_or_lost(finished: command.Project, questions: Path) -> None:
    foreign = finished.folder / "foreign.jsonl"
    foreign.write_text('{"mine": 1}\n')
    result = predict(finished, questions, foreign)
    assert result.code == 4 and "not made by this command" in result.err and foreign.read_text() == '{"mine": 1}\n'
    output = finished.folder / "out.jsonl"
    assert predict(finished, questions, output).code == 0
    result = predict(finished, questions, output, "--set", "eval.max_new_tokens=5")
    assert result.code == 4 and "another answers" in result.err and "rm -f" in result.err
    assert predict(finished, questions, questions).code == 3


def test_answers_that_break_the_schema_are_rejected_with_the_reason(finished: command.Project, questions: Path) -> None:
    schema, output = finished.folder / "schema.json", finished.folder / "out.jsonl"
    schema.write_text(json.dumps({"type": "object", "required": ["animal", "colour"]}))
    result = predict(finished, questions, output, "--schema", schema)
    assert result.code == 0, result.text
    survivors, rejected = lines_of(output), lines_of(finished.folder / "out.rejected.jsonl")
    assert len(survivors) + len(rejected) == len(lines_of(questions)) and rejected
    assert all({"animal", "colour"} <= set(json.loads(row["answer"])) for row in survivors)
    assert all(row["reason"] == "schema" and row["detail"] and "answer" in row for row in rejected)
    schema.write_text('{"type": "objekt"}')
    assert predict(finished, questions, finished.folder / "x.jsonl", "--schema", schema).code == 3


def test_bad_rows_are_named_and_too_many_stop_the_batch(finished: command.Project, questions: Path) -> None:
    with questions.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "What colour?", "answer": "red"}\n{"colour": "red"}\n{"prompt": \n')
    bad = len(lines_of_any(questions))
    output = finished.folder / "out.jsonl"
    result = predict(finished, questions, output)
    assert result.code == 3 and f"{questions}:{bad}: invalid_json" in result.out and not output.exists()
    result = predict(finished, questions, output, "--set", "data.max_rejected=0.9")
    assert result.code == 0, result.text
    assert [row["reason"] for row in lines_of(finished.folder / "out.rejected.jsonl")] == [
        "unknown_format",
        "invalid_json",
    ]
    last = lines_of(output)[-1]
    assert last["input_answer"] == "red" and last["input_line"] == bad - 2 and "answer" in last


def lines_of_any(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_prompt_that_leaves_no_room_is_rejected(finished: command.Project) -> None:
    rows = [{"prompt": "word " * 900}, {"prompt": "Describe a red horse as JSON."}]
    questions = tiny.write_rows(finished.folder / "long.jsonl", rows)
    result = predict(finished, questions, finished.folder / "out.jsonl", "--set", "data.max_rejected=0.5")
    assert result.code == 0 and f"{questions}:1: too_long" in result.out
    assert len(lines_of(finished.folder / "out.jsonl")) == 1


def test_a_run_without_a_model_says_what_to_do(finished: command.Project, questions: Path) -> None:
    (finished.run / "train" / "stage.json").unlink()
    for verb, options in (("predict", [str(questions), "out.jsonl"]), ("serve", []), ("chat", [])):
        result = command.call(verb, str(finished.run), *options)
        assert result.code == 4 and "nothing is trained yet" in result.err, result.text


def chat(project: command.Project, monkeypatch: pytest.MonkeyPatch, text: str, *options: str) -> command.Result:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return command.call("chat", str(project.run), *options)


def test_a_piped_chat_answers_each_line_as_eval_does(
    finished: command.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in heard(finished.run) if line["answers"]["tuned"]["finished"]]
    lines = lines or heard(finished.run)
    line = lines[0]
    question, answer = line["messages"][-1]["content"], line["answers"]["tuned"]["text"]
    limit = f"eval.max_new_tokens={max(line['answers']['tuned']['num_tokens'], 1)}"
    text = f"{question}\n/reset\n{question}\n/quit\nnever asked\n"
    result = chat(finished, monkeypatch, text, "--set", limit)
    assert result.code == 0 and result.out == f"{answer}\n{answer}\n", result.text


def test_a_chat_forgets_at_reset_and_takes_a_system_prompt(
    finished: command.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--set", "eval.max_new_tokens=6")
    once = chat(finished, monkeypatch, "Describe a red horse.\n", *few).out
    forgotten = chat(finished, monkeypatch, "Hello.\n/reset\nDescribe a red horse.\n", *few).out
    assert once.strip() and forgotten.endswith(once)
    visible = chat(finished, monkeypatch, "/system\n/system Be brief.\n/system\n/nonsense\n", *few).out
    assert visible.startswith("no system prompt\nsystem: Be brief.\nsystem: Be brief.\nno such command: /nonsense")


def test_a_chat_shows_the_base_with_the_adapter_switched_off(
    finished: command.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = next(line for line in heard(finished.run) if line["answers"]["base"]["text"])
    limit = f"eval.max_new_tokens={line['answers']['base']['num_tokens']}"
    question = line["messages"][-1]["content"]
    out = chat(finished, monkeypatch, f"{question}\n", "--base", "--set", limit).out
    assert out.partition("base: ")[2] == line["answers"]["base"]["text"] + "\n"


def wait_ready(process: Any) -> list[str]:
    """Read what `serve` says up to its ready line, within a bounded time."""
    output, deadline = "", time.monotonic() + READY_S
    while "serve: ready" not in output or not output.endswith("\n"):
        assert process.poll() is None and time.monotonic() < deadline, output + process.stderr.read()
        if select.select([process.stdout], [], [], 1.0)[0]:
            output += os.read(process.stdout.fileno(), 65536).decode()
    return output.splitlines()


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while any(map(command.is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_an_openai_client_gets_the_held_out_answers_and_nothing_is_left_behind(finished: command.Project) -> None:
    openai = pytest.importorskip("openai")
    process = finished.start("serve", str(finished.run), "--port", "0", OMP_NUM_THREADS="1")
    try:
        output = wait_ready(process)
        family = command.tree(process.pid)
        address = output[-1].split()[3].rstrip(",")
        assert "http://127.0.0.1:" in address and any("held-out answers are those of" in line for line in output)
        client = openai.OpenAI(base_url=address, api_key="none", timeout=60, max_retries=0)
        assert [model.id for model in client.models.list()] == ["tiny"]
        for line in heard(finished.run):
            expected = line["answers"]["tuned"]
            reply = client.chat.completions.create(
                model="tiny", messages=line["messages"], temperature=0, max_tokens=max(expected["num_tokens"], 1)
            )
            assert reply.choices[0].message.content.strip() == expected["text"].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        result = command.finish(process)
    assert result.code == 143 and gone(family), result.text


def test_a_killed_serve_takes_its_server_with_it(finished: command.Project) -> None:
    pytest.importorskip("uvicorn")
    process = finished.start("serve", str(finished.run), "--port", "0", OMP_NUM_THREADS="1")
    command.wait_for(lambda: len(command.tree(process.pid)) > 1, process)
    family = command.tree(process.pid)
    time.sleep(1.0)  # the child has set its own end by then
    process.kill()
    command.finish(process)
    assert gone(family)


def replace_config(export: Path, text: str) -> None:
    """Replace config.json of the merged model as if the export had written it: same size, digest noted everywhere."""
    config = export / "merged/config.json"
    before = config.read_bytes()
    config.write_text(text.ljust(len(before)))
    old, new = (hashlib.sha256(content).hexdigest() for content in (before, config.read_bytes()))
    for path in export.rglob("*.json"):
        path.write_text(path.read_text().replace(old, new))


def test_a_server_that_cannot_load_the_model_is_reported_with_its_last_words(finished: command.Project) -> None:
    pytest.importorskip("uvicorn")
    replace_config(finished.run / "export", '{"model_type": "nonsense"}')
    result = finished.spawn("serve", str(finished.run), "--port", "0", OMP_NUM_THREADS="1")
    assert result.code == 5 and "ended with code" in result.err and "serve.log" in result.err
    assert "serve: ready" not in result.out


def test_a_taken_port_and_a_missing_export_are_refused(finished: command.Project) -> None:
    pytest.importorskip("uvicorn")
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        result = command.call("serve", str(finished.run), "--port", str(occupied.getsockname()[1]))
    assert result.code == 5 and "cannot listen" in result.err
    (finished.run / "export" / "stage.json").unlink()
    result = command.call("serve", str(finished.run), "--port", "0", "--engine", "transformers")
    assert result.code == 4 and "trainer export" in result.err
