"""Files of others are refused by file and field, within seconds and little memory, before a library reads them."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from trainer.errors import HardwareError, StageError, TrainerError
from trainer.model.foreign.adapter import check_adapter
from trainer.model.foreign.base_model import check_folder
from trainer.model.foreign.config import check_config
from trainer.model.foreign.gguf import check_gguf
from trainer.model.foreign.safetensors_header import DamagedFileError, stored_tensors

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "vocab_size": 600,
    "rope_scaling": None,
    "text_config": {"num_attention_heads": 4},
}
ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG | changes))
    return path


def refusal(error: type[TrainerError], check: Any, path: Path) -> str:
    with pytest.raises(error) as caught:
        check(path)
    assert caught.value.hint
    return caught.value.message


def test_a_right_configuration_is_returned(tmp_path: Path) -> None:
    assert check_config(config(tmp_path)) == CONFIG
    # as Gemma 3n and OpenELM have them: one number for each layer
    assert check_config(config(tmp_path, intermediate_size=[128, 256], num_key_value_heads=[1, 2]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", None),
        ("model_type", ["llama"]),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", "2"),
        ("num_hidden_layers", 2.5),
        ("hidden_size", -64),
        ("vocab_size", True),
        ("intermediate_size", [1, "2"]),
        ("rms_norm_eps", "1e-6"),
        ("architectures", "LlamaForCausalLM"),
        ("rope_scaling", "linear"),
        ("tie_word_embeddings", "yes"),
        ("quantization_config", "int4"),
        ("dtype", 16),
        ("text_config", {"num_attention_heads": "4"}),
        ("attn_implementation", "organisation/kernel"),
        ("_attn_implementation", "organisation/kernel:function"),
        ("attn_implementation", {"": "sdpa", "vision": "organisation/kernel"}),
        ("attn_implementation", 5),
        ("text_config", {"attn_implementation": "organisation/kernel"}),
        ("experts_implementation", "organisation/kernel"),
    ],
)
def test_a_wrong_field_of_a_configuration_is_named(tmp_path: Path, field: str, value: object) -> None:
    path = config(tmp_path, **{field: value})
    message = refusal(HardwareError, check_config, path)
    assert str(path) in message and field in message


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"a": ', '"text"', "\xff", '{"a":' * 5000])
def test_a_configuration_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    assert str(path) in refusal(HardwareError, check_config, path)


def test_devices_pipes_and_huge_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.symlink_to("/dev/zero")
    assert "device" in refusal(HardwareError, check_config, path)
    path.unlink()
    os.mkfifo(path)
    assert "pipe" in refusal(HardwareError, check_config, path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 33)
    assert "8192 MiB" in refusal(HardwareError, check_config, path)
    path.rename(tmp_path / "model.gguf")
    assert "GGUF" in refusal(HardwareError, check_gguf, tmp_path / "model.gguf")


# Weights


def header(path: Path, content: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)
    return path


def test_a_model_folder_is_looked_through(tmp_path: Path) -> None:
    config(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros((2, 3), np.float32)}, weights)
    check_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"bias": "b.safetensors"}}))
    assert "bias" in refusal(HardwareError, check_folder, tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    config(tmp_path, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "quantization_config" in refusal(HardwareError, check_folder, tmp_path)
    config(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "truncated" in refusal(HardwareError, check_folder, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [99], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99999999999]}}',
    ],
    ids=range(7),
)
def test_a_malformed_header_of_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DamagedFileError, match=r"a\.safetensors"):
        stored_tensors(header(tmp_path / "a.safetensors", content, b"0000"))


def test_a_header_of_a_million_tensors_is_refused_at_once(tmp_path: Path) -> None:
    entry = '"tensor%07d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    content = "{" + ",".join(entry % number for number in range(10**6)) + "}"
    path = header(tmp_path / "a.safetensors", content.encode(), b"0000")
    started = time.monotonic()
    with pytest.raises(DamagedFileError, match="no model has so many tensors"):
        stored_tensors(path)
    assert time.monotonic() - started < 2


# Adapters


def adapter(folder: Path, rank: int = 4, **changes: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | changes))
    save_file({"layer.lora_A.weight": np.zeros((rank, 8), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def test_a_right_adapter_is_returned(tmp_path: Path) -> None:
    assert check_adapter(adapter(tmp_path)) == ADAPTER
    assert check_adapter(adapter(tmp_path, rank=8, rank_pattern={"layer": 8}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("r", 10**9),
        ("r", "4"),
        ("r", 0),
        ("r", 5),
        ("rank_pattern", [1]),
        ("rank_pattern", {"layer": 10**9}),
        ("lora_alpha", "8"),
        ("target_modules", {"a": 1}),
        ("lora_dropout", 2),
        ("megatron_config", {"a": 1}),
        ("auto_mapping", {"parent_library": "os", "base_model_class": "system"}),
    ],
)
def test_a_wrong_field_of_an_adapter_is_named(tmp_path: Path, field: str, value: object) -> None:
    message = refusal(StageError, check_adapter, adapter(tmp_path, **{field: value}))
    name = "layer" if isinstance(value, dict) and "layer" in value else "rank" if field == "r" else field
    assert name in message and "adapter" in message


def test_an_adapter_without_its_files_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert path.name in refusal(StageError, check_adapter, tmp_path)
    path.unlink()
    assert path.name in refusal(StageError, check_adapter, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    assert "adapter_config.json" in refusal(StageError, check_adapter, tmp_path)


# GGUF


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


KEY = text("general.architecture") + struct.pack("<I", 8) + text("llama")
TENSOR = text("weight") + struct.pack("<IQIQ", 1, 4, 0, 0)


def gguf(keys: bytes = KEY, tensors: bytes = TENSOR, *, counts: tuple[int, int] = (1, 1), version: int = 3) -> bytes:
    """Return a file; `counts` are those of tensors and keys that its header states."""
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + keys + tensors + bytes(64)


def test_a_right_gguf_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf())
    check_gguf(path)
    words = text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    path.write_bytes(gguf(KEY + words, counts=(1, 2)))
    check_gguf(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"NOPE" + gguf()[4:],
        gguf(version=9),
        gguf(counts=(10**15, 1)),
        gguf(counts=(1, 10**15)),
        gguf(counts=(1, 0), keys=b""),
        gguf(counts=(0, 1), tensors=b""),
        gguf(keys=struct.pack("<Q", 1 << 60)),
        gguf(keys=text("a") + struct.pack("<IIQ", 9, 4, 1 << 60)),
        gguf(keys=text("a") + struct.pack("<IIQ", 9, 9, 1 << 20) + struct.pack("<IQ", 9, 1) * 99),
        gguf(keys=text("a") + struct.pack("<I", 77)),
        gguf(tensors=text("weight") + struct.pack("<IQIQ", 99, 4, 0, 0)),
        gguf(tensors=text("weight") + struct.pack("<IQIQ", 1, 1 << 60, 0, 0)),
        gguf(tensors=text("weight") + struct.pack("<IQIQ", 1, 4, 0, 1 << 40)),
        gguf()[:30],
    ],
    ids=range(16),
)
def test_a_malformed_gguf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    assert "no whole GGUF file" in refusal(HardwareError, check_gguf, path)


# Code of the hub


def test_the_package_that_fetches_kernels_cannot_be_imported() -> None:
    import trainer

    assert trainer.__version__ and sys.modules["kernels"] is None
    with pytest.raises(ImportError):
        __import__("kernels")
