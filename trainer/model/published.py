"""Tell how a published base model is quantised, and make it an ordinary 16-bit folder where that is possible.

MXFP4 (gpt-oss) and FP8 in blocks (DeepSeek, Qwen3-FP8) are converted to bfloat16 in the cache once, one tensor at a
time. Training, qlora, merges and proofs then work as on any folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias, assert_never

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.utils import cached_file

from trainer.errors import HardwareError
from trainer.lock import exclusive

Method: TypeAlias = Literal["mxfp4", "fp8"]
"""Quantisations that can be made wide again."""
WAIT_S = 24 * 3600
INDEX = "model.safetensors.index.json"
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]
SHARD_BYTES = 4_000_000_000
DROPPED = ("activation_scale", "input_scale")
"""Ends of the names of scales for activations in 8 bits: products run in 16 bits here."""


def quantisation_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the quantisation of a config.json; None for plain weights."""
    sections = (config, config.get("text_config") or {})
    settings = (section.get(key) for section in sections for key in ("quantization_config", "compression_config"))
    return next((value for value in settings if value), None)


def check_trainable(config: dict[str, Any], name: str) -> None:
    """Refuse a base whose weights can be used but not trained on.

    Args:
        config: Its config.json.
        name: For the message.

    Raises:
        HardwareError: Its quantisation cannot be undone.
    """
    settings = quantisation_of(config)
    if settings is None or _widened(settings):
        return
    method = _method(settings)
    if method == "bitsandbytes":
        raise HardwareError(
            f"{name} holds weights of bitsandbytes in 4 or 8 bits: nothing can be merged into them without loss",
            hint="name the 16-bit model that it was made from; adapter.kind: qlora holds it in the same 4 bits",
        )
    raise HardwareError(
        f"{name} is quantised for inference ({method}): it cannot be trained, or nothing can be merged into it",
        hint="name the 16-bit model that it was made from; adapter.kind: qlora holds it in 4 bits",
    )


def _method(settings: dict[str, Any]) -> str:
    return str(settings.get("quant_method", "bitsandbytes" if "load_in_4bit" in settings else "unknown"))


def _widened(settings: dict[str, Any] | None) -> Method | None:
    """Return the quantisation where it can be undone."""
    match _method(settings) if settings else None:
        case "mxfp4" | "fp8" as method:
            return method
    return None


def wide_folder(name: str, revision: str | None, cache: Path, say: Callable[[str], None]) -> Path | None:
    """Return the folder with the bfloat16 weights of a base that is published in fewer bits; None where it is plain.

    Args:
        name: Folder or hub id.
        revision: Of the hub model.
        cache: Folder for converted models.
        say: Told of a conversion.

    Raises:
        HardwareError: The disk has no room.
    """
    config = config_json(name, revision)
    method = _widened(quantisation_of(config))
    if method is None:
        return None
    source = Path(name)
    if not source.is_dir():
        source = Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    target = cache / "models" / f"{source.name}-bfloat16-{_digest(source)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.with_suffix(".lock"), subject=target, hint="wait until it ends", wait_s=WAIT_S):
        if not (target / "config.json").is_file():
            say(f"model: {name} is published in {method}: converting it to bfloat16 once, in {target}")
            _convert(source, target, config, method)
    return target


