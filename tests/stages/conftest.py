"""A trained run whose evaluation is cheap to repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Project
from tests.trained import Trained
from trainer.scoring.generation.endpoint import EndpointModel
from trainer.scoring.generation.local import LocalModel


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Trained:
    """24 rows, 8 of them held out, and two steps of training; do not change it, see `trained`."""
    return Trained(Project(tmp_path_factory.mktemp("trained")), tiny_model_dir).prepare()


@pytest.fixture
def trained(trained_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """A copy of the trained run, with a cache of answers of its own."""
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    return Trained(trained_run.project.copied_to(tmp_path), trained_run.model)


@pytest.fixture
def fresh(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """Trains on rows of the test's own: `fresh(rows, data=..., ...)`."""
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))

    def prepare(rows: list[dict[str, Any]] | None = None, **changes: Any) -> Trained:
        return Trained(Project(tmp_path), tiny_model_dir, **changes).prepare(rows)

    return prepare


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many prompts the models of this process were asked, call by call."""
    counts: list[int] = []
    for kind in (LocalModel, EndpointModel):
        real = kind.answers

        def counted(self: Any, prompts: Any, real: Any = real, **options: Any) -> Any:
            counts.append(len(prompts))
            return real(self, prompts, **options)

        monkeypatch.setattr(kind, "answers", counted)
    yield counts
