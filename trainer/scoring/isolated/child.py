"""Answer requests in the child process: one JSON object per line in, one out."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainer.scoring.isolated.confine import CannotConfineError, confine, limit

if TYPE_CHECKING:
    from trainer.scoring.isolated.worker import Reply, Request

JOBS = {"mathematics", "queries", "programs"}


def main() -> None:
    """Read requests from standard input until it ends; the first argument names the job, the second its limits."""
    job, settings = sys.argv[1], json.loads(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):  # what a program prints must not be taken for a reply
        os.dup2(silence, stream)
    assert job in JOBS, job
    perform: Callable[[Request], Reply] = importlib.import_module(f"trainer.scoring.isolated.{job}").run
    limit(memory_mib=settings["memory_mib"], cpu_s=settings.get("cpu_s"))
    unconfined = _unconfined()
    for line in sys.stdin:
        request = json.loads(line)
        # processor time, so that a mark does not depend on what else the machine does; nobody catches the signal
        signal.setitimer(signal.ITIMER_PROF, request["timeout_s"])
        reply = {"unconfined": unconfined} if unconfined and settings["must_confine"] else _reply(perform, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=replies, flush=True)


def _unconfined() -> str:
    try:
        confine()
    except CannotConfineError as error:
        return str(error)
    return ""


def _reply(perform: Callable[[Request], Reply], request: Request) -> Reply:
    try:
        return perform(request)
    except MemoryError:
        return {"error": "it needs too much memory"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
