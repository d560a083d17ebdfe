"""Set up the tests: offline, one thread, a cache of their own, tiny models for all."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Before torch, transformers and huggingface_hub are imported, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TRAINER_CACHE"] = tempfile.mkdtemp(prefix="trainer-tests-cache-")
atexit.register(shutil.rmtree, os.environ["TRAINER_CACHE"], ignore_errors=True)
for name in ("TRAINER_RUNS", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"):
    os.environ.pop(name, None)

from tests import command, tiny  # noqa: E402
from tests.explicit_ids import pytest_make_parametrize_id  # noqa: E402

__all__ = ["pytest_make_parametrize_id"]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of about 600 tokens with recipes/templates/chatml-tools.jinja; do not change it."""
    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A folder with a random Llama of two layers in float32, and the tokenizer; do not change it."""
    return tiny.make_model(tmp_path_factory.mktemp("tiny-model"), tiny_tokenizer)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> command.Project:
    """A LoRA run of 24 steps, made by `trainer run` in a process of its own; do not change it, see `finished`."""
    project = command.Project(tmp_path_factory.mktemp("finished"))
    tiny.write_recipe(
        project.folder,
        model=tiny_model_dir,
        adapter={"dropout": 0.1},
        data={"split": {"validation": 0.2}},
        train={"max_steps": 24, "save_steps": 2, "eval_steps": 12},
    )
    result = project.spawn("run", str(project.recipe))
    assert result.code == 0, result.text
    (project.folder / "output.txt").write_text(result.out)
    return project


@pytest.fixture
def finished(finished_run: command.Project, tmp_path: Path) -> command.Project:
    """A copy of the finished run, with recipe and rows, in `tmp_path`."""
    return finished_run.copied_to(tmp_path)
