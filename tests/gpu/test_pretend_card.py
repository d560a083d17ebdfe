"""Tests of a card run on a pretend one, in processes of their own, where torch is built for the CPU.

The pretend card shows control flow, devices, types, waits and bytes. It has no kernels: what they compute, and how
fast, only a real card shows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.pretend_card import build

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(build.missing() is not None, reason=build.missing() or "-"),
]


def on_card(*arguments: str, gib: float = 16) -> str:
    command = [sys.executable, *arguments]
    variables = build.environment(gib=gib)
    variables["PYTHONPATH"] += f":{ROOT}"
    process = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-3000:]
    return process.stdout


def test_the_card_refuses_counts_and_runs_out() -> None:
    program = """
import torch
assert torch.cuda.is_available() and torch.zeros(2, device="cuda").device == torch.device("cuda", 0)
for mixed in (lambda: torch.ones(3, device="cuda") + torch.ones(3), lambda: torch.empty(1 << 29, device="cuda")):
    try: mixed()
    except RuntimeError as error: print(type(error).__name__, str(error)[:40])
before = torch.cuda.memory_allocated()
held = torch.empty(1000, device="cuda")
print(torch.cuda.memory_allocated() - before)
torch.cuda.set_sync_debug_mode("error")
try: held.sum().item()
except RuntimeError as error: print("waits" if "synchronizing" in str(error) else error)
"""
    lines = on_card("-c", program, gib=1).splitlines()
    assert lines[0].startswith("RuntimeError Expected all tensors to be on the same")
    assert lines[1].startswith("OutOfMemoryError CUDA out of memory")
    assert lines[2:] == ["4096", "waits"]


@pytest.mark.parametrize("name", ["test_gpu_start.py", "test_gpu_loop.py"])
def test_the_tests_of_a_card_pass_on_it(name: str) -> None:
    output = on_card("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/gpu/{name}")
    assert " passed" in output and "skipped" not in output.splitlines()[-1], output
