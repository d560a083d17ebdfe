"""Validate an adapter folder: its settings are those of LoRA, its weights whole and of the ranks that it states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainer.model.foreign.files import ForeignFile, Json, shortened, type_name
from trainer.model.foreign.safetensors_header import DamagedFileError, Stored, stored_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_RANK = 65_536
IMPORTING = ("megatron_config", "auto_mapping")
"""Settings that make PEFT import a module by its name."""


def check_adapter(folder: Path) -> Json:
    """Return the settings of an adapter that PEFT may be given.

    Raises:
        StageError: A file is missing or damaged, the type is unknown, or a setting is impossible or names code.
    """
    file = ForeignFile(folder / CONFIG, is_adapter=True)
    values = file.json_object()
    if values.get("peft_type") != "LORA":
        raise file.wrong(f"peft_type is {shortened(values.get('peft_type'))}: only LORA adapters can be continued")
    for name in IMPORTING:
        if values.get(name):
            raise file.wrong(f"{name} names Python code to import, which no adapter needs", f"remove {name} from it")
    _check_rank(values, file)
    _check_types(values, file)
    _check_weights(folder, values)
    return values


def _check_rank(values: Json, file: ForeignFile) -> None:
    pattern = values.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        raise file.wrong(f"rank_pattern: an object is expected, not {type_name(pattern)}")
    for name, rank in {"r": values.get("r"), **pattern}.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
            raise file.wrong(f"{name}: the rank is {shortened(rank)}, a whole number from 1 to {MAX_RANK} is expected")


def _check_types(values: Json, file: ForeignFile) -> None:
    alpha, targets = values.get("lora_alpha"), values.get("target_modules")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise file.wrong(f"lora_alpha: a number is expected, not {type_name(alpha)} {shortened(alpha)}")
    is_list = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    if not (targets is None or isinstance(targets, str) or is_list):
        raise file.wrong(f"target_modules: names of layers are expected, not {shortened(targets)}")
    dropout = values.get("lora_dropout", 0.0)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise file.wrong(f"lora_dropout: {shortened(dropout)} is not from 0 to below 1")


def _check_weights(folder: Path, values: Json) -> None:
    file = ForeignFile(folder / WEIGHTS, is_adapter=True)
    if not file.path.is_file():
        raise file.wrong("is missing")
    try:
        tensors = stored_tensors(file.path)
    except DamagedFileError as error:
        raise file.wrong(str(error)) from error
    largest = max((_rank_of(tensor) for tensor in tensors), default=0)
    stated = [values["r"], *dict(_mapping(values.get("rank_pattern"))).values()]
    if largest == 0:
        raise file.wrong("holds no LoRA matrices")
    if not _is_stacked(values) and largest not in stated:
        raise file.wrong(f"its matrices have rank {largest}, {CONFIG} says {values['r']}")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _is_stacked(values: Json) -> bool:
    """Tell whether matrices of all experts lie in one parameter: their first size is experts times rank."""
    return bool(values.get("target_parameters"))


def _rank_of(tensor: Stored) -> int:
    # A is (rank, inputs); of an embedding layer too
    return tensor.shape[0] if "lora_A" in tensor.name or "lora_embedding_A" in tensor.name else 0
