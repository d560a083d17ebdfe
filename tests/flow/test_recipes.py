"""Every shipped recipe, from rows to a proven export, with only its model and its rows exchanged."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import tiny
from command import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The recipes as a user has them, with runs/ beside them."""
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copytree(tiny.ROOT / "recipes", folder / "recipes")
    for name in ("icd10cm-chapters", "toolcalls-tiny", "preferences-tiny"):
        path = folder / "recipes" / "data" / f"{name}.jsonl"
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(rows[:: max(1, len(rows) // 16)][:16]))
    return Project(folder)


@pytest.mark.parametrize(
    "name", ["quickstart", "lora-sft", "qlora-sft", "full-sft", "full-sft-one-card", "dpo", "qlora-dpo"]
)
def test_shipped_recipe_runs_end_to_end(name: str, project: Project, tiny_model_dir: Path) -> None:
    recipe = project.folder / "recipes" / f"{name}.yaml"
    options = ["--set", f"model.name_or_path={tiny_model_dir}"]
    for verb in ("data", "pack", "train"):
        result = project.call(verb, *options, recipe=recipe, worker=verb == "train")
        assert result.code == 0, result.text
    accept = ["--accept", "failed-gate"] if name == "quickstart" else []  # a random model meets no gate
    result = project.call("run", *options, *accept, recipe=recipe)
    assert result.code == 0, result.text
    run = project.runs / name
    proofs = json.loads((run / "export/verify.json").read_text())
    assert proofs and all(proof["passed"] for proof in proofs.values())
    assert all((run / "export" / form).is_dir() for form in proofs)
    if name == "qlora-dpo":
        first = json.loads((run / "train/metrics.jsonl").read_text().splitlines()[0])
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
