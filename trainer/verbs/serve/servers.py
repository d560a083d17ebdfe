"""Choose an existing server for a run, and build the command that starts it. None of them is imported here.

vLLM          the adapter on its base, or the merged model; in an environment of its own, which pins other releases
transformers  `transformers serve` on the merged model; it cannot load an adapter folder
llama.cpp     on a GGUF file
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Literal

from trainer.errors import HardwareError, StageError
from trainer.verbs.serve.artefacts import exported, is_exported
from trainer.verbs.serve.server import Server, ServerContext, has, package_in
from trainer.verbs.serve.vllm import vllm

Engine = Literal["auto", "vllm", "transformers", "llama.cpp"]

SERVE_PACKAGES = ("fastapi", "uvicorn", "openai", "pydantic")
LLAMA_CPP_PACKAGE = "xllamacpp"
LLAMA_CPP_MISSING = (
    f"python -m pip install {LLAMA_CPP_PACKAGE} (a wheel of 34 MB, nothing to compile), or name the Python that has it "
    "with --python, or a llama-server of your own in LLAMA_SERVER; or --engine transformers"
)


def choose(context: ServerContext, engine: Engine, python: str | None) -> Server:
    """Return the server: vLLM where it is installed, else transformers on the merged model, else llama.cpp.

    Raises:
        HardwareError: The server that was asked for is not installed.
        StageError: What it serves is not exported.
    """
    if engine == "vllm" or (engine == "auto" and (python or os.environ.get("VLLM_PYTHON") or has("vllm"))):
        return vllm(context, python or os.environ.get("VLLM_PYTHON") or sys.executable)
    is_gguf_alone = is_exported(context.run, "gguf") and not is_exported(context.run, "merged")
    if engine == "llama.cpp" or (engine == "auto" and is_gguf_alone):
        return llama_cpp(context, python)
    return transformers(context)


def transformers(context: ServerContext) -> Server:
    """Serve the merged model.

    Raises:
        HardwareError: The packages of its server are missing.
        StageError: Nothing merged is exported.
    """
    missing = [name for name in SERVE_PACKAGES if not has(name)]
    if missing:
        raise HardwareError(
            f"`transformers serve` needs {', '.join(missing)}",
            hint="python -m pip install -c constraints.txt 'recipe-trainer[serve]', or --engine vllm",
        )
    merged = exported(context.run, "merged", context.arguments).absolute()
    name = context.recipe.name
    lay_out(context.folder, name, merged)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", name, *context.listen]
    if kwargs := context.template_kwargs:
        command += ["--chat-template-kwargs", kwargs]
    if context.recipe.model.trust_remote_code:
        command.append("--trust-remote-code")
    command += context.passed
    alone = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(context.folder / "hub"),
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "PYTHONSAFEPATH": "1",
    }
    return Server("transformers", command, "export/merged", name, follows_schema=False, environment=alone)


def lay_out(folder: Path, name: str, merged: Path) -> None:
    """Let the merged model be found under its name in a folder.

    `transformers serve` takes as the model's name the path that it was given, so it gets one that clients can use;
    and it lists the models of the hub's cache, so it gets a cache that holds this one.
    """
    (folder / name).symlink_to(merged, target_is_directory=True)
    if "--" in name or ".." in name:
        (folder / "hub").mkdir()
        return
    cached_model = folder / "hub" / f"models--{name}"
    snapshot = cached_model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in merged.iterdir():
        (snapshot / path.name).symlink_to(path)
    (cached_model / "refs").mkdir()
    (cached_model / "refs" / "main").write_text("0" * 40)
    (cached_model / "blobs").mkdir()


def llama_cpp(context: ServerContext, python: str | None) -> Server:
    """Serve a GGUF file: the 8-bit one where there is a choice.

    Args:
        context: What is served.
        python: A Python that has xllamacpp; None: a `llama-server` is looked for first, then this Python.

    Raises:
        HardwareError: There is no server.
        StageError: No GGUF file is exported.
    """
    start = _llama_server(python)
    folder = exported(context.run, "gguf", context.arguments).absolute()
    files = sorted(folder.glob("*.gguf"), key=lambda path: ("q8_0" not in path.name.lower(), path.name))
    if not files:
        raise StageError(f"{folder}: no .gguf file", hint=f"trainer export {context.arguments}")
    name = context.recipe.name
    command = [*start, "--model", str(files[0]), "--alias", name, "--jinja", *context.listen]
    if kwargs := context.template_kwargs:
        command += ["--chat-template-kwargs", kwargs]
    return Server("llama.cpp", [*command, *context.passed], f"export/gguf/{files[0].name}", name)


def _llama_server(python: str | None) -> list[str]:
    program = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if program is not None and python is None:
        return [program]
    python = python or sys.executable
    if package_in(python, LLAMA_CPP_PACKAGE, LLAMA_CPP_MISSING) is None:
        raise HardwareError(
            f"llama.cpp's server is neither on the PATH nor, as {LLAMA_CPP_PACKAGE}, in {python}",
            hint=LLAMA_CPP_MISSING,
        )
    return [python, str(Path(__file__).with_name("xllamacpp_server.py"))]