def config_json(name: str, revision: str | None) -> dict[str, Any]:
    """Return the config.json of a folder or hub model; empty where there is none."""
    path = cached_file(name, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    return content


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json"))
    # sizes and times in place of contents: hashing 60 GB takes minutes, and this is only a name in the cache
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _convert(source: Path, target: Path, config: dict[str, Any], method: Method) -> None:
    """Write a folder shard by shard and give it its name at the end."""
    shards = sorted(source.glob("*.safetensors"))
    # 4.25 bits (MXFP4 with its scales) or 8 become 16
    needed = sum(path.stat().st_size for path in shards) * (4 if method == "mxfp4" else 2)
    if (free := shutil.disk_usage(target.parent).free) < needed:
        raise HardwareError(
            f"16-bit weights of {source.name} need {needed / 1e9:.0f} GB in {target.parent}, {free / 1e9:.0f} are free",
            hint="make room, or set TRAINER_CACHE to a folder on another disk",
        )
    # the name appears only with the last file: an interrupted conversion is never taken for a whole one
    staged = target.with_suffix(".partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX:
            shutil.copyfile(path, staged / path.name)
    _write_shards(_wide_tensors(shards, config, method), staged)
    _write_config(staged, config)
    for path in staged.iterdir():
        path.chmod(0o644)
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)


def _write_shards(tensors: Iterator[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Write tensors in files of a few GB, so that never more than one file is in memory."""
    weight_map: dict[str, str] = {}
    waiting: dict[str, torch.Tensor] = {}

    def flush() -> None:
        name = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
        save_file(waiting, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(waiting, name))
        waiting.clear()

    for name, tensor in tensors:
        waiting[name] = tensor.contiguous()
        if sum(value.numel() * value.element_size() for value in waiting.values()) > SHARD_BYTES:
            flush()
    if waiting:
        flush()
    index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    for section in (config, config.get("text_config") or {}):
        for key in ("quantization_config", "compression_config", "torch_dtype"):
            section.pop(key, None)
        if section:
            section["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _read(where: dict[str, Path], name: str) -> torch.Tensor:
    with safe_open(where[name], framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def _wide_tensors(shards: list[Path], config: dict[str, Any], method: Method) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of all shards in 16 bits; scales are read wherever they are."""
    where = {name: path for path in shards for name in _names(path)}
    # weight -> its scales; the two may lie in different shards
    scale_of = {name: scale for name in where if (scale := _scale_of(name, where, method))}
    scales = set(scale_of.values())
    block = tuple((quantisation_of(config) or {}).get("weight_block_size") or (128, 128))
    for name in where:
        if name in scales or name.endswith(DROPPED):
            continue
        tensor = _read(where, name)
        if name not in scale_of:
            yield name, tensor
            continue
        scale = _read(where, scale_of[name])
        match method:
            case "mxfp4":
                # blocks (experts, out, groups, 16), two codes a byte; scales (experts, out, groups)
                yield name.removesuffix("_blocks"), convert_moe_packed_tensors(tensor, scale)
            case "fp8":
                yield name, from_blocks(tensor, scale, block)
            case _:
                assert_never(method)


def _scale_of(name: str, where: dict[str, Path], method: Method) -> str | None:
    """Return the name of the scales of a weight; None where it has none.

    Source: transformers' quantizer_mxfp4 and quantizer_finegrained_fp8.
    """
    stem = name.removesuffix(".weight")
    match method:
        case "mxfp4":
            candidates = [f"{name.removesuffix('_blocks')}_scales"] if name.endswith("_blocks") else []
        case "fp8":
            candidates = [f"{name}_scale_inv", f"{stem}.scale", f"{stem}.qscale_weight"]
            candidates = [candidate for candidate in candidates if candidate != name]
        case _:
            assert_never(method)
    return next((candidate for candidate in candidates if candidate in where), None)


def from_blocks(weight: torch.Tensor, scales: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Return weights of 8-bit floating point with one scale for each block, in bfloat16.

    Args:
        weight: float8, (..., rows, columns).
        scales: (..., rows / block, columns / block), rounded up; a scalar holds for all. uint8 are exponents of 2.
        block: Rows and columns of a block.

    Example:
        >>> weight = torch.ones(3, 4).to(torch.float8_e4m3fn)
        >>> from_blocks(weight, torch.tensor([[2.0, 3.0], [4.0, 5.0]]), (2, 2)).tolist()
        [[2.0, 2.0, 3.0, 3.0], [2.0, 2.0, 3.0, 3.0], [4.0, 4.0, 5.0, 5.0]]

    Raises:
        HardwareError: The weights are not in 8-bit floating point.

    Source: DeepSeek-V3, https://arxiv.org/abs/2412.19437, section 3.3.
    """
    if weight.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        raise HardwareError(
            f"weights with scales are {weight.dtype}, not in 8-bit floating point (experts in FP4, for example)",
            hint="name the 16-bit model that it was made from",
        )
    # float32 holds every product exactly, so only the last step rounds
    wide = weight.float()
    # E8M0: an exponent alone, biased by 127
    scales = (scales.float() - 127).exp2() if scales.dtype == torch.uint8 else scales.float()
    if scales.dim() >= 2:
        # one scale for each weight; blocks at the lower and right border are cut off
        scales = scales.repeat_interleave(block[0], -2)[..., : wide.shape[-2], :]
        scales = scales.repeat_interleave(block[1], -1)[..., : wide.shape[-1]]
    return (wide * scales).to(torch.bfloat16)
