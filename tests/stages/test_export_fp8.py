"""`export` writes fp8 of a run and proves it; without llm-compressor it refuses before anything is written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import tiny
from command import Project

from trainer.model.compress import compressor

pytestmark = pytest.mark.slow
LOOSE = "export.verify.quantised={max_mean_kl: 1, min_top1_agreement: 0.1, max_score_drop: 1}"
"""A random model of two layers loses more than a real one."""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Project:
    """A LoRA run up to eval."""
    project = Project(tmp_path_factory.mktemp("fp8"))
    training = {"max_steps": 4, "learning_rate": 1e-2}
    tiny.write_recipe(project.folder, model=tiny_model_dir, train=training, export={"formats": ["fp8"]})
    for verb in ("data", "pack", "train", "eval"):
        done = project.call(verb, worker=verb == "train")
        assert done.code == 0, done.text
    return project


@pytest.mark.skipif(
    not ((compressor.FOLDER / "bin" / "python").is_file() and importlib.util.find_spec("compressed_tensors")),
    reason="needs llm-compressor in its own environment: scripts/compress.sh",
)
def test_fp8_is_proven_and_the_merged_weights_go(evaluated: Project, tmp_path: Path) -> None:
    project = evaluated.copied_to(tmp_path)
    done = project.call("export", "--set", LOOSE, "--set", "export.dtype=bfloat16")
    assert done.code == 0, done.text
    proofs = json.loads((project.run / "export/verify.json").read_text())
    assert list(proofs) == ["fp8"] and proofs["fp8"]["passed"] and not (project.run / "export/merged").exists()
    assert proofs["fp8"]["dtype"] == "float8_e4m3fn" and proofs["fp8"]["llmcompressor"].startswith("0.14.")
    assert 'from_pretrained("."' in (project.run / "export/fp8/README.md").read_text()
    assert project.call("verify", recipe=project.run / "export/fp8").code == 0


def test_a_missing_compressor_ends_with_its_install_line(evaluated: Project, tmp_path: Path) -> None:
    project = evaluated.copied_to(tmp_path)
    done = project.call("export", "--set", f"export.compress.python={tmp_path / 'nothing'}")
    assert done.code == 5 and "export.compress.python: no such program" in done.err, done.text
    assert "pip install llmcompressor==" in done.err and done.err.count("fix:") == 1
    assert not (project.run / "export").exists()
