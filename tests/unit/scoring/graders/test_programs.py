from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.unit.scoring.graders.make import mark, metric, question
from trainer.errors import DataError, HardwareError
from trainer.scoring.graders import check
from trainer.scoring.isolated import confine, worker

TESTS = ["assert double(2) == 4", "assert double(-1) == -2"]
BODY = "def double(x):\n    return 2 * x\n"


def run(text: str, **row: Any) -> Any:
    keys = {name: row.pop(name) for name in ("prefix", "timeout_s") if name in row}
    grader = metric("code", run_answers=True, **{"timeout_s": 5, **keys})
    return mark(grader, text, question("", **{"tests": TESTS, **row}))


@pytest.mark.parametrize(
    "text",
    [BODY, f"```python\n{BODY}```", f"Use:\n```\nprint(double(1))\n```\n```py\n{BODY}\n# long enough\n```\nDone."],
    ids=["plain", "fence", "fences"],
)
def test_code_that_passes_its_tests_is_right(text: str) -> None:
    assert run(text).score == 1


def test_a_signature_may_stand_before_the_answer_and_check_is_called() -> None:
    before = 'def double(x):\n    """Double."""\n'
    row = {"prompt": before, "prefix": "prompt", "entry_point": "double"}
    tests = "def check(candidate):\n    assert candidate(3) == 6\n"
    for text in ("    return 2 * x\n", "return 2 * x", f"```python\n{BODY}```"):
        assert run(text, tests=tests, **row).score == 1
    assert run("    return x", tests=tests, **row).reason == "AssertionError"


@pytest.mark.parametrize(
    ("text", "reason", "failure"),
    [
        ("def double(x):\n    return x", "AssertionError", "knowledge"),
        ("It is two times x.", "SyntaxError", "format"),
        ("import sys\nsys.exit(0)", "SystemExit: 0", "knowledge"),
        ("import os\nos._exit(0)", "its process ended", "knowledge"),
        (BODY + "raise KeyboardInterrupt", "KeyboardInterrupt", "knowledge"),
        ("", "empty", "other"),
    ],
    ids=["wrong", "words", "exit", "_exit", "interrupt", "empty"],
)
def test_code_that_fails_says_why(text: str, reason: str, failure: str) -> None:
    results = run(text)
    assert results.score == 0 and reason in results.reason and results.failure == failure


HOSTILE = {
    "fork": "import os\nwhile True: os.fork()",
    "program": "import subprocess\nsubprocess.run(['true'])",
    "socket": "import socket\nsocket.socket()",
    "write": "open({path!r}, 'w').write('x')",
    "delete": "import os\nos.remove({victim!r})",
    "kill": "import os\nos.kill(os.getppid(), 9)",
    "memory": "a = bytearray(10**11)",
    "loop": "import signal\nsignal.alarm(0)\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass",
    "output": "while True: print('x' * 10**6)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "recursion": "def f(): f()\nf()",
    "environment": "import os\nassert 'SECRET_TOKEN' in os.environ",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_code_ends_and_does_no_harm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    victim, path = tmp_path / "victim", tmp_path / "written"
    victim.write_text("here")
    began = time.monotonic()
    code = HOSTILE[name].replace("{path!r}", repr(str(path))).replace("{victim!r}", repr(str(victim)))
    results = run(code + "\n" + BODY, timeout_s=0.5)
    assert results.score == 0 and time.monotonic() - began < 30
    assert victim.read_text() == "here" and not path.exists()


def test_nothing_is_run_without_consent() -> None:
    with pytest.raises(ValidationError, match="run_answers: true"):
        metric("code")


@pytest.mark.parametrize("tests", [[], "", "assert (", 3], ids=["none", "empty", "syntax", "number"])
def test_rows_without_tests_are_refused(tests: Any) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7"):
        check(metric("code", run_answers=True), [question("", tests=tests)])


def test_a_system_that_cannot_confine_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "import platform; platform.machine = lambda: 'riscv64'; "
    monkeypatch.setattr(worker, "_CODE", elsewhere + worker._CODE)
    with pytest.raises(HardwareError, match="Linux x86_64 only, this is riscv64"):
        run(BODY)


def test_every_allowed_call_is_named_once() -> None:
    assert len(set(confine.ALLOWED.values())) == len(confine.ALLOWED)
    assert not {"execve", "fork", "socket", "unlink", "kill", "ptrace"} & set(confine.ALLOWED)
