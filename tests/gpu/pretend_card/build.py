"""Compile the pretend card against the installed torch, once for each version of both."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

SOURCE = Path(__file__).with_name("card.cpp")
BUILT = Path(__file__).parents[3] / "build" / "pretend_card"
TIMEOUT_S = 600


def missing() -> str | None:
    """Return why the card cannot be compiled here; None where it can."""
    if shutil.which("g++") is None:
        return "no C++ compiler (g++) to make the pretend card"
    if "+cpu" not in version("torch"):
        return f"the pretend card stands for a real one in CPU builds of torch, this is {version('torch')}"
    return None


def library() -> Path:
    """Return the compiled card; another process that compiles at the same time does no harm."""
    digest = hashlib.sha256(SOURCE.read_bytes() + version("torch").encode()).hexdigest()[:16]
    path = BUILT / f"card-{digest}.so"
    if path.is_file():
        return path
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch = Path(spec.origin).parent
    includes = [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
    links = [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    staged = path.with_suffix(f".{os.getpid()}.tmp")
    staged.parent.mkdir(parents=True, exist_ok=True)
    options = ["-O1", "-std=c++20", "-shared", "-fPIC", "-w"]
    command = ["g++", *options, str(SOURCE), "-o", str(staged), *includes, *links]
    compiler = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert compiler.returncode == 0, compiler.stderr[-3000:]
    staged.replace(path)
    return path


def environment(*, gib: float = 16, card: str = "NVIDIA H100 80GB HBM3", capability: str = "9.0") -> dict[str, str]:
    """Return the variables with which every Python process sees the pretend card.

    Args:
        gib: Memory of the card.
        card: Its name.
        capability: Its compute capability.
    """
    path = os.environ.get("PYTHONPATH")
    site = str(Path(__file__).with_name("site"))
    return os.environ | {
        "PYTHONPATH": f"{site}:{path}" if path else site,
        "PRETEND_CARD": f"{library()}|{gib}|{card}|{capability}",
        "CUDA_VISIBLE_DEVICES": "0",
    }
