"""Describe the machine and the versions of its packages."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "numpy", "recipe-trainer")
OPTIONAL_PACKAGES = ("liger-kernel",)


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and, where the driver tells them, cards."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": pages * size,
        "cards": _cards(),
        "system": platform.system(),
        "load_1min": os.getloadavg()[0],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cards() -> list[str]:
    folder = Path("/proc/driver/nvidia/gpus")
    files = sorted(folder.glob("*/information")) if folder.is_dir() else []
    lines = [line for file in files for line in file.read_text().splitlines() if line.startswith("Model:")]
    return [line.partition(":")[2].strip() for line in lines]


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that are compared."""
    version_of = {"python": platform.python_version()}
    for package in (*PACKAGES, *OPTIONAL_PACKAGES):
        try:
            version_of[package] = version(package)
        except PackageNotFoundError:
            if package not in OPTIONAL_PACKAGES:
                version_of[package] = "not installed"
    return version_of
