"""All training processes end within seconds of a signal, whatever they do, and the caller learns how."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

RUN = """
import sys
from trainer.methods.processes import run
ended = run([sys.executable, "-c", sys.argv[1]], dict(__import__("os").environ))
print(ended.code, ended.stopped_by, len(ended.killed), ended.is_hurried)
"""
READY = "print('ready', flush=True)\n"
DEAF = f"import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: None)\n{READY}"


def started(program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", RUN, program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str], *, within_s: float) -> str:
    begin = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - begin < within_s
    return out.strip()


def test_a_process_that_obeys_ends_at_once() -> None:
    process = started(f"import time\n{READY}time.sleep(60)")
    process.terminate()
    assert ended(process, within_s=8) == "143 15 0 False"


def test_orphans_are_waited_for_and_reaped() -> None:
    orphan = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1)'])\n"
    begin = time.monotonic()
    assert ended(started(orphan + READY), within_s=8) == "0 0 0 False"
    assert time.monotonic() - begin > 1


def test_a_stopped_process_is_continued_so_that_it_can_end() -> None:
    stopping = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nimport time; time.sleep(60)"
    process = started(READY + stopping)
    time.sleep(0.5)
    process.terminate()
    assert ended(process, within_s=8) == "143 15 0 False"


def test_a_process_that_neither_works_nor_ends_is_killed_and_told() -> None:
    process = started(f"{DEAF}while True: time.sleep(60)")
    process.terminate()
    assert ended(process, within_s=10) == "137 15 1 False"


def test_a_second_signal_kills_at_once() -> None:
    process = started(f"{DEAF}while True: time.sleep(0)")
    process.terminate()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert ended(process, within_s=4) == "137 15 1 True"


@pytest.mark.slow
def test_a_process_that_works_is_given_its_time() -> None:
    work = f"import sys, signal, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(work()))\n{READY}"
    busy = "def work():\n    end = time.monotonic() + 7\n    while time.monotonic() < end: pass\n"
    process = started(busy + work + "time.sleep(60)")
    process.terminate()
    assert ended(process, within_s=20) == "0 15 0 False"
