"""Run the training processes, pass signals on, wait for all of them, and end those that do not answer.

Ranks under torchrun have sessions of their own, so the processes are followed as a tree. This process adopts orphans
(`PR_SET_CHILD_SUBREAPER`): in a container nobody else reaps them, and a zombie looks like a process that still runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

STOP_TIMEOUT_S = 100
"""For processes that work: a step and a checkpoint of a large model take this long."""
ANSWER_TIMEOUT_S = 5
"""For processes that neither compute nor write: docker kills a container after 10 seconds."""
POLL_S = 0.1
MIN_CPU_SHARE = 0.05
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Of <linux/prctl.h>."""


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent process dies, so that no training is left running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of processes below this one whose own parent has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


@dataclass(frozen=True)
class Member:
    """One process of the training, as /proc describes it."""

    pid: int
    state: str
    """R running, S sleeping, D waiting for a disk, T stopped, Z ended."""
    cpu_s: float

    @property
    def name(self) -> str:
        """Return the process with its rank, where it has one."""
        with suppress(OSError):
            for entry in Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(b"RANK="):
                    return f"process {self.pid} (rank {entry[5:].decode()})"
        return f"process {self.pid}"


@dataclass(frozen=True)
class Ended:
    """How the processes ended."""

    code: int
    """Of the launcher; 128 + N when signal N ended it."""
    stopped_by: int = 0
    """The signal that this process got meanwhile, or 0."""
    killed: tuple[str, ...] = ()
    """Processes that had to be killed."""
    is_hurried: bool = False
    """A second signal was the reason."""


def run(command: Sequence[str], environment: dict[str, str]) -> Ended:
    """Run a command to the end of the last process that it has started."""
    adopt_orphans()
    before = set(_children())
    child = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=die_with_parent)
    signals: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) == 1:
            _signal_group(child.pid, signal.SIGTERM if number == signal.SIGTERM else signal.SIGINT)
            for member in _tree(before):  # a process that was stopped could not answer
                _signal(member.pid, signal.SIGCONT)

    with _handled(forward):
        while child.poll() is None and not signals:
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)
        killed = _wait_for_all(child, before, signals)
    code = child.wait()
    return Ended(code if code >= 0 else 128 - code, signals[0] if signals else 0, killed, len(signals) > 1)


@contextmanager
def _handled(forward: object) -> Iterator[None]:
    assert callable(forward)
    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait_for_all(child: subprocess.Popen[bytes], before: set[int], signals: list[int]) -> tuple[str, ...]:
    """Wait while the processes work; kill them when they do not, or on a second signal; return which."""
    started = answered = time.monotonic()
    cpu_s = 0.0
    while members := _reaped(child, before):
        now, total = time.monotonic(), sum(member.cpu_s for member in members)
        is_working = total - cpu_s > MIN_CPU_SHARE * (now - answered) or any(member.state == "D" for member in members)
        if total < cpu_s or (is_working and now - answered >= 1):
            answered, cpu_s = now, total
        if len(signals) > 1 or now - answered > ANSWER_TIMEOUT_S or now - started > STOP_TIMEOUT_S:
            names = tuple(member.name for member in members)
            for member in members:
                _signal(member.pid, signal.SIGKILL)
            deadline = now + ANSWER_TIMEOUT_S
            while _reaped(child, before) and time.monotonic() < deadline:
                time.sleep(POLL_S)
            return names
        time.sleep(POLL_S)
    return ()


def _reaped(child: subprocess.Popen[bytes], before: set[int]) -> list[Member]:
    """Return the processes that run, after those that have ended are reaped."""
    members = _tree(before)
    for member in members:
        if member.state == "Z" and member.pid != child.pid:
            with suppress(ChildProcessError):  # a child of another member, which reaps it
                os.waitpid(member.pid, os.WNOHANG)
    child.poll()
    return [member for member in members if member.state not in "ZX"]


def _tree(before: set[int]) -> list[Member]:
    """Return all processes below this one, less the children that it had before."""
    members: dict[int, Member] = {}
    children: dict[int, list[int]] = {}
    for pid, parent, member in _processes():
        members[pid] = member
        children.setdefault(parent, []).append(pid)
    pids = [pid for pid in children.get(os.getpid(), []) if pid not in before]
    for pid in pids:  # grows while it is read
        pids += children.get(pid, [])
    return [members[pid] for pid in pids]


def _children() -> list[int]:
    return [pid for pid, parent, _ in _processes() if parent == os.getpid()]


def _processes() -> Iterator[tuple[int, int, Member]]:
    """Yield (process, parent, description) of all processes."""
    ticks = os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # behind the name: state, parent, ..., user and system time at 11 and 12; see proc_pid_stat(5)
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            yield pid, int(fields[1]), Member(pid, fields[0], (int(fields[11]) + int(fields[12])) / ticks)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
