"""List the files of a recipe's data section: the result of `trainer data` depends on them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trainer.data.read.files import find_files, is_pattern
from trainer.recipe.data import HUB_PREFIX, DataSection
from trainer.recipe.pii import Pii, pseudonymises


def row_inputs(data: DataSection) -> Iterator[tuple[str, Path | str]]:
    """Yield the key of the recipe and the path of each file of rows; of a folder every file, of the hub its id.

    Where pseudonyms are drawn with a key, its fingerprint is among them: another key makes other rows.
    """
    split, prompt = data.split, data.system_prompt
    paths: list[tuple[str, str | None]] = [
        (f"data.sources.{index}.path", source.path) for index, source in enumerate(data.sources)
    ]
    paths += [("data.split.validation_path", split.validation_path), ("data.split.heldout_path", split.heldout_path)]
    paths += [(f"data.contamination.files.{index}", path) for index, path in enumerate(data.contamination.files)]
    paths += [("data.system_prompt.path", prompt.path if prompt else None)]
    if key := key_fingerprint(data.pii):
        yield f"data.pii.key_env ({data.pii.key_env})", key
    for label, path in paths:
        if not path:
            continue
        if path.startswith(HUB_PREFIX):
            yield label, path
        elif not Path(path).exists() and is_pattern(path):
            yield from ((f"{label}/{file}", file) for file in find_files(Path(path)))
        elif Path(path).is_dir():
            inside = (file for file in sorted(Path(path).rglob("*")) if file.is_file())
            yield from ((f"{label}/{file.relative_to(path).as_posix()}", file) for file in inside)
        else:
            yield label, Path(path)


def key_fingerprint(section: Pii) -> str | None:
    """Return what tells one key of the pseudonyms from another, None where no pseudonym is drawn or no key is set."""
    key = os.environ.get(section.key_env or "", "")
    return _slow_hash(key) if key and pseudonymises(section) else None


@lru_cache(maxsize=4)
def _slow_hash(key: str) -> str:
    """Hash a key so that a guess costs 50 ms: the result stands in the run folder, and keys may be short phrases.

    Source: RFC 7914, with the parameters for interactive use of its authors.
    """
    salt = b"recipe-trainer data.pii.key_env"
    return "scrypt:" + hashlib.scrypt(key.encode(), salt=salt, n=2**14, r=8, p=1, dklen=16).hex()
