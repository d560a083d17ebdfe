from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import tiny
from trainer.errors import GateError, HardwareError
from trainer.rundir import RunFolder
from trainer.verbs.serve.probe import Client, check, probes_of
from trainer.verbs.serve.server import Address, Server

Reply = Callable[[dict[str, Any]], Any]


@contextmanager
def answering(reply: Reply) -> Iterator[Client]:
    """A server whose completions are what `reply` makes of the request; an int is a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"status": "ok"})

        def do_POST(self) -> None:
            output = reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if isinstance(output, int):
                self._send(output, {"detail": "refused"})
            else:
                self._send(200, {"choices": [{"message": {"content": output}}]} if isinstance(output, str) else output)

        def _send(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Client(Address("127.0.0.1", server.server_address[1]))
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def make_run(folder: Path, answers: list[tuple[str, str | None]]) -> RunFolder:
    """A run whose eval heard (tuned, base) on questions named 0, 1, ..."""
    lines, rows = [], []
    for number, (tuned, base) in enumerate(answers):
        heard = {"tuned": {"text": tuned, "num_tokens": 3, "finished": True}}
        if base is not None:
            heard["base"] = {"text": base, "num_tokens": 3, "finished": True}
        request = [{"role": "user", "content": str(number)}]
        lines.append({"source": "r", "line": number, "messages": request, "answers": heard})
        rows.append({"source": "r", "line": number})
    tiny.write_rows(folder / "eval" / "predictions.jsonl", lines)
    tiny.write_rows(folder / "data" / "heldout.jsonl", rows)
    return RunFolder(folder)


def number_of(request: dict[str, Any]) -> int:
    return int(request["messages"][0]["content"])


HEARD = [("tuned 0", "base 0"), ("same", "same"), ("tuned 2", "base 2"), ("tuned 3", "base 3"), ("tuned 4", "base 4")]
SERVER = Server("any", [], "export/merged", "m")


def test_a_server_that_answers_as_the_untuned_model_is_not_called_ready(tmp_path: Path) -> None:
    probes = probes_of(make_run(tmp_path, HEARD), is_greedy=True, system=None)
    with answering(lambda request: HEARD[number_of(request)][1]) as client, pytest.raises(GateError, match="untuned"):
        check(client, SERVER, probes)


def test_an_adapter_that_changes_nothing_is_found_by_asking_the_base_at_the_same_address(tmp_path: Path) -> None:
    probes = probes_of(make_run(tmp_path, [(tuned, None) for tuned, _ in HEARD]), is_greedy=True, system=None)
    server = Server("vLLM", [], "export/adapter", "m", base="m-base")
    with answering(lambda request: "rounded otherwise") as client, pytest.raises(GateError, match="untuned"):
        check(client, server, probes)


def test_the_tuned_answers_are_counted(tmp_path: Path) -> None:
    probes = probes_of(make_run(tmp_path, HEARD), is_greedy=True, system=None)
    assert len(probes) == 4 and all(probe.tuned != probe.base for probe in probes)
    with answering(lambda request: "other" if number_of(request) == 2 else HEARD[number_of(request)][0]) as client:
        [actual] = check(client, SERVER, probes)
    assert actual.startswith("3 of 4 held-out answers are those of the eval stage, 4 of 4 differ")


def with_system(run: RunFolder, text: str) -> RunFolder:
    path = run.path / "eval" / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["messages"].insert(0, {"role": "system", "content": text})
    tiny.write_rows(path, lines)
    return run


def test_the_probe_asks_with_and_without_the_system_turn(tmp_path: Path) -> None:
    probes = probes_of(with_system(make_run(tmp_path, HEARD), "Be brief."), is_greedy=True, system="Be brief.")
    questions: list[list[str]] = []

    def reply(request: dict[str, Any]) -> str:
        questions.append([turn["role"] for turn in request["messages"]])
        return HEARD[int(request["messages"][-1]["content"])][0]

    with answering(reply) as client:
        actual = check(client, SERVER, probes)
    assert actual[1] == "4 of 4 answers are the same without the system turn"
    assert questions == [["system", "user"]] * 4 + [["user"]] * 4


def test_a_server_that_does_not_add_the_system_prompt_is_not_called_ready(tmp_path: Path) -> None:
    probes = probes_of(with_system(make_run(tmp_path, HEARD), "Be brief."), is_greedy=True, system="Be brief.")

    def reply(request: dict[str, Any]) -> str:
        has_system = request["messages"][0]["role"] == "system"
        return HEARD[int(request["messages"][-1]["content"])][0] if has_system else "nick: 17"

    with answering(reply) as client, pytest.raises(GateError, match="does not add the system prompt"):
        check(client, SERVER, probes)


def test_questions_with_a_system_turn_of_their_own_are_asked_one_way(tmp_path: Path) -> None:
    probes = probes_of(with_system(make_run(tmp_path, HEARD), "Another."), is_greedy=True, system="Be brief.")
    assert all(probe.bare is None for probe in probes)


def test_rows_whose_prompt_has_tools_are_not_asked(tmp_path: Path) -> None:
    run = make_run(tmp_path, HEARD)
    tiny.write_rows(tmp_path / "data" / "heldout.jsonl", [{"source": "r", "line": 0, "tools": [{}]}])
    assert all(probe.tuned != "tuned 0" for probe in probes_of(run, is_greedy=True, system=None))


def test_sampled_answers_are_not_compared(tmp_path: Path) -> None:
    probes = probes_of(make_run(tmp_path, HEARD), is_greedy=False, system=None)
    with answering(lambda request: "anything") as client:
        assert "no held-out answers" in check(client, SERVER, probes)[0]


@pytest.mark.parametrize("reply", [500, {"choices": []}, {"error": "x"}, [1]], ids=str)
def test_what_is_no_completion_is_an_error(tmp_path: Path, reply: Any) -> None:
    probes = probes_of(make_run(tmp_path, HEARD), is_greedy=True, system=None)
    with answering(lambda request: reply) as client, pytest.raises(HardwareError, match="does not answer"):
        check(client, SERVER, probes)


def test_waiting_ends_when_the_server_does() -> None:
    lives = iter([True, True, False])
    assert Client(Address("127.0.0.1", 1)).wait(lambda: next(lives), lambda text: None) is False


def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.verbs.serve.probe.START_TIMEOUT_S", 0.2)
    with pytest.raises(HardwareError, match="not ready after"):
        Client(Address("127.0.0.1", 1)).wait(lambda: True, lambda text: None)


def test_a_proxy_is_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with answering(lambda request: "hello") as client:
        assert client.wait(lambda: True, lambda text: None)


def test_a_server_may_tell_reasoning_from_the_answer_or_not(tmp_path: Path) -> None:
    run = make_run(tmp_path, [(f"<think>a</think>tuned {at}", f"base {at}") for at in range(4)])
    path = tmp_path / "eval" / "predictions.jsonl"
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for at, line in enumerate(lines):
        line["answers"]["tuned"]["content"] = f"tuned {at}"
    tiny.write_rows(path, lines)
    probes = probes_of(run, is_greedy=True, system=None)
    assert all(probe.has_reasoning for probe in probes)
    for form in ("<think>a</think>tuned {}", "tuned {}"):
        with answering(lambda request, form=form: form.format(number_of(request))) as client:
            assert check(client, SERVER, probes)[0].startswith("4 of 4 held-out answers are those of the eval stage")
    with answering(lambda request: f"base {number_of(request)}") as client, pytest.raises(GateError, match="untuned"):
        check(client, SERVER, probes)
