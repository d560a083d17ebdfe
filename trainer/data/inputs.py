"""The files of a recipe's data section: what the result of `trainer data` depends on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.recipe.data import HUB_PREFIX, DataSection


def row_inputs(data: DataSection) -> Iterator[tuple[str, Path | str]]:
    """Yield the key of the recipe and the path of each file of rows; of a folder every file, of the hub its id."""
    split, prompt = data.split, data.system_prompt
    named: list[tuple[str, str | None]] = [
        (f"data.sources.{index}.path", source.path) for index, source in enumerate(data.sources)
    ]
    named += [("data.split.validation_path", split.validation_path), ("data.split.heldout_path", split.heldout_path)]
    named += [(f"data.contamination.files.{index}", path) for index, path in enumerate(data.contamination.files)]
    named += [("data.system_prompt.path", prompt.path if prompt else None)]
    for label, path in named:
        if not path:
            continue
        if path.startswith(HUB_PREFIX):
            yield label, path
        elif Path(path).is_dir():
            inside = (file for file in sorted(Path(path).rglob("*")) if file.is_file())
            yield from ((f"{label}/{file.relative_to(path).as_posix()}", file) for file in inside)
        else:
            yield label, Path(path)
