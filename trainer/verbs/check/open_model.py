"""Get the blueprint of a recipe's model: from the cache, or from a process that opens it without weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson

from trainer.digests import hash_value
from trainer.disk import cache_dir, write_json
from trainer.errors import HardwareError
from trainer.model.foreign.base_model import check_source
from trainer.model.foreign.config import check_config
from trainer.model.source import config_path, locate
from trainer.recipe import Recipe
from trainer.shapes.blueprint import Blueprint

LIMIT_S = 300
"""Seconds for one model; the largest that are published take about 30."""
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
SECTIONS = ("model", "adapter", "export", "launch")


class NotOpenedError(Exception):
    """The model's config.json is not on this machine."""


def open_model(recipe: Recipe, *, is_cuda: bool) -> Blueprint:
    """Return what a recipe makes of its model.

    A result without obstacles is kept in the cache by the digest of all that it depends on.

    Raises:
        NotOpenedError: config.json is not here: a hub model that was not downloaded.
        HardwareError: The model cannot be used, or opening it takes too long.
    """
    source = locate(recipe.model.name_or_path, revision=recipe.model.revision)
    config = source.path if source.kind == "gguf" else config_path(source)
    if config is None or not config.is_file():
        raise NotOpenedError(f"config.json of {source.name} is not in the local cache")
    if source.path is None:
        check_config(config)
    else:
        check_source(source)
    path = cache_dir() / "blueprints" / f"{_digest(recipe, config, is_cuda)}.json"
    if path.is_file():
        kept: Blueprint = orjson.loads(path.read_bytes())
        return kept
    blueprint = _opened(recipe, is_cuda=is_cuda)
    if not blueprint["obstacles"]:  # an obstacle may be a missing program, which is installed next
        write_json(path, blueprint)
    return blueprint


def _digest(recipe: Recipe, config: Path, is_cuda: bool) -> str:
    """Return the digest of configuration, recipe, libraries and our own code."""
    stat = config.stat()
    content = config.read_bytes() if config.suffix == ".json" else f"{stat.st_size} {stat.st_mtime_ns}".encode()
    values = recipe.model_dump(mode="json", include=set(SECTIONS))
    values["memory"] = [recipe.pack.max_length, recipe.train.gradient_checkpointing]
    for name in ("name_or_path", "revision"):  # the content counts
        del values["model"][name]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return hash_value([hashlib.sha256(content).hexdigest(), values, versions, _code_digest(), is_cuda])


def _code_digest() -> str:
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in ("engine", "model", "verbs/check", "export", "shapes"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _opened(recipe: Recipe, *, is_cuda: bool) -> Blueprint:
    """Open the model in a process of its own, with a time limit.

    Raises:
        HardwareError: It cannot be used, or the process takes too long or dies.
    """
    with tempfile.TemporaryDirectory(prefix="trainer-check-") as folder:
        recipe_path, result_path = Path(folder, "recipe.json"), Path(folder, "blueprint.json")
        recipe_path.write_bytes(orjson.dumps(recipe.model_dump(mode="json")))
        command = [sys.executable, "-m", "trainer.verbs.check.worker", str(recipe_path), str(result_path)]
        command += ["--cuda"] if is_cuda else []
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ | _ENVIRONMENT
            )
        except subprocess.TimeoutExpired as error:
            raise HardwareError(
                f"{recipe.model.name_or_path}: opening the model takes more than {LIMIT_S} s, without its weights",
                hint="compare config.json with the model's page, or leave this out: trainer check --quick RECIPE",
            ) from error
        result = orjson.loads(result_path.read_bytes()) if result_path.is_file() else None
    if isinstance(result, dict) and not ended.returncode:
        blueprint: Blueprint = result  # type: ignore[assignment]  # what our own process wrote
        return blueprint
    if isinstance(result, dict):
        raise HardwareError(result["message"], hint=result["hint"])
    last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    raise HardwareError(
        f"{recipe.model.name_or_path}: the model could not be opened: {last}",
        hint="compare config.json with the model's page; trainer check --quick RECIPE leaves this out",
    )


_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
}
