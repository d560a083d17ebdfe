"""Run `trainer serve`: start an existing server on the tuned model, check its answers, end it with this command."""

from __future__ import annotations

import ipaddress
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.served_prompt import ServedSystem
from trainer.disk import disk_errors
from trainer.recipe import Recipe
from trainer.rundir import RunFolder
from trainer.verbs.serve import probe
from trainer.verbs.serve.artefacts import system_of, trained
from trainer.verbs.serve.child import ended, free_address, running
from trainer.verbs.serve.server import Address, Server, ServerContext
from trainer.verbs.serve.servers import Engine, choose

LOG = "serve.log"

Say = Callable[[str], None]


@dataclass(frozen=True)
class ServeOptions:
    """What is asked for on the command line."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 is a free one."""
    engine: Engine = "auto"
    python: str | None = None
    """Python of the environment that vLLM or xllamacpp is installed in."""
    passed: tuple[str, ...] = ()
    """Arguments for the server itself."""


def serve(recipe: Recipe, run: RunFolder, request: ServeOptions, *, arguments: str, say: Say) -> int:
    """Serve the tuned model until Ctrl-C, a signal, or the end of the server.

    The line that begins with `serve: ready` comes only after the endpoint has answered.

    Raises:
        StageError: What the server needs is not exported.
        HardwareError: The port is taken, the server is not installed, or it ended.
        GateError: It answers as the untuned model.
    """
    trained(run, arguments)
    address = free_address(request.host, request.port)
    with tempfile.TemporaryDirectory(prefix="trainer-serve-") as name:
        folder = Path(name)
        context = ServerContext(recipe, run, address, folder, arguments, request.passed)
        server = choose(context, request.engine, request.python)
        log = (run.path / LOG).absolute()
        say(f"serve: {server.engine} on {server.serves}, log in {log}")
        say(f"serve: {shlex.join(server.command)}")
        with disk_errors(log), running(server, folder, log) as process:
            client = probe.Client(address)
            if not client.wait(lambda: process.poll() is None, say):
                raise ended(server, process.poll(), log)
            system = system_of(recipe, run)
            probes = probe.probes_of(run, is_greedy=recipe.eval.sampling is None, system=system.text)
            findings = probe.check(client, server, probes)
            if any(prompt.has_reasoning for prompt in probes):
                say("serve: answers begin with reasoning; where this server leaves it in `content`, clients cut it off")
            _tell(server, address, [*findings, f"clients send {_clients_send(system)}"], say)
            try:
                code = process.wait()
            except KeyboardInterrupt:
                say("serve: stopped")
                return 0
            raise ended(server, code, log)


def _clients_send(system: ServedSystem) -> str:
    """Say what makes the model answer as it was trained to."""
    if not system.sentence:
        return "the question alone, as in training"
    if system.is_needed:
        return f"a system turn and the question: {system.sentence}"
    return f"the question, and a system turn where another one is wanted: {system.sentence}"


def _tell(server: Server, address: Address, findings: list[str], say: Say) -> None:
    for sentence in findings:
        say(f"serve: {sentence}")
    how = "response_format json_schema" if server.follows_schema else "not by this server; vLLM and llama.cpp can"
    say(f"serve: answers held to a JSON Schema: {how}")
    if not _is_loopback(address.host):
        say(f"serve: {address.host} is open to other machines, and whoever reaches it may ask: there is no key")
    say(f"serve: ready at {address.url}/v1, model {server.model}; Ctrl-C ends it")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
