"""One process at a time holds a lock; a killed one lets go."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import StageError
from trainer.lock import exclusive

HOLD = """
import sys, time, pathlib
from trainer.lock import exclusive
with exclusive(pathlib.Path(sys.argv[1]), subject=pathlib.Path("x"), hint=""):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_holder_learns_process_and_host(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    first, second = (exclusive(path, subject=tmp_path, hint="wait") for _ in range(2))
    with first, pytest.raises(StageError) as caught, second:
        pass
    assert caught.value.message == f"{tmp_path} is in use by process {os.getpid()} on {platform.node()}"
    assert not list(tmp_path.iterdir())
    with exclusive(path, subject=tmp_path, hint="wait"):
        assert path.is_file()


def test_a_killed_process_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(StageError, match=f"process {process.pid} on"), exclusive(path, subject=tmp_path, hint=""):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with exclusive(path, subject=tmp_path, hint=""):
        assert path.read_text().startswith(str(os.getpid()))
