"""llama.cpp's server on a GGUF file: the program `llama-server`, or the same out of the package xllamacpp."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from trainer.errors import HardwareError, StageError
from trainer.verbs.serve.artefacts import exported
from trainer.verbs.serve.server import Server, ServerContext, package_in

PACKAGE = "xllamacpp"
MISSING = (
    f"python -m pip install {PACKAGE} (a wheel of 34 MB, nothing to compile), or name the Python that has it with "
    "--python, or a llama-server of your own in LLAMA_SERVER; or --engine transformers"
)


def llama_cpp(context: ServerContext, python: str | None) -> Server:
    """Serve a GGUF file: the 8-bit one where there is a choice.

    Args:
        context: What is served.
        python: A Python that has xllamacpp; None: a `llama-server` is looked for first, then this Python.

    Raises:
        HardwareError: There is no server.
        StageError: No GGUF file is exported.
    """
    start = _start(python)
    folder = exported(context.run, "gguf", context.arguments).absolute()
    files = sorted(folder.glob("*.gguf"), key=lambda path: ("q8_0" not in path.name.lower(), path.name))
    if not files:
        raise StageError(f"{folder}: no .gguf file", hint=f"trainer export {context.arguments}")
    name = context.recipe.name
    command = [*start, "--model", str(files[0]), "--alias", name, "--jinja", *context.listen]
    if kwargs := context.template_kwargs:
        command += ["--chat-template-kwargs", kwargs]
    return Server("llama.cpp", [*command, *context.passed], f"export/gguf/{files[0].name}", name)


def _start(python: str | None) -> list[str]:
    program = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if program is not None and python is None:
        return [program]
    python = python or sys.executable
    if package_in(python, PACKAGE, MISSING) is None:
        raise HardwareError(f"llama.cpp's server is neither on the PATH nor, as {PACKAGE}, in {python}", hint=MISSING)
    return [python, str(Path(__file__).with_name("xllamacpp_server.py"))]
