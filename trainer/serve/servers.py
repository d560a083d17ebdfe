"""Which existing server answers for a run, and the command that starts it. None of them is imported here.

vLLM          the adapter on its base, or the merged model; in an environment of its own, which pins other releases
transformers  `transformers serve` on the merged model; it cannot load an adapter folder
llama.cpp     `llama-server` on a GGUF file
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.errors import HardwareError, StageError
from trainer.model.source import locate
from trainer.recipe import Recipe
from trainer.recipe.model import LoraAdapter
from trainer.rundir import RunFolder
from trainer.serve.artefacts import exported, is_exported

Engine = Literal["auto", "vllm", "transformers", "llama.cpp"]

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Source: MaxLoRARanks in vllm/config/lora.py (0.27)."""
VLLM_MISSING = (
    "an environment of its own, as it pins other releases: python -m venv ~/vllm && ~/vllm/bin/pip install vllm, "
    "then --python ~/vllm/bin/python, or VLLM_PYTHON in the environment"
)
SERVE_PACKAGES = ("fastapi", "uvicorn", "openai", "pydantic")
PYTHON_TIMEOUT_S = 60


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """How a client on this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


@dataclass(frozen=True)
class Server:
    """A command that serves a run's model."""

    engine: str
    command: list[str]
    serves: str
    """What of the run it was given."""
    model: str
    """Name by which clients ask for the tuned model."""
    base: str | None = None
    """Name of the untuned model at the same address, where it is served too."""
    follows_schema: bool = True
    """It can hold answers to a JSON Schema (`response_format`)."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """What a server is made for."""

    recipe: Recipe
    run: RunFolder
    address: Address
    folder: Path
    """A folder for this server alone, which it is started in."""
    arguments: str
    """The recipe, as a fix repeats it."""


def choose(place: Place, engine: Engine, python: str | None) -> Server:
    """Return the server: vLLM where it is installed, else transformers on the merged model, else llama.cpp.

    Raises:
        HardwareError: The server that was asked for is not installed.
        StageError: What it serves is not exported.
    """
    if engine == "vllm" or (engine == "auto" and (python or os.environ.get("VLLM_PYTHON") or _has("vllm"))):
        return vllm(place, python or os.environ.get("VLLM_PYTHON") or sys.executable)
    is_gguf_alone = is_exported(place.run, "gguf") and not is_exported(place.run, "merged")
    if engine == "llama.cpp" or (engine == "auto" and is_gguf_alone):
        return llama_cpp(place)
    return transformers(place)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _template_kwargs(place: Place) -> str | None:
    kwargs = place.recipe.model.chat_template_kwargs
    return json.dumps(kwargs) if kwargs else None


def _listen(place: Place) -> list[str]:
    return ["--host", place.address.host, "--port", str(place.address.port)]


# vLLM


def vllm(place: Place, python: str) -> Server:
    """Serve the adapter on its base where vLLM can, else the merged model.

    Raises:
        HardwareError: That Python has no vLLM.
        StageError: Neither is exported.
    """
    _check_vllm(python)
    served = _adapter_for_vllm(place)
    common = _listen(place)
    if kwargs := _template_kwargs(place):
        common += ["--default-chat-template-kwargs", kwargs]
    if place.recipe.model.trust_remote_code:
        common.append("--trust-remote-code")
    start = [python, "-m", "vllm.entrypoints.cli.main", "serve"]
    name = place.recipe.name
    if isinstance(served, str):
        merged = exported(place.run, "merged", place.arguments).absolute()
        command = [*start, str(merged), "--served-model-name", name, *common]
        return Server("vLLM", command, f"export/merged ({served})", name)
    command = [*start, *_vllm_base(place), *_vllm_adapter(place, *served), *common]
    return Server("vLLM", command, "export/adapter on its base", name, base=f"{name}-base")


def _check_vllm(python: str) -> None:
    look = [python, "-I", "-c", "from importlib.metadata import version; print(version('vllm'))"]
    try:
        found = subprocess.run(look, capture_output=True, text=True, timeout=PYTHON_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HardwareError(f"{python} cannot be started: {error}", hint=VLLM_MISSING) from error
    if found.returncode:
        raise HardwareError(f"vLLM is not installed for {python}", hint=VLLM_MISSING)


def _adapter_for_vllm(place: Place) -> tuple[Path, dict[str, Any]] | str:
    """Return the adapter and its settings, or why vLLM has to take the merged model."""
    if not isinstance(place.recipe.adapter, LoraAdapter):
        return "all weights were trained"
    if not is_exported(place.run, "adapter"):
        return "the adapter is not exported"
    if locate(place.recipe.model.name_or_path).kind == "gguf":
        return "vLLM loads no adapter onto a GGUF base"
    folder = exported(place.run, "adapter", place.arguments).absolute()
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return vllm_refuses(settings) or (folder, settings)


def vllm_refuses(settings: dict[str, Any]) -> str | None:
    """Say why vLLM cannot load an adapter with these PEFT settings; None where it can.

    Source: PEFTHelper in vllm/lora/peft_helper.py.
    """
    faults = {
        "it has DoRA": settings.get("use_dora"),
        "it brings whole layers (modules_to_save)": settings.get("modules_to_save"),
        "it brings trained tokens": settings.get("trainable_token_indices"),
        "it has biases": settings.get("bias", "none") != "none" or settings.get("lora_bias"),
        "its start was not plain LoRA's": settings.get("init_lora_weights", True) not in (True, False, "gaussian"),
        "it adapts embeddings": _adapts_embeddings(settings.get("target_modules")),
        f"its rank is over {VLLM_RANKS[-1]}": _rank(settings) > VLLM_RANKS[-1],
    }
    return next((f"vLLM cannot load the adapter: {reason}" for reason, holds in faults.items() if holds), None)


def _adapts_embeddings(modules: object) -> bool:
    names = modules if isinstance(modules, list) else [str(modules)]
    return any("embed" in name or "lm_head" in name for name in names)


def _rank(settings: dict[str, Any]) -> int:
    return max([int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values())])


def _vllm_base(place: Place) -> list[str]:
    source = locate(place.recipe.model.name_or_path, revision=place.recipe.model.revision)
    named = ["--served-model-name", f"{place.recipe.name}-base"]
    if source.path is not None:
        return [str(source.path.absolute()), *named]
    return [source.name, *named, *(["--revision", source.revision] if source.revision else [])]


def _vllm_adapter(place: Place, folder: Path, settings: dict[str, Any]) -> list[str]:
    """Return the flags of the adapter; template, stop tokens and tokenizer come from its folder, not the base."""
    rank = next(limit for limit in VLLM_RANKS if limit >= _rank(settings))
    flags = ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{place.recipe.name}={folder}"]
    flags += ["--tokenizer", str(folder)] if (folder / "tokenizer.json").is_file() else []
    flags += ["--generation-config", str(folder)] if (folder / "generation_config.json").is_file() else []
    template = folder / "chat_template.jinja"
    return flags + (["--chat-template", str(template)] if template.is_file() else [])


# transformers


def transformers(place: Place) -> Server:
    """Serve the merged model.

    Raises:
        HardwareError: The packages of its server are missing.
        StageError: Nothing merged is exported.
    """
    missing = [name for name in SERVE_PACKAGES if not _has(name)]
    if missing:
        raise HardwareError(
            f"`transformers serve` needs {', '.join(missing)}",
            hint="python -m pip install -c constraints.txt 'recipe-trainer[serve]', or --engine vllm",
        )
    merged = exported(place.run, "merged", place.arguments).absolute()
    name = place.recipe.name
    lay_out(place.folder, name, merged)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", name, *_listen(place)]
    if kwargs := _template_kwargs(place):
        command += ["--chat-template-kwargs", kwargs]
    if place.recipe.model.trust_remote_code:
        command.append("--trust-remote-code")
    alone = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(place.folder / "hub"),
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
    kept = folder / "hub" / f"models--{name}"
    snapshot = kept / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in merged.iterdir():
        (snapshot / path.name).symlink_to(path)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "blobs").mkdir()


# llama.cpp


def llama_cpp(place: Place) -> Server:
    """Serve a GGUF file: the 8-bit one where there is a choice.

    Raises:
        HardwareError: There is no `llama-server`.
        StageError: No GGUF file is exported.
    """
    program = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
    if program is None:
        raise HardwareError(
            "llama.cpp's server (`llama-server`) is not on the PATH",
            hint="build or install llama.cpp, and name the program in LLAMA_SERVER; or --engine transformers",
        )
    folder = exported(place.run, "gguf", place.arguments).absolute()
    files = sorted(folder.glob("*.gguf"), key=lambda path: ("q8_0" not in path.name.lower(), path.name))
    if not files:
        raise StageError(f"{folder}: no .gguf file", hint=f"trainer export {place.arguments}")
    name = place.recipe.name
    command = [program, "--model", str(files[0]), "--alias", name, "--jinja", *_listen(place)]
    if kwargs := _template_kwargs(place):
        command += ["--chat-template-kwargs", kwargs]
    return Server("llama.cpp", command, f"export/gguf/{files[0].name}", name)
