"""Run llm-compressor in a process of its own.

It wants an older transformers than this project, so it has an environment beside it. Only safetensors go between the
two; this environment reads them with the package `compressed-tensors`, the extra `compressed`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.errors import HardwareError
from trainer.export.merge import open_to_all
from trainer.model.foreign.safetensors_header import DamagedFileError, stored_tensors
from trainer.recipe.export import Compress
from trainer.tokens.store import TokenStore

FOLDER = Path(sys.prefix) / "llm-compressor"
PINS = ("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "transformers==5.17.0", "torch==2.13.0")
"""What is tested together; llm-compressor 0.14 wants transformers<=5.17.0."""
INSTALL = f"{sys.executable} -m venv {FOLDER} && {FOLDER}/bin/python -m pip install {' '.join(PINS)}"
INSTALL_READER = f"{sys.executable} -m pip install -c constraints.txt 'recipe-trainer[compressed]'"
Compressed = Literal["fp8", "awq", "gptq"]
"""Formats that llm-compressor writes."""
DTYPES: dict[Compressed, str] = {"fp8": "float8_e4m3fn", "awq": "int4", "gptq": "int4"}
"""By format, the type of the weights."""
CALIBRATED = ("awq", "gptq")
"""Formats that look at rows."""
WORKER = Path(__file__).with_name("worker.py")
PROBE = "import importlib.metadata; print(importlib.metadata.version('llmcompressor'))"
PROBE_TIMEOUT_S = 60
TIMEOUT_S = 4 * 3600


def check_compressor(kind: str, configured: str | None, base: Path) -> None:
    """Look whether this machine can write and reopen compressed weights, before anything else is done.

    Args:
        kind: A key of `DTYPES`.
        configured: `export.compress.python`; None for the environment in `FOLDER`.
        base: Folder of the base model.

    Raises:
        HardwareError: Something is missing, which the hint installs; or the model is a mixture of experts.
    """
    if _has_experts(base):
        raise HardwareError(
            f"{kind}: a mixture of experts, which llm-compressor takes apart and transformers cannot open again",
            hint=f"leave {kind} out of export.formats",
        )
    python = find_python(kind, configured)
    try:
        probe = subprocess.run(
            [str(python), "-I", "-c", PROBE], capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
        )
        has_package = probe.returncode == 0 and bool(probe.stdout.strip())
    except (OSError, subprocess.TimeoutExpired):
        has_package = False  # no program, or none that is Python
    if not has_package:
        raise HardwareError(f"{kind}: {python} has no llm-compressor", hint=INSTALL)
    if importlib.util.find_spec("compressed_tensors") is None:
        raise HardwareError(
            f"{kind}: the package compressed-tensors, which reads such weights, is missing", hint=INSTALL_READER
        )


def _has_experts(base: Path) -> bool:
    try:
        return any(".experts." in tensor.name for path in base.glob("*.safetensors") for tensor in stored_tensors(path))
    except DamagedFileError as error:
        raise HardwareError(f"base model: {error}", hint="get its files anew, and train again") from error


def find_python(kind: str, configured: str | None) -> Path:
    """Return the interpreter of llm-compressor's environment.

    Args:
        kind: A key of `DTYPES`.
        configured: `export.compress.python`; None for the environment in `FOLDER`.

    Raises:
        HardwareError: It is not there.
    """
    path = FOLDER / "bin" / "python" if configured is None else Path(configured).expanduser()
    if os.access(path, os.X_OK) and path.is_file():
        return path
    if configured is None:
        raise HardwareError(f"{kind}: llm-compressor is not installed: no {path}", hint=INSTALL)
    raise HardwareError(
        f"export.compress.python: no such program: {path}",
        hint=f"give the interpreter of an environment with llm-compressor, or leave the key out and install: {INSTALL}",
    )


def calibration_rows(store: TokenStore, section: Compress, seed: int) -> list[list[int]]:
    """Return the token ids of a seeded choice of training rows, cut to `max_length`.

    Args:
        store: Training rows; of preference pairs the chosen answer is taken.
        section: `export.compress`.
        seed: Of the recipe.
    """
    # in file order: the choice is random, the order of calibration need not be
    chosen = np.random.default_rng(seed).permutation(len(store))[: section.num_rows]
    return [list(_tokens(store, index))[: section.max_length] for index in sorted(chosen.tolist())]


def _tokens(store: TokenStore, index: int) -> Iterator[int]:
    for ids, _ in store.pieces(index)[:2]:  # prompt and chosen of a pair, all of any other row
        yield from ids.tolist()


def write_compressed(
    kind: str, merged: Path, target: Path, section: Compress, rows: Sequence[Sequence[int]], *, max_shard_gb: float
) -> dict[str, Any]:
    """Write merged weights compressed.

    Args:
        kind: A key of `DTYPES`.
        merged: Folder with merged weights.
        target: Folder to write.
        section: `export.compress`.
        rows: Token ids; only the formats in `CALIBRATED` look at them.
        max_shard_gb: Largest file, in GB.

    Returns:
        `llmcompressor`, its version; `scheme`, and of 4 bits `group_size` and `calibration_rows`.

    Raises:
        HardwareError: llm-compressor is missing, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="trainer-calibration-") as folder:
        # -I: neither PYTHONPATH nor the folder of the script comes before the packages of that environment
        command = [str(find_python(kind, section.python)), "-I", str(WORKER)]
        command += [str(merged.absolute()), str(target.absolute()), kind, str(max_shard_gb)]
        if kind in CALIBRATED:
            rows_path = Path(folder) / "rows.json"
            rows_path.write_text(json.dumps(rows))
            command.append(str(rows_path))
        facts: dict[str, Any] = json.loads(_run(kind, command).splitlines()[-1])
    open_to_all(target)
    return facts | ({"calibration_rows": len(rows)} if kind in CALIBRATED else {})


def _run(kind: str, command: list[str]) -> str:
    """Return what llm-compressor printed.

    Raises:
        HardwareError: It failed.
    """
    alone = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    leave = f"leave {kind} out of export.formats"
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=alone, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HardwareError(
            f"{kind}: llm-compressor was stopped after {TIMEOUT_S // 3600} hours", hint=leave
        ) from error
    if process.returncode < 0:
        raise HardwareError(
            f"{kind}: llm-compressor was killed by signal {-process.returncode}; the kernel sends 9 when out of memory",
            hint=f"free some memory, or {leave}",
        )
    if process.returncode:
        raise HardwareError(f"{kind}: llm-compressor failed: {_reason(process.stderr)}", hint=leave)
    return process.stdout


def _reason(log: str) -> str:
    """Return the line of a traceback that names the error: what follows it is advice."""
    errors = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", log, re.MULTILINE)
    return errors[-1] if errors else (log.strip() or "it said nothing").splitlines()[-1]
