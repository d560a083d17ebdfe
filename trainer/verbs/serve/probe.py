"""Ask a started server held-out questions, and compare its answers with those of the tuned model.

A server may load an adapter whose keys match nothing and answer as the base does, without a word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx2

from trainer.data.records.kinds import Message
from trainer.data.rows.system_prompt import has_system_turn
from trainer.disk import read_json_lines
from trainer.errors import GateError, HardwareError
from trainer.rundir import RunFolder
from trainer.shapes.predictions import ArmAnswer
from trainer.verbs.serve.server import Address, Server

NUM_PROBES = 4
START_TIMEOUT_S = 1800.0
"""vLLM loads and compiles a large model for many minutes."""
POLL_S = 0.25
TELL_EVERY_S = 60.0
ANSWER_TIMEOUT_S = 300.0
SPARE_TOKENS = 8
"""Beyond the known answer, so that one that goes on is seen."""
UNKNOWN_TOKENS = 16

Say = Callable[[str], None]


@dataclass(frozen=True)
class Probe:
    """A held-out question with the answers that the eval stage heard, where it is known."""

    messages: list[Message]
    tuned: tuple[str, ...]
    """The text, and what follows its reasoning: servers tell the two apart, or not; empty where it is not known."""
    base: tuple[str, ...]
    max_tokens: int
    bare: list[Message] | None = None
    """The question without its system turn, where a server has to put it there."""

    @property
    def has_reasoning(self) -> bool:
        """Whether the tuned answer is more than what follows its reasoning."""
        return len(self.tuned) > 1


def probes_of(run: RunFolder, *, is_greedy: bool, system: str | None) -> list[Probe]:
    """Return held-out questions, first those that tell tuned and base apart; one plain question where there are none.

    Args:
        run: The run folder.
        is_greedy: The eval stage took the likeliest tokens, so that another server can repeat its answers.
        system: What a question without a system turn is to be asked with.
    """
    lines = read_json_lines(run.stage_dir("eval") / "predictions.jsonl") if is_greedy else []
    needs_more = _rows_with_extras(run) if lines else set()
    probes = []
    for line in lines:
        tuned, base = (line["answers"].get(arm) for arm in ("tuned", "base"))
        if tuned is None or (line.get("source"), line.get("line")) in needs_more:
            continue
        limit = tuned["num_tokens"] + (SPARE_TOKENS if tuned["finished"] else 0)
        probes.append(
            Probe(line["messages"], _texts(tuned), _texts(base) if base else (), limit, _bare(line["messages"], system))
        )
    # probes that tell tuned and base apart first, the short ones among them: they are the quickest proof
    probes.sort(key=lambda probe: (probe.base == probe.tuned, probe.max_tokens))
    return probes[:NUM_PROBES] or [Probe([{"role": "user", "content": "Hello"}], (), (), UNKNOWN_TOKENS)]


def _texts(answer: ArmAnswer) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer[key].strip() for key in ("text", "content") if key in answer))


def _bare(messages: list[Message], system: str | None) -> list[Message] | None:
    if system is None or not has_system_turn(messages) or messages[0]["content"] != system:
        return None
    return messages[1:] or None


def _rows_with_extras(run: RunFolder) -> set[tuple[object, object]]:
    """Return the places of held-out rows whose prompt is more than their turns."""
    rows = read_json_lines(run.stage_dir("data") / "heldout.jsonl")
    return {(row.get("source"), row.get("line")) for row in rows if row.get("tools") or row.get("chat_template_kwargs")}


class Client:
    """Requests to a server on this machine, past any proxy."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.http = httpx2.Client(base_url=address.url, timeout=ANSWER_TIMEOUT_S, trust_env=False)

    def wait(self, is_alive: Callable[[], bool], say: Say) -> bool:
        """Wait until the server is healthy; False where it ended before.

        Raises:
            HardwareError: It took too long.
        """
        started = last_report = time.monotonic()
        while is_alive():
            if self._is_healthy():
                return is_alive()
            now = time.monotonic()
            if now - started > START_TIMEOUT_S:
                raise HardwareError(
                    f"the server was not ready after {START_TIMEOUT_S:.0f} s", hint="see the log named above"
                )
            if now - last_report > TELL_EVERY_S:
                last_report = now
                say(f"serve: loading since {now - started:.0f} s")
            time.sleep(POLL_S)
        return False

    def _is_healthy(self) -> bool:
        try:
            return bool(self.http.get("/health", timeout=5.0).status_code == 200)
        except httpx2.TransportError:
            return False

    def ask(self, model: str, messages: list[Message], max_tokens: int) -> tuple[str, int | None]:
        """Return the likeliest answer, and how many tokens the prompt had where the server says it.

        Raises:
            HardwareError: The server refuses, or says what is no completion.
        """
        body = {"model": model, "messages": messages, "temperature": 0.0, "max_tokens": max_tokens}
        try:
            reply = self.http.post("/v1/chat/completions", json=body)
            if reply.status_code != 200:
                raise self._no_answer(f"status {reply.status_code}: {reply.text[:300]}")
            content = reply.json()
            text = str(content["choices"][0]["message"].get("content") or "").strip()
            return text, (content.get("usage") or {}).get("prompt_tokens")
        except (httpx2.TransportError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._no_answer(f"{type(error).__name__}: {error}") from error

    def _no_answer(self, why: str) -> HardwareError:
        return HardwareError(
            f"{self.address.url}/v1/chat/completions does not answer: {why}", hint="see the log named above"
        )


def check(client: Client, server: Server, probes: list[Probe]) -> list[str]:
    """Ask the probes, with and without their system turn, and return what was found, as sentences.

    Raises:
        GateError: The server answers every one exactly as the untuned model, or does not add the system prompt.
        HardwareError: It does not answer.
    """
    replies = [client.ask(server.model, probe.messages, probe.max_tokens) for probe in probes]
    return [
        _compared(client, server, probes, [text for text, _ in replies]),
        *_asked_bare(client, server, probes, replies),
    ]


def _asked_bare(
    client: Client, server: Server, probes: list[Probe], replies: list[tuple[str, int | None]]
) -> Iterator[str]:
    """Yield whether questions without their system turn are answered as with it."""
    pairs = [
        (with_system, client.ask(server.model, probe.bare, probe.max_tokens))
        for probe, with_system in zip(probes, replies, strict=True)
        if probe.bare is not None
    ]
    # the same answer, or a prompt of the same length in tokens: then the server has put the system turn there
    same = sum(
        without_system[0] == with_system[0] or (without_system[1] is not None and without_system[1] == with_system[1])
        for with_system, without_system in pairs
    )
    if pairs and not same:
        raise GateError(
            f"{len(pairs)} held-out prompts without their system turn are answered otherwise than with it: "
            "the chat template in use does not add the system prompt of training",
            hint="export again, with --force: the exported template adds it; or leave out --chat-template after --",
        )
    if pairs:
        yield f"{same} of {len(pairs)} answers are the same without the system turn"


def _compared(client: Client, server: Server, probes: list[Probe], answers: list[str]) -> str:
    bases = [
        (client.ask(server.base, probe.messages, probe.max_tokens)[0],) if server.base else probe.base
        for probe in probes
    ]
    compared = [
        (answer, base)
        for probe, answer, base in zip(probes, answers, bases, strict=True)
        if base and not set(base) & set(probe.tuned)
    ]
    if compared and all(answer in base for answer, base in compared):
        raise GateError(
            f"the server answers {len(compared)} held-out prompts exactly as the untuned model: "
            "what was trained is not in use",
            hint="see the log named above; --engine transformers serves the merged model",
        )
    probes_with_answers = [probe for probe in probes if probe.tuned]
    if not probes_with_answers:
        return "it answers; the run has no held-out answers to compare with"
    equal = sum(answer in probe.tuned for answer, probe in zip(answers, probes, strict=True))
    num_apart = sum(answer not in base for answer, base in compared)
    apart = f", {num_apart} of {len(compared)} differ from the untuned model's" if compared else ""
    return f"{equal} of {len(probes_with_answers)} held-out answers are those of the eval stage{apart}"
