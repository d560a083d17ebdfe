"""One process at a time holds a lock; a killed one lets go."""

from __future__ import annotations

import errno
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


# File systems without flock


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.usefixtures("no_flock")
def test_without_kernel_locks_the_file_itself_is_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    first, second = (exclusive(path, subject=tmp_path, hint="wait") for _ in range(2))
    with first, pytest.raises(StageError) as caught, second:
        pass
    assert f"in use by process {os.getpid()} on {platform.node()}" in caught.value.message
    assert str(path) in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_flock")
def test_without_kernel_locks_a_process_of_this_machine_that_ended_lets_go(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    process = subprocess.Popen([sys.executable, "-c", NO_FLOCK + HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(StageError, match=f"process {process.pid} on"), exclusive(path, subject=tmp_path, hint=""):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert path.is_file()
    with exclusive(path, subject=tmp_path, hint=""):
        assert path.read_text().startswith(str(os.getpid()))


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("owner", ["1 on another-host\nspace 5", "1 on another-host", "nonsense"])
def test_without_kernel_locks_a_process_elsewhere_is_never_taken_for_dead(tmp_path: Path, owner: str) -> None:
    path = tmp_path / ".lock"
    path.write_text(owner)
    with pytest.raises(StageError, match="in use"), exclusive(path, subject=tmp_path, hint=""):
        pass
    assert path.read_text() == owner


NO_FLOCK = """
import errno, fcntl
def refuse(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = refuse
"""
