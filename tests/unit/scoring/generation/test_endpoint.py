"""The endpoint client against a loopback server that misbehaves in every way that servers do."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.loopback import Reply, completion, echo, send, serving
from trainer.errors import TrainerError
from trainer.recipe.arms import Endpoint
from trainer.scoring.generation import endpoint as module
from trainer.scoring.generation.endpoint import ChatPrompt, EndpointError, EndpointModel
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.generation.timing import throughput, timings
from trainer.scoring.question import Answer


def client(base_url: str, *, timeout_s: float = 5.0, max_retries: int = 2, **settings: Any) -> EndpointModel:
    endpoint = Endpoint(
        base_url=base_url,
        name="big",
        timeout_s=timeout_s,
        max_retries=max_retries,
        api_key_env=settings.pop("api_key_env", None),
    )
    return EndpointModel(endpoint, max_new_tokens=16, **settings)


def asked(*texts: str) -> list[ChatPrompt]:
    return [ChatPrompt([{"role": "user", "content": text}]) for text in texts]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)


def test_every_prompt_gets_its_own_answer_and_is_told_once() -> None:
    texts = [f"word {number}" for number in range(20)]
    delivered: dict[int, Answer] = {}
    threads = set()

    def on_answer(index: int, answer: Answer) -> None:
        assert index not in delivered
        delivered[index] = answer
        threads.add(threading.get_ident())

    with serving(echo) as (url, requests):
        answers = client(url, concurrency=5).answers(asked(*texts), on_answer=on_answer)
    assert [answer.text for answer in answers] == [text.upper() for text in texts]
    assert [delivered[index] for index in range(20)] == answers and threads == {threading.get_ident()}
    assert answers[0] == Answer("WORD 0", 2, True, prompt_tokens=9)
    assert len(requests) == 20 and requests[0]["path"] == "/v1/chat/completions"


def test_the_request_says_how_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret")
    tool = {"type": "function", "function": {"name": "f"}}
    prompt = ChatPrompt([{"role": "user", "content": "a"}], [tool])
    with serving(echo) as (url, requests):
        client(url, api_key_env="SOME_KEY").answers([prompt])
        client(url, sampling=NucleusSampling(0.7, 0.9, seed=3)).answers(asked("a"))
    first, second = requests
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("big", 0.0, 16)
    assert first["tools"] == [tool]
    assert first["headers"]["authorization"] == "Bearer very-secret"
    assert (second["temperature"], second["top_p"], second["seed"]) == (0.7, 0.9, 3)
    assert "authorization" not in second["headers"] and "tools" not in second


def test_a_key_that_is_not_set_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISSING_KEY", raising=False)
    with pytest.raises(EndpointError, match="MISSING_KEY"):
        client("http://127.0.0.1:9/v1", api_key_env="MISSING_KEY")


def test_an_endpoint_that_is_down_is_an_error_after_the_stated_attempts() -> None:
    with serving(echo) as (url, _):
        pass  # now nobody listens there
    with pytest.raises(TrainerError, match=r"/chat/completions \(model big\).*after 3 attempts") as caught:
        client(url).answers(asked("a"))
    assert "/models" in caught.value.hint


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    def busy(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        if number < 3:
            send(handler, status, b'{"error": "busy"}', Retry_After="0.2")
        else:
            echo(handler, body, number)

    with serving(busy) as (url, requests):
        started = time.monotonic()
        assert client(url).answers(asked("a"))[0].text == "A"
        assert time.monotonic() - started >= 0.4  # Retry-After, twice
    assert len(requests) == 3


def test_a_server_that_stays_busy_is_given_up_with_what_it_said() -> None:
    def busy(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        send(handler, 429, b"quota   exceeded")

    with serving(busy) as (url, requests), pytest.raises(EndpointError, match=r"answered 429: quota exceeded, after 3"):
        client(url).answers(asked("a"))
    assert len(requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_is_final_and_never_shows_the_key(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "very-secret")

    def refuse(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        send(handler, status, b"bad key very-secret", Location="http://127.0.0.1:9/")

    with serving(refuse) as (url, requests), pytest.raises(EndpointError, match=rf"answered {status}") as caught:
        client(url, api_key_env="SOME_KEY").answers(asked("a"))
    assert len(requests) == 1 and "very-secret" not in caught.value.message + caught.value.hint


def test_a_server_that_wants_the_newer_name_of_the_limit_gets_it() -> None:
    def newer(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        if "max_tokens" in body:
            send(handler, 400, b'{"error": "use max_completion_tokens instead"}')
        else:
            echo(handler, body, number)

    with serving(newer) as (url, requests):
        client(url).answers(asked("a"))
    assert requests[-1]["max_completion_tokens"] == 16


NONSENSE = {
    "html": b"<html><body>Welcome to nginx</body></html>",
    "list": b"[]",
    "no choices": b'{"choices": []}',
    "null choices": b'{"choices": null}',
    "text choice": b'{"choices": ["a"]}',
    "null content": completion(None),
    "number": completion(5),  # type: ignore[arg-type]
    "error": b'{"error": {"message": "model not loaded"}}',
    "binary": b"\xff\x00",
    "nothing": b"",
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_a_clear_error_after_retries(body: bytes) -> None:
    def reply(handler: BaseHTTPRequestHandler, request: dict[str, Any], number: int) -> None:
        send(handler, 200, body)

    with serving(reply) as (url, requests), pytest.raises(EndpointError, match=r"answered .*after 3 attempts"):
        client(url).answers(asked("a"))
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (completion(""), Answer("", 2, True, prompt_tokens=9)),
        (completion("ab", "length"), Answer("ab", 2, False, prompt_tokens=9)),
        (completion(None, "length"), Answer("", 2, False, prompt_tokens=9)),
        (completion(None, refusal="I cannot"), Answer("I cannot", 2, True, prompt_tokens=9)),
        (
            completion(None, "tool_calls", tool_calls=[{"id": "1"}]),
            Answer("", 2, True, prompt_tokens=9, tool_calls=({"id": "1"},)),
        ),
        (b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}', Answer("a", 0, True)),
    ],
    ids=["empty", "cut off", "nothing said", "refusal", "calls", "no usage"],
)
def test_answers_that_are_odd_but_right(body: bytes, expected: Answer) -> None:
    with serving(lambda handler, request, number: send(handler, 200, body)) as (url, _):
        assert client(url).answers(asked("a")) == [expected]


@pytest.mark.parametrize("dripping", [False, True])
def test_a_slow_server_is_given_up_in_bounded_time(dripping: bool) -> None:
    def slow(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(50):  # 5 s at most
            time.sleep(0.1)
            if dripping:
                handler.wfile.write(b" ")

    with serving(slow) as (url, requests):
        started = time.monotonic()
        with pytest.raises(EndpointError, match=r"within 0\.3 s, after 2 attempts"):
            client(url, timeout_s=0.3, max_retries=1).answers(asked("a"))
        assert time.monotonic() - started < 3
    assert len(requests) == 2


def test_finished_answers_are_told_before_the_error() -> None:
    def partly(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        if body["messages"][0]["content"] == "bad":
            send(handler, 404, b"gone")
        else:
            echo(handler, body, number)

    delivered: dict[int, Answer] = {}
    with serving(partly) as (url, requests), pytest.raises(EndpointError, match="answered 404: gone"):
        client(url, concurrency=1).answers(asked("a", "b", "bad", *["c"] * 50), on_answer=delivered.__setitem__)
    assert delivered[0].text == "A" and delivered[1].text == "B" and 2 not in delivered
    assert len(requests) < 53  # those in the queue are not sent any more


def chunk(**values: Any) -> bytes:
    return b"data: " + json.dumps(values).encode() + b"\n\n"


def stream(*, whole: bool, usage: bool = True) -> Reply:
    def reply(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        assert body["stream"] and body["stream_options"] == {"include_usage": True}
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.wfile.write(b": comment\n\n" + chunk(choices=[{"delta": {"role": "assistant", "content": ""}}]))
        time.sleep(0.15)
        handler.wfile.write(chunk(choices=[{"delta": {"content": "Hel"}}])[:20])
        handler.wfile.flush()
        handler.wfile.write(chunk(choices=[{"delta": {"content": "Hel"}}])[20:])
        time.sleep(0.15)
        if whole:
            handler.wfile.write(chunk(choices=[{"delta": {"content": "lo"}, "finish_reason": "stop"}]))
            if usage:
                handler.wfile.write(chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 7}))
            handler.wfile.write(b"data: [DONE]\n\n")

    return reply


@pytest.mark.parametrize(("usage", "num_tokens"), [(True, 7), (False, 2)])
def test_time_to_first_token_is_that_of_the_first_content(usage: bool, num_tokens: int) -> None:
    with serving(stream(whole=True, usage=usage)) as (url, requests):
        (timing,) = timings(client(url), asked("a"))
    assert len(requests) == 2  # one to warm up
    assert 0.15 <= timing.first_token_s <= timing.total_s - 0.1 and timing.num_tokens == num_tokens


@pytest.mark.parametrize(
    "reply", [stream(whole=False), lambda handler, body, number: send(handler, 200, b"<html>")], ids=["cut", "html"]
)
def test_a_stream_without_an_end_is_an_error(reply: Reply) -> None:
    with serving(reply) as (url, requests), pytest.raises(EndpointError, match="after 2 attempts"):
        timings(client(url, max_retries=1), asked("a"))
    assert len(requests) == 2


def test_throughput_grows_with_concurrency() -> None:
    def wait(handler: BaseHTTPRequestHandler, body: dict[str, Any], number: int) -> None:
        time.sleep(0.1)
        echo(handler, body, number)

    with serving(wait) as (url, _):
        model = client(url)
        prompt, four = throughput(model, asked(*"abcd"), 1), throughput(model, asked(*"abcd"), 4)
    assert four > 1.5 * prompt
