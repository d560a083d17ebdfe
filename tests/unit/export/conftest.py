"""Random models for the tests of the proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.export.proving import make_model, write_formats, write_trained
from trainer.export.request import Export


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Callable[[str], Path]:
    """Gives the folder of a random model of a family."""
    project: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in project:
            project[family] = tmp_path_factory.mktemp(family)
            make_model(family, tiny_tokenizer).save_pretrained(project[family])
            tiny_tokenizer.save_pretrained(project[family])
        return project[family]

    return folder


@pytest.fixture(scope="session")
def proven(
    tmp_path_factory: pytest.TempPathFactory, base: Callable[[str], Path], tiny_tokenizer: Any
) -> tuple[Path, Path, list[Export]]:
    """An adapter and its merge that pass; (base, trained, exports)."""
    path, folder = tmp_path_factory.mktemp("proven"), base("Llama")
    trained = write_trained("lora", folder, path / "trained")
    return folder, trained, write_formats("lora", folder, trained, path, tiny_tokenizer)
