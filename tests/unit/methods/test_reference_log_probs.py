"""Reference log-probabilities kept between runs: the right ones or none, and a cache that fails stops nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from trainer.methods.reference_log_probs import cached
from trainer.model import adapter as adapters
from trainer.model.load import commit

ALONE = SimpleNamespace(device="cpu", is_main_process=True, reduce=lambda tensor, _: tensor)
NUMBERS = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])


def kept(folder: Path, lines: list[str]) -> torch.Tensor:
    return cached(folder, "key", NUMBERS.clone, accelerator=ALONE, say=lines.append)


def test_numbers_are_computed_once(tmp_path: Path) -> None:
    lines: list[str] = []
    assert torch.equal(kept(tmp_path, lines), NUMBERS) and torch.equal(kept(tmp_path, lines), NUMBERS)
    assert "computed once" in lines[0] and "from the cache" in lines[1] and len(lines) == 2


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    kept(tmp_path, [])
    [path] = (tmp_path / "reference").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    lines: list[str] = []
    assert torch.equal(kept(tmp_path, lines), NUMBERS) and "computed once" in lines[0]


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "reference").write_text("a file where the folder should be")
    lines: list[str] = []
    assert torch.equal(kept(tmp_path, lines), NUMBERS)
    assert "not kept" in lines[-1]


def test_the_settings_of_a_start_adapter_tell_two_apart(tmp_path: Path) -> None:
    def written(name: str, **changes: object) -> str:
        folder = tmp_path / name
        folder.mkdir()
        save_file({"x.lora_A.weight": torch.zeros(4, 2)}, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": name} | changes
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return str(folder)

    first = adapters.settings(written("a"))
    assert first == adapters.settings(written("b")) != adapters.settings(written("c", lora_alpha=16))


def test_a_branch_of_a_hub_model_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--model"
    for letter in "ab":
        (repository / "snapshots" / (letter * 40)).mkdir(parents=True)
        (repository / "snapshots" / (letter * 40) / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    for letter in "ab":
        (repository / "refs/main").write_text(letter * 40)
        assert commit("some/model", None) == letter * 40
    assert commit("some/model", "a" * 40) == "a" * 40
