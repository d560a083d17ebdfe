"""Measure time, memory and matrix products: cpu-seconds on the CPU, synchronised wall time on a card."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

STATUS = Path("/proc/self/status")
GEMM_SIZE = {"cpu": 1024, "cuda": 8192}
GEMM_SECONDS = 0.5


def on_cuda() -> bool:
    """Tell whether there is a card."""
    return bool(torch.cuda.is_available())


def device_name() -> str:
    """Return the name of the card; nothing on the CPU."""
    return str(torch.cuda.get_device_name()) if on_cuda() else ""


def now() -> float:
    """Return seconds: of this process's threads on the CPU, of the wall once the card is idle."""
    if not on_cuda():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def since_start(started: float) -> float:
    """Return seconds from the start of this process; `started` is its wall time, in seconds since the epoch."""
    return time.time() - started if on_cuda() else time.process_time()


def reset_peak() -> None:
    """Begin a new peak of the card's memory; the CPU keeps the one of the whole process."""
    if on_cuda():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Return the most memory held: allocated on the card, or resident in this process."""
    if on_cuda():
        return int(torch.cuda.max_memory_allocated())
    # not getrusage: its maximum begins with what the parent held when it started this process
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def gemm() -> dict[str, Any]:
    """Measure a square matrix product in the type that training uses by default.

    Returns:
        `flops` (multiplications and additions a second), `dtype` and `size`.
    """
    device = "cuda" if on_cuda() else "cpu"
    dtype = torch.bfloat16 if on_cuda() else torch.float32
    size = GEMM_SIZE[device]
    # one untimed product first: libraries choose their kernel at the first call
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    num_products, start = 0, now()
    while (seconds := now() - start) < GEMM_SECONDS:
        for _ in range(4):
            torch.mm(left, right)
        num_products += 4
    return {"flops": 2 * size**3 * num_products / seconds, "dtype": str(dtype).removeprefix("torch."), "size": size}
