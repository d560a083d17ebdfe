"""Prepare and publish the folder around merged weights: lock, free space, configuration, tokenizer, one rename."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainer.digests import hash_file
from trainer.errors import HardwareError, StageError
from trainer.export.merge.shards import INDEX
from trainer.lock import exclusive
from trainer.model.durable import sync
from trainer.model.source import TOKENIZER_FILES

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ckpt")
SPARE_BYTES = 64 * 2**20
"""Room for everything that is not a weight."""


def partial_folder(target: Path) -> Path:
    """Return where a merge is written until it is whole."""
    return target.with_name(f"{target.name}.partial")


@contextmanager
def locked(target: Path) -> Iterator[Path]:
    """Hold the target folder for this process alone; yield its partial folder.

    Raises:
        StageError: The target exists, or another process is writing it.
    """
    _refuse_existing(target)
    partial = partial_folder(target)
    partial.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")  # beside the partial folder, which is renamed
    with exclusive(lock, subject=target, hint="wait until it ends, or choose another folder"):
        try:
            _refuse_existing(target)  # that process may have finished in between
            yield partial
        finally:
            with suppress(OSError):
                partial.rmdir()  # nothing was written


def _refuse_existing(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StageError(f"{target} exists already", hint=f"rm -r {target}, or choose another folder")


@contextmanager
def full_disk_named(target: Path) -> Iterator[None]:
    """Turn a full disk into an error with a way out.

    Raises:
        HardwareError: There is no room left.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HardwareError(
            f"the disk of {target} is full: {error.strerror}",
            hint="make room and run the same command again; finished shards are kept",
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what cannot be finished.

    Raises:
        HardwareError: The disk has not enough room.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise HardwareError(
            f"the merge needs {(needed + SPARE_BYTES) / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free",
            hint="make room, or put the run on another disk: --run-dir DIR",
        )


def check_base(base: Path, expected: Mapping[str, str]) -> None:
    """Compare the base's files with those that the adapter was trained on.

    Raises:
        StageError: One is missing or differs.
    """
    for name, sha256 in sorted(expected.items()):
        path = base / name
        if not path.is_file():
            raise StageError(
                f"{path} is missing; the adapter was trained on it", hint="set model.revision to the trained one"
            )
        digest = hash_file(path)
        if digest != sha256:
            raise StageError(
                f"{path} is not what the adapter was trained on: sha256 {digest[:12]}, then {sha256[:12]}",
                hint="set model.revision to the trained one, or train again on this base",
            )


def copy_surroundings(base: Path, adapter: Path, folder: Path) -> None:
    """Copy everything but weights; tokenizer and template from the adapter where it has its own."""
    for source in sorted(base.iterdir()):
        skip = source.suffix in WEIGHT_SUFFIXES or source.name.endswith(".index.json") or source.name.startswith(".")
        if source.is_file() and not skip:
            shutil.copyfile(source, folder / source.name)
    if (adapter / "tokenizer_config.json").is_file():
        for name in TOKENIZER_FILES:
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def write_config(folder: Path, dtype: str, *, untied: bool, vocabulary: int | None) -> None:
    """Bring config.json up to the merged weights."""
    path = folder / "config.json"
    config: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    for section in (config, config.get("text_config")):
        if not isinstance(section, dict):
            continue
        section.pop("torch_dtype", None)  # the older key for the same, see older_readers
        section["dtype"] = dtype
        if untied:
            section["tie_word_embeddings"] = False
        if vocabulary is not None and (section is not config or "vocab_size" in config):
            section["vocab_size"] = vocabulary
    config.pop("_name_or_path", None)  # a path of another machine
    config["use_cache"] = True
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_stop(folder: Path, stop_id: int | None) -> None:
    """Let generation end at the token that the answers were trained to end with."""
    if stop_id is None:
        return
    path = folder / "generation_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ends = settings.get("eos_token_id")
    ids = [ends] if isinstance(ends, int) else list(ends or [])
    settings["eos_token_id"] = ids if stop_id in ids else [*ids, stop_id]
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_index(folder: Path, weight_map: Mapping[str, str], total_bytes: int) -> None:
    """Write which shard holds which tensor; a single file needs none."""
    if len(set(weight_map.values())) < 2:
        return
    content = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def publish(partial: Path, target: Path) -> None:
    """Make the folder readable and durable, then give it its name."""
    # content before names: after a power cut the folder is either absent or whole
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            sync(path)
    partial.chmod(0o755)
    sync(partial)
    if target.is_dir():
        target.rmdir()  # empty, or locked() had refused it
    partial.rename(target)
    sync(target.parent)
