"""Open every file of a recipe's data section, in the same order on every machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from trainer.data.read.expand import expand
from trainer.data.read.files import find_files, is_saved_dataset
from trainer.data.read.raw_row import RawRow
from trainer.data.read.reader import how_read, open_source
from trainer.data.records.kinds import Origin, Side
from trainer.data.rows.columns import MAPPABLE
from trainer.errors import DataError
from trainer.recipe.data import HUB_PREFIX, DataSection, Source


class Input(NamedTuple):
    """One file, its rows not yet read."""

    path: str
    rows: Iterator[RawRow]
    side: Side
    origin: Origin
    repeat: float
    """Passes over it in one epoch."""
    source: str
    """Path of its source, as the recipe has it."""
    source_name: str
    """Name of its source in reports."""
    how: str
    """How it is read, where its name does not say it."""


def open_inputs(data: DataSection, *, with_hub: bool = True) -> Iterator[Input]:
    """Yield the files of rows, held-out and validation files and benchmarks; each is opened when it is asked for.

    Args:
        data: The recipe's section.
        with_hub: False passes over what would have to be downloaded.

    Raises:
        DataError: a path, a mapping or a file is wrong.
    """
    sources = _sources(data)
    names = _shortest_names({path for source, _ in sources for path in _paths(source)})
    source_names = _shortest_names({source.path for source, _ in sources})
    for source, side in sources:
        _check_mapping(source)
        if source.path.startswith(HUB_PREFIX) and not with_hub:
            continue
        mapping = tuple(source.mapping.items())
        for path, rows in open_source(source):
            origin = Origin(names[path], source.format, mapping, is_benchmark=side == Side.BENCHMARK)
            how = how_read(Path(path)) if Path(path).is_file() else ""
            yield Input(
                path,
                expand(rows, source.format, source.mapping),
                side,
                origin,
                source.repeat,
                source.path,
                source_names[source.path],
                how,
            )


def num_files(data: DataSection) -> int:
    """Count the files that `open_inputs` yields.

    Raises:
        DataError: a path is wrong.
    """
    return sum(len(_paths(source)) for source, _ in _sources(data))


def _sources(data: DataSection) -> list[tuple[Source, Side]]:
    sources = [(source, Side.SOURCE) for source in data.sources]
    for side, path in ((Side.HELDOUT, data.split.heldout_path), (Side.VALIDATION, data.split.validation_path)):
        sources += [(beside(data, path), side)] if path else []
    return sources + [(Source(path=path), Side.BENCHMARK) for path in data.contamination.files]


def beside(data: DataSection, path: str) -> Source:
    """Return a held-out or validation file as a source: its columns are those of the sources, where all agree."""
    layouts = {(source.format, tuple(sorted(source.mapping.items()))) for source in data.sources}
    if len(layouts) > 1:
        return Source(path=path)
    return Source(path=path, format=data.sources[0].format, mapping=data.sources[0].mapping)


def _shortest_names(paths: Iterable[str]) -> dict[str, str]:
    """Name each file or folder as rows and reports carry it: its base name, with the folders that tell it from others.

    Absolute paths would make the same data differ between machines.
    """
    names = {path: path if path.startswith(HUB_PREFIX) else Path(path).name for path in sorted(paths)}
    for depth in range(2, 1 + max((len(Path(path).parts) for path in names), default=0)):
        shared = {name for name, times in Counter(names.values()).items() if times > 1}
        names = {path: "/".join(Path(path).parts[-depth:]) if name in shared else name for path, name in names.items()}
    return names


def _paths(source: Source) -> list[str]:
    if source.path.startswith(HUB_PREFIX) or is_saved_dataset(Path(source.path)):
        return [source.path]
    return [str(path) for path in find_files(Path(source.path))]


def _check_mapping(source: Source) -> None:
    if unknown := sorted(set(source.mapping) - MAPPABLE):
        raise DataError(
            f"data.sources: {source.path}: mapping: unknown name {unknown[0]!r}",
            hint=f"mapping is `our name: column`; our names: {', '.join(sorted(MAPPABLE))}",
        )


def system_text(data: DataSection) -> str | None:
    """Return the text of the system prompt.

    Raises:
        DataError: its file cannot be read.
    """
    if data.system_prompt is None or data.system_prompt.path is None:
        return data.system_prompt.text if data.system_prompt else None
    path = data.system_prompt.path
    try:
        return Path(path).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.system_prompt.path: {path}: {error}", hint="name a readable UTF-8 file") from error
