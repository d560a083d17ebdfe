"""Validate the files of a located base model before transformers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from trainer.model.foreign.config import check_config
from trainer.model.foreign.files import ForeignFile, Json
from trainer.model.foreign.gguf import check_gguf
from trainer.model.foreign.safetensors_header import DamagedFileError, stored_tensors
from trainer.model.source import ModelSource

INDEX = "model.safetensors.index.json"
PACKED = {"bitsandbytes": (".absmax", ".SCB"), "gptq": (".qweight",), "awq": (".qweight",)}
"""Method of quantisation -> ends of names that its weights have."""


def check_source(source: ModelSource) -> None:
    """Check what lies on this machine: configuration, headers of the weights, their index.

    Raises:
        HardwareError: A file is damaged, or names code; the message has the file and the field.
    """
    match source.kind:
        case "gguf":
            assert source.path is not None
            check_gguf(source.path)
        case "folder":
            assert source.path is not None
            check_folder(source.path)
        case "hub":
            pass  # checked when it is there: `check_values` on the configuration that transformers has found
        case _:
            assert_never(source.kind)


def check_folder(folder: Path) -> None:
    """Check a model folder.

    Raises:
        HardwareError: A file is damaged, or names code; the message has the file and the field.
    """
    values = check_config(folder / "config.json")
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            names |= {tensor.name for tensor in stored_tensors(path)}
        except DamagedFileError as error:
            raise ForeignFile(path).wrong(str(error), "fetch or write that file again") from error
    _check_index(folder, names)
    _check_quantised(folder, values, names)


def _check_index(folder: Path, names: set[str]) -> None:
    file = ForeignFile(folder / INDEX)
    if not file.path.exists():
        return
    weight_map = file.json_object().get("weight_map")
    if not isinstance(weight_map, dict):
        raise file.wrong("weight_map: an object of tensors and files is expected")
    if lost := sorted(set(weight_map) - names):
        raise file.wrong(f"weight_map: {len(lost)} tensors are in no file here, the first is {lost[0]}")


def _check_quantised(folder: Path, values: Json, names: set[str]) -> None:
    settings = values.get("quantization_config")
    if not isinstance(settings, dict):
        return
    method = settings.get("quant_method")
    ends = PACKED.get(method) if isinstance(method, str) else None
    if ends and not any(end in name for name in names for end in ends):
        raise ForeignFile(folder / "config.json").wrong(
            f"quantization_config says {method}, and the weights beside it are plain ones",
            "remove quantization_config from config.json, or take the quantised weights",
        )
