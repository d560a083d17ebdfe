"""llm-compressor in a process of its own.

It wants an older transformers than this project, so it has an environment beside it. Only safetensors go between the
two; this environment reads them with the package `compressed-tensors`, the extra `compressed`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from trainer.errors import HardwareError
from trainer.model.merge import open_to_all

FOLDER = Path(sys.prefix) / "llm-compressor"
PINS = ("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "transformers==5.17.0", "torch==2.13.0")
"""What is tested together; llm-compressor 0.14 wants transformers<=5.17.0."""
INSTALL = f"{sys.executable} -m venv {FOLDER} && {FOLDER}/bin/python -m pip install {' '.join(PINS)}"
INSTALL_READER = f"{sys.executable} -m pip install -c constraints.txt 'recipe-trainer[compressed]'"
SCHEMES = {"fp8": "FP8_DYNAMIC"}
"""By format, llm-compressor's name: weights float8_e4m3fn with a scale a row, activations scaled as they come."""
DTYPES = {"fp8": "float8_e4m3fn"}
WORKER = Path(__file__).with_name("worker.py")
VERSION = "import importlib.metadata as m; print(m.version('llmcompressor'))"
TIMEOUT_S = 4 * 3600


def check_compressor(given: str | None) -> str:
    """Look whether this machine can write and reopen compressed weights, before anything else is done.

    Args:
        given: `export.compress.python`; None for the environment in `FOLDER`.

    Returns:
        The version of llm-compressor.

    Raises:
        HardwareError: Something is missing; the hint installs it.
    """
    python = find_python(given)
    asked = subprocess.run([str(python), "-I", "-c", VERSION], capture_output=True, text=True, timeout=60, check=False)
    if asked.returncode:
        raise HardwareError(f"fp8: {python} has no llm-compressor", hint=INSTALL)
    if importlib.util.find_spec("compressed_tensors") is None:
        raise HardwareError(
            "fp8: the package compressed-tensors, which reads such weights, is missing", hint=INSTALL_READER
        )
    return asked.stdout.strip()


def find_python(given: str | None) -> Path:
    """Return the interpreter of llm-compressor's environment.

    Args:
        given: `export.compress.python`; None for the environment in `FOLDER`.

    Raises:
        HardwareError: It is not there.
    """
    path = FOLDER / "bin" / "python" if given is None else Path(given).expanduser()
    if os.access(path, os.X_OK) and path.is_file():
        return path
    if given is None:
        raise HardwareError(f"fp8: llm-compressor is not installed: no {path}", hint=INSTALL)
    raise HardwareError(
        f"export.compress.python: no such program: {path}",
        hint=f"give the interpreter of an environment with llm-compressor, or leave the key out and install: {INSTALL}",
    )


def write_compressed(kind: str, merged: Path, target: Path, *, python: str | None, max_shard_gb: float) -> None:
    """Write merged weights compressed.

    Args:
        kind: A key of `SCHEMES`.
        merged: Folder with merged weights.
        target: Folder to write.
        python: `export.compress.python`.
        max_shard_gb: Largest file, in GB.

    Raises:
        HardwareError: llm-compressor is missing, or failed.
    """
    # -I: neither PYTHONPATH nor the folder of the script comes before the packages of that environment
    command = [str(find_python(python)), "-I", str(WORKER)]
    command += [str(merged.absolute()), str(target.absolute()), SCHEMES[kind], str(max_shard_gb)]
    alone = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    leave = f"leave {kind} out of export.formats"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=alone, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HardwareError(
            f"{kind}: llm-compressor was stopped after {TIMEOUT_S // 3600} hours", hint=leave
        ) from error
    if done.returncode < 0:
        raise HardwareError(
            f"{kind}: llm-compressor was killed by signal {-done.returncode}; 9 is what the kernel sends when memory "
            "runs out",
            hint=f"free some memory, or {leave}",
        )
    if done.returncode:
        raise HardwareError(f"{kind}: llm-compressor failed: {_reason(done.stderr)}", hint=leave)
    open_to_all(target)


def _reason(said: str) -> str:
    """Return the line of a traceback that names the error: what follows it is advice."""
    named = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", said, re.MULTILINE)
    return named[-1] if named else (said.strip() or "it said nothing").splitlines()[-1]
