"""`export` writes and proves what llm-compressor makes of a run; without it nothing is written."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Project
from trainer.errors import HardwareError
from trainer.export import formats, write
from trainer.export.compress import compressor
from trainer.tokens.store import TokenStore

pytestmark = pytest.mark.slow
LOOSE = "export.verify.quantised={max_mean_kl: 1, min_top1_agreement: 0.1, max_score_drop: 1}"
"""A random model of two layers loses more than a real one."""


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Project:
    """A LoRA run up to eval."""
    project = Project(tmp_path_factory.mktemp("compressed"))
    training = {"max_steps": 4, "learning_rate": 1e-2}
    tiny.write_recipe(project.folder, model=tiny_model_dir, train=training, data={"split": {"heldout": 0.3}})
    for verb in ("data", "pack", "train", "eval"):
        result = project.call(verb, worker=verb == "train")
        assert result.code == 0, result.text
    return project


@pytest.mark.skipif(
    not ((compressor.FOLDER / "bin" / "python").is_file() and importlib.util.find_spec("compressed_tensors")),
    reason="needs llm-compressor in its own environment: scripts/compress.sh",
)
def test_every_format_is_proven_and_the_merged_weights_go(evaluated: Project, tmp_path: Path) -> None:
    project = evaluated.copied_to(tmp_path)
    sets = [LOOSE, "export.dtype=bfloat16", "export.formats=[fp8,awq,gptq]", "export.compress.num_rows=9"]
    result = project.call("export", *[part for item in sets for part in ("--set", item)])
    assert result.code == 0, result.text
    proofs = json.loads((project.run / "export/verify.json").read_text())
    assert sorted(proofs) == ["awq", "fp8", "gptq"] and not (project.run / "export/merged").exists()
    for name, proof in proofs.items():
        assert proof["passed"] and proof["llmcompressor"].startswith("0.14.")
        card = (project.run / "export" / name / "README.md").read_text()
        assert 'from_pretrained("."' in card and f"`{proof['scheme']}`" in card
        assert project.call("verify", recipe=project.run / "export" / name).code == 0
        if name != "fp8":
            assert (proof["dtype"], proof["group_size"], proof["calibration_rows"]) == ("int4", 64, 9)
            assert "a scale for every 64 weights, calibrated on 9 training rows" in card
    assert proofs["fp8"]["dtype"] == "float8_e4m3fn"


def test_only_training_rows_calibrate(evaluated: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = evaluated.copied_to(tmp_path)
    inputs: dict[str, list[list[int]]] = {}

    def noted(kind: str, *arguments: Any, **_: Any) -> None:
        inputs[kind] = arguments[3]
        raise HardwareError("far enough", hint="none")

    monkeypatch.setattr(formats, "check_compressor", lambda *_: None)
    monkeypatch.setattr(write, "write_compressed", noted)
    sets = ["export.formats=[gptq]", "export.compress={num_rows: 5, max_length: 30}"]
    assert project.call("export", *[part for item in sets for part in ("--set", item)]).code == 5
    train, heldout = (rows_of(project.run / f"pack/{name}.safetensors") for name in ("train", "heldout"))
    assert len(inputs["gptq"]) == 5 and all(row in [item[:30] for item in train] for row in inputs["gptq"])
    assert len(heldout) > 0 and not any(row == item[:30] for row in inputs["gptq"] for item in heldout)


def rows_of(path: Path) -> list[list[int]]:
    store = TokenStore.load(path)
    return [store.input_ids[low:high].tolist() for low, high in pairwise(store.offsets)]


def test_a_missing_compressor_ends_with_its_install_line(evaluated: Project, tmp_path: Path) -> None:
    project = evaluated.copied_to(tmp_path)
    for kind in ("fp8", "awq", "gptq"):
        sets = [f"export.formats=[{kind}]", f"export.compress.python={tmp_path / 'nothing'}"]
        result = project.call("export", *[part for item in sets for part in ("--set", item)])
        assert result.code == 5 and "export.compress.python: no such program" in result.err, result.text
        assert "pip install llmcompressor==" in result.err and result.err.count("fix:") == 1
        assert not (project.run / "export").exists()
