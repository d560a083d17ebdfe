"""Run a server as a child process; it never outlives this command."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import HardwareError
from trainer.verbs.serve.server import Address, Server

STOP_TIMEOUT_S = 20
PR_SET_PDEATHSIG = 1
LAST_LINES = 12


def free_address(host: str, port: int) -> Address:
    """Return the address, with a free port for 0.

    Raises:
        HardwareError: The port is taken, or the host is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except (OSError, OverflowError) as error:
            raise HardwareError(
                f"cannot listen on {host}:{port}: {error.strerror if isinstance(error, OSError) else error}",
                hint=f"another port: --port {port + 1 if 0 < port < 65535 else 8001}, or --port 0 for a free one",
            ) from error
        return Address(host, int(sock.getsockname()[1]))


@contextmanager
def running(server: Server, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; at the end of the block it and all that it started are gone.

    Raises:
        HardwareError: The program cannot be started.
    """
    # PYTHONPATH would bring this project's packages before those of the server's environment
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | server.environment
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(
                server.command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            raise HardwareError(f"{server.command[0]} cannot be started: {error}", hint="correct its path") from error
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, then make it."""
    _signal(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        _signal(process.pid, signal.SIGKILL)
        process.wait()


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass  # all of them have ended


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent is killed, which no `finally` survives."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def ended(server: Server, code: int | None, log: Path) -> HardwareError:
    """Return the error for a server that ended by itself, with its last words."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = "\n".join(f"    {line}" for line in lines[-LAST_LINES:])
    return HardwareError(f"{server.engine} ended with code {code}; its last lines:\n{last}", hint=f"see {log}")
