"""Answer by OpenAI-compatible chat completions: concurrent, with limited retries, with checked replies.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypedDict, TypeVar, cast

import httpx2
import orjson

from trainer import exact_json
from trainer.data.records.kinds import Message, Tool
from trainer.errors import HardwareError
from trainer.recipe.arms import Endpoint
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.question import Answer, Timing

T = TypeVar("T")
RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
"""Longest pause before one further attempt; a server may ask for less or more, up to this."""
MAX_WAIT_S = 180.0
"""All pauses of one request together."""
MAX_ANSWER_BYTES = 16 << 20
CONNECT_TIMEOUT_S = 10.0
EXCERPT = 200
"""Characters of a reply that an error message shows."""


class EndpointError(HardwareError):
    """An endpoint is down, refuses the request, or does not speak the protocol."""


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


@dataclass(frozen=True)
class ChatPrompt:
    """Messages and tools of one request."""

    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)


class _Part(TypedDict, total=False):
    """A message, or what a chunk of a stream adds to it."""

    content: str | None
    refusal: str | None
    tool_calls: list[dict[str, object]] | None
    reasoning_content: str | None


class _Choice(TypedDict, total=False):
    message: _Part
    delta: _Part | None
    finish_reason: str | None


class _Reply(TypedDict, total=False):
    """A reply, or a chunk of a stream, as the protocol has it; servers may break it."""

    choices: list[_Choice]
    usage: dict[str, int | None] | None


class EndpointModel:
    """Answers chat prompts through an address; the same interface as `LocalModel`.

    Args:
        endpoint: Address, model, limits.
        max_new_tokens: Longest answer.
        sampling: None asks for temperature 0.
        concurrency: Requests under way at a time.

    Raises:
        EndpointError: The address is no http(s) address, or the named environment variable is not set.
    """

    def __init__(
        self, endpoint: Endpoint, *, max_new_tokens: int, sampling: NucleusSampling | None = None, concurrency: int = 8
    ) -> None:
        self.endpoint = endpoint
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.concurrency = concurrency
        self.url = endpoint.base_url.rstrip("/") + "/chat/completions"
        self.limit_name = "max_tokens"
        if not self.url.startswith(("http://", "https://")):
            raise EndpointError(f"{endpoint.base_url} is no address", hint="base_url: http://HOST:PORT/v1")
        self.client = httpx2.Client(
            timeout=httpx2.Timeout(endpoint.timeout_s, connect=min(CONNECT_TIMEOUT_S, endpoint.timeout_s)),
            limits=httpx2.Limits(max_connections=None),
            headers=_authorization(endpoint),
            follow_redirects=False,  # the key is for this address alone
        )

    def close(self) -> None:
        """Close all connections."""
        self.client.close()

    def answers(
        self, prompts: Sequence[ChatPrompt], *, on_answer: Callable[[int, Answer], None] = lambda index, answer: None
    ) -> list[Answer]:
        """Answer all prompts.

        Args:
            prompts: Conversations.
            on_answer: Called with (index, answer) as soon as it came, in the caller's thread; in no order.

        Raises:
            EndpointError: A request failed for good. Answers that came before or were under way have been passed on.
        """
        return self._all(prompts, self.concurrency, on_answer)

    def answers_at(self, prompts: Sequence[ChatPrompt], concurrency: int) -> list[Answer]:
        """Answer all prompts, `concurrency` at a time."""
        return self._all(prompts, concurrency, lambda index, answer: None)

    def _all(
        self, prompts: Sequence[ChatPrompt], concurrency: int, on_answer: Callable[[int, Answer], None]
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}
        failure: EndpointError | None = None
        is_abandoned = threading.Event()
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            requests = {
                pool.submit(self._patiently, prompt, self._answer, is_abandoned): index
                for index, prompt in enumerate(prompts)
            }
            try:
                for request in as_completed(requests):
                    try:
                        index, answer = requests[request], request.result()
                    except EndpointError as error:
                        # the first error counts: later ones are of requests that it has ended
                        failure = failure or error
                        is_abandoned.set()
                        continue
                    answers[index] = answer
                    on_answer(index, answer)
            finally:  # also on Ctrl-C: nothing new is sent
                is_abandoned.set()
        if failure is not None:
            raise failure
        return [answers[index] for index in range(len(prompts))]

    def timing(self, prompt: ChatPrompt) -> Timing:
        """Answer one prompt by a stream, against the clock; failed attempts do not count.

        Raises:
            EndpointError: The request failed for good.
        """
        return self._patiently(prompt, self._streamed, threading.Event())

    # One request

    def _body(self, prompt: ChatPrompt) -> dict[str, object]:
        drawn = self.sampling
        body = {
            "model": self.endpoint.name,
            "messages": prompt.messages,
            "temperature": 0.0 if drawn is None else drawn.temperature,
            self.limit_name: self.max_new_tokens,
        }
        if drawn is not None:
            body |= {"top_p": drawn.top_p, "seed": drawn.seed}
        return body | ({"tools": prompt.tools} if prompt.tools else {})

    def _patiently(self, prompt: ChatPrompt, attempt: Callable[[ChatPrompt], T], is_abandoned: threading.Event) -> T:
        """Repeat an attempt with growing pauses, a limited number of times and seconds."""
        waited, attempts = 0.0, 0
        while True:
            if is_abandoned.is_set():
                self._fail("another request has failed", attempts)
            attempts += 1
            try:
                return attempt(prompt)
            except _TryAgainError as error:
                pause = _pause_s(attempts, error.wait_s)
                # attempt 1 is no retry, so `max_retries` allows one more than its number
                last = attempts > self.endpoint.max_retries or waited + pause > MAX_WAIT_S
                if last or is_abandoned.wait(pause):
                    self._fail(error.reason, attempts)
                waited += pause

    def _chunks(self, body: dict[str, object]) -> Iterator[bytes]:
        """Send a request and yield the reply, within the time and size allowed.

        Raises:
            EndpointError: The request is refused.
            _TryAgainError: It failed in a way that may pass.
        """
        limit_s = self.endpoint.timeout_s
        ends = time.monotonic() + limit_s
        size = 0
        try:
            with self.client.stream("POST", self.url, content=exact_json.dumps(body)) as response:
                if response.status_code != 200:
                    self._refused(response)
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    # httpx limits the wait for each chunk: a server that drips one now and then would never end
                    if time.monotonic() > ends:
                        raise _TryAgainError(f"no complete answer within {limit_s:g} s")
                    if size > MAX_ANSWER_BYTES:
                        raise _TryAgainError(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
                    yield chunk
        except httpx2.TimeoutException as error:
            raise _TryAgainError(f"no answer within {limit_s:g} s") from error
        except httpx2.TransportError as error:
            raise _TryAgainError(str(error) or type(error).__name__) from error
        except (httpx2.InvalidURL, httpx2.DecodingError) as error:
            raise EndpointError(f"{self.url}: {error}", hint="correct base_url of the endpoint") from error

    def _refused(self, response: httpx2.Response) -> NoReturn:
        """Raise an error status: some may pass, others will not."""
        status = response.status_code
        reply = self._excerpt(next(response.iter_bytes(4096), b""))
        if status in RETRIED_STATUS:
            raise _TryAgainError(f"answered {status}: {reply}", _retry_after_s(response.headers.get("retry-after")))
        if status == 400 and self.limit_name == "max_tokens" and "max_completion_tokens" in reply:
            self.limit_name = "max_completion_tokens"  # what some servers call it now
            raise _TryAgainError(f"answered {status}: {reply}", 0.0)
        hints = {
            401: "set api_key_env of the endpoint to the environment variable that holds a valid key",
            403: "set api_key_env of the endpoint to the environment variable that holds a valid key",
            404: "check base_url (up to and including /v1) and name of the endpoint",
        }
        raise EndpointError(
            f"{self.url} (model {self.endpoint.name}) answered {status}: {reply}",
            hint=hints.get(status, "the server refuses the request as it is: correct the arm or the endpoint"),
        )

    def _excerpt(self, content: bytes) -> str:
        """Return the beginning of a reply on one line, without the key."""
        text = " ".join(content.decode("utf-8", errors="replace").split())
        key = self.client.headers.get("authorization", "").removeprefix("Bearer ")
        return (text.replace(key, "***") if key else text)[:EXCERPT] or "nothing"

    def _json(self, content: bytes) -> _Reply:
        try:
            values = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise _TryAgainError(f"answered no JSON: {self._excerpt(content)}") from error
        # some servers report an error with status 200
        if not isinstance(values, dict) or values.get("error"):
            raise _TryAgainError(f"answered {self._excerpt(content)}")
        return cast("_Reply", values)

    def _answer(self, prompt: ChatPrompt) -> Answer:
        content = b"".join(self._chunks(self._body(prompt)))
        values = self._json(content)
        try:
            choice = values["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason")
            text = message.get("content") or message.get("refusal") or ""
            calls = tuple(message.get("tool_calls") or ())
            is_empty = message.get("content") is None and not text and not calls
            if not isinstance(text, str) or (is_empty and reason != "length"):
                raise _TryAgainError(f"answered without content: {self._excerpt(content)}")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise _TryAgainError(f"answered without choices: {self._excerpt(content)}") from error
        prompt_tokens, num_tokens = _usage(values)
        is_finished = reason in ("stop", "tool_calls")
        return Answer(text, num_tokens, is_finished, prompt_tokens=prompt_tokens, tool_calls=calls)

    def _streamed(self, prompt: ChatPrompt) -> Timing:
        """Answer by server-sent events, and note when the first token came."""
        body = self._body(prompt) | {"stream": True, "stream_options": {"include_usage": True}}
        started = time.perf_counter()
        first_s: float | None = None
        num_chunks, num_tokens, reason = 0, 0, None
        for data in _events(self._chunks(body)):
            if data == b"[DONE]":
                break
            values = self._json(data)
            num_tokens = _usage(values)[1] or num_tokens
            for choice in values.get("choices") or ():
                reason = choice.get("finish_reason") or reason
                delta = choice.get("delta") or {}
                if any(delta.get(part) for part in ("content", "tool_calls", "reasoning_content", "refusal")):
                    num_chunks += 1
                    first_s = first_s if first_s is not None else time.perf_counter() - started
        total_s = time.perf_counter() - started
        if reason is None:
            raise _TryAgainError("the stream ended before the answer did")
        # a chunk is about a token
        return Timing(total_s if first_s is None else first_s, total_s, num_tokens or num_chunks)

    def _fail(self, reason: str, attempts: int) -> NoReturn:
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        raise EndpointError(
            f"{self.url} (model {self.endpoint.name}): {reason}, after {tries}",
            hint="check that the server runs and serves this model: "
            f"curl {self.endpoint.base_url.rstrip('/')}/models; finished answers are kept, so the same command goes on",
        )


def _authorization(endpoint: Endpoint) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    if endpoint.api_key_env is None:
        return headers
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise EndpointError(
            f"the environment variable {endpoint.api_key_env}, which holds the key of {endpoint.base_url}, is not set",
            hint=f"export {endpoint.api_key_env}=...",
        )
    return headers | {"authorization": f"Bearer {key}"}


def _pause_s(attempts: int, requested_s: float | None) -> float:
    """Return the pause after a number of attempts: doubled each time, and spread so that threads part ways."""
    grown = min(FIRST_PAUSE_S * 2 ** (attempts - 1), MAX_PAUSE_S) * random.uniform(0.5, 1.0)  # 0.5, 1, 2 .. 30 s
    return grown if requested_s is None else min(requested_s, MAX_PAUSE_S)


def _retry_after_s(value: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _usage(values: _Reply) -> tuple[int, int]:
    """Return (prompt tokens, answer tokens), 0 where the server does not count."""
    usage = values.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def _events(chunks: Iterator[bytes]) -> Iterator[bytes]:
    r"""Yield the data of server-sent events, one line each; a body that is no stream is one event.

    Example:
        >>> list(_events(iter([b": ping", b"\ndata: {}\n\nda", b"ta: [DONE]"])))
        [b'{}', b'[DONE]']
    """
    incomplete = b""
    for chunk in chunks:
        *lines, incomplete = (incomplete + chunk).split(b"\n")
        yield from filter(None, map(_data, lines))
    yield from filter(None, [_data(incomplete)])


def _data(line: bytes) -> bytes:
    """Return the data of a line; none for comments and other fields. Anything else is handed on to be refused."""
    line = line.strip()
    if line.startswith((b":", b"event:", b"id:", b"retry:")):
        return b""
    return line.removeprefix(b"data:").strip()
