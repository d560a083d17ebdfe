"""Exports open where their base opens: the base's own files where nothing changed, older words for the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, Gemma3TextConfig

from trainer.export.older_readers import PROBES, write_older_config, write_tokenizer
from trainer.export.provenance import examine, template_sha256, write_provenance

TEXT = "".join(PROBES)
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.fixture
def base(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """The tiny model with the files that transformers 4 wrote for such a tokenizer and model."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    settings = _read(folder / "tokenizer_config.json")
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "special_tokens_map.json", {"eos_token": "<|im_end|>"})
    config = _read(folder / "config.json")
    del config["rope_parameters"], config["dtype"]
    older = {"rope_theta": 5e5, "rope_scaling": ROPE | {"original_max_position_embeddings": 64}}
    _write(folder / "config.json", config | older | {"torch_dtype": "float32", "transformers_version": "4.44.0"})
    return folder


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1))


def _tokenizer_files(folder: Path) -> dict[str, bytes]:
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _written(folder: Path, tokenizer: Any, base: Path | None) -> str:
    folder.mkdir()
    for name in ("added_tokens.json", "vocab.json"):  # of another tokenizer
        (folder / name).write_text("{}")
    return write_tokenizer(folder, tokenizer, base)


def _ids(tokenizer: Any) -> list[int]:
    return list(tokenizer(TEXT)["input_ids"])


def test_unchanged_files_are_copied_byte_for_byte(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer(["a", "bb bb"], padding=True, truncation=True, max_length=4)  # a call leaves its mark in the backend
    assert _written(tmp_path / "out", tokenizer, base) == ""
    assert _tokenizer_files(tmp_path / "out") == _tokenizer_files(base)
    assert not (tmp_path / "out/added_tokens.json").exists() and not (tmp_path / "out/vocab.json").exists()


@pytest.mark.parametrize("where", ["beside", "in the settings", "both", "several", "none"])
def test_another_template_is_put_wherever_the_base_has_one(where: str, base: Path, tmp_path: Path) -> None:
    settings, path = _read(base / "tokenizer_config.json"), base / "chat_template.jinja"
    if where in ("in the settings", "both"):
        settings["chat_template"] = path.read_text()
    if where == "several":
        settings["chat_template"] = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    if where in ("in the settings", "several", "none"):
        path.unlink()
    _write(base / "tokenizer_config.json", settings)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert _written(tmp_path / "out", tokenizer, base) == ""
    actual = _read(tmp_path / "out/tokenizer_config.json")
    assert (tmp_path / "out/chat_template.jinja").read_text() == tokenizer.chat_template
    assert actual.get("chat_template") == (None if where == "beside" else tokenizer.chat_template)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template


def test_templates_in_the_settings_alone_are_verified(base: Path, tmp_path: Path) -> None:
    settings = _read(base / "tokenizer_config.json")
    settings["chat_template"] = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    _write(base / "tokenizer_config.json", settings)
    (base / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(base)
    _written(tmp_path / "out", tokenizer, base)
    _write(tmp_path / "out/generation_config.json", {"eos_token_id": 4})
    write_provenance(tmp_path / "out", {"template": template_sha256(tokenizer.chat_template), "stop_token_id": 4})
    assert examine(tmp_path / "out").findings == []


def test_a_changed_tokenizer_is_written_in_older_words(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "</s>", "<tool>"]})
    assert _written(tmp_path / "out", tokenizer, base) == "the tokenizer was changed since"
    settings = _read(tmp_path / "out/tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in settings
    assert settings["additional_special_tokens"] == ["<|im_start|>", "</s>", "<tool>"] and "backend" not in settings
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.convert_tokens_to_ids("<tool>") == tokenizer.convert_tokens_to_ids("<tool>") == 600
    assert _ids(again) == _ids(tokenizer) and again.chat_template == tokenizer.chat_template


def test_a_base_without_tokenizer_files_gets_older_words(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert "no tokenizer files" in _written(tmp_path / "out", tokenizer, None)
    assert _read(tmp_path / "out/tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert _ids(AutoTokenizer.from_pretrained(tmp_path / "out")) == _ids(tokenizer)


def test_a_file_that_releases_read_differently_is_written_as_trained(base: Path, tmp_path: Path) -> None:
    """transformers 5 builds a Qwen2 tokenizer from its class, older releases from the file."""
    settings = _read(base / "tokenizer_config.json")
    _write(base / "tokenizer_config.json", settings | {"tokenizer_class": "Qwen2Tokenizer"})
    tokenizer = AutoTokenizer.from_pretrained(base)
    why = _written(tmp_path / "out", tokenizer, base)
    assert "otherwise than older releases" in why
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    raw, original = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (tmp_path / "out", base))
    assert _ids(again) == _ids(tokenizer) == raw.encode(TEXT).ids != original.encode(TEXT).ids


# config.json


def _saved(base: Path, folder: Path, **changes: Any) -> Path:
    """Write the base's configuration as transformers 5 does."""
    config = AutoConfig.from_pretrained(base)
    for name, value in changes.items():
        setattr(config, name, value)
    config.save_pretrained(folder)
    return folder / "config.json"


def test_a_saved_configuration_gets_the_words_of_its_base(base: Path, tmp_path: Path) -> None:
    path = _saved(base, tmp_path / "out", dtype="bfloat16")
    assert "rope_theta" not in _read(path)  # what an older release would take its default for
    write_older_config(path, base)
    actual, original = _read(path), _read(base / "config.json")
    assert {**actual, "torch_dtype": "float32"} == {**original, "dtype": "bfloat16"}
    assert actual["torch_dtype"] == "bfloat16" and actual["transformers_version"] == "4.44.0"


def test_what_a_format_changes_stays_changed(base: Path, tmp_path: Path) -> None:
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path = _saved(base, tmp_path / "out", tie_word_embeddings=False, vocab_size=640, quantization_config=quantised)
    expected = AutoConfig.from_pretrained(path.parent).to_dict()
    write_older_config(path, base)
    actual = _read(path)
    assert actual["quantization_config"] == quantised and actual["vocab_size"] == 640
    assert actual["rope_theta"] == 5e5 and actual["tie_word_embeddings"] is False
    again = AutoConfig.from_pretrained(path.parent).to_dict()
    assert {**again, "_name_or_path": ""} == {**expected, "_name_or_path": ""}


@pytest.mark.parametrize("has_base", [True, False])
def test_a_configuration_of_transformers_5_says_older_keys_too(has_base: bool, base: Path, tmp_path: Path) -> None:
    newer = _saved(base, tmp_path / "newer")
    path = _saved(newer.parent, tmp_path / "out")
    before = AutoConfig.from_pretrained(path.parent).to_dict()
    write_older_config(path, newer.parent if has_base else None)
    actual = _read(path)
    assert actual["rope_theta"] == actual["rope_parameters"]["rope_theta"] == 5e5
    assert actual["rope_scaling"]["factor"] == 8.0 and "rope_theta" not in actual["rope_scaling"]
    assert actual["torch_dtype"] == actual["dtype"] == "float32"
    assert AutoConfig.from_pretrained(path.parent).to_dict() == before


def test_rotary_settings_for_each_kind_of_layer_stay_as_they_are(tmp_path: Path) -> None:
    Gemma3TextConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    before = _read(tmp_path / "config.json")
    write_older_config(tmp_path / "config.json", None)
    assert _read(tmp_path / "config.json") == {
        **before,
        **({"torch_dtype": before["dtype"]} if "dtype" in before else {}),
    }
