"""Tokenize a file of rows with bounded memory: rows are rendered while earlier ones are tokenized.

`tokenizers` uses all cores for one call (unless TOKENIZERS_PARALLELISM is false) and releases Python's lock, so that a
second thread keeps both busy. Rows keep their order; threads change no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, assert_never

from trainer import exact_json
from trainer.data.records.kinds import Record
from trainer.tokens.chat import Renderer
from trainer.tokens.encode import Piece, encode_pairs, encode_rows
from trainer.tokens.store import StoredShape, TokenWriter, segments_of

ROWS_AT_ONCE = 512
BYTES_AT_ONCE = 1 << 20


def coder_of(
    shape: StoredShape, renderer: Renderer
) -> tuple[Callable[[Record], Any], Callable[[Any, Any], list[Piece]]]:
    """Return the function that renders a row of a shape, and the one that encodes rendered rows."""
    match shape:
        case "single":
            return renderer.render, encode_rows
        case "pair":
            return renderer.render_pair, encode_pairs
        case _:
            assert_never(shape)


def tokenize_file(source: Path, renderer: Renderer, target: Path, shape: StoredShape) -> int:
    """Write the token file of a JSONL file; return its number of rows.

    Raises:
        DataError: A row cannot be rendered, or trains nothing.
    """
    render, encode = coder_of(shape, renderer)
    waiting: tuple[range, Future[list[Piece]]] | None = None
    end = 0
    with TokenWriter(target, segments=segments_of(shape)) as writer, ThreadPoolExecutor(1) as beside:
        for lines in _chunks(source):
            rendered = [render(exact_json.loads(line)) for line in lines]
            numbers = range(end, end := end + len(lines))
            # chunk n is tokenized while chunk n + 1 is rendered; one in flight bounds the memory
            future = beside.submit(encode, renderer.tokenizer, rendered)
            if waiting:
                writer.add(waiting[0], waiting[1].result())
            waiting = numbers, future
        if waiting:
            writer.add(waiting[0], waiting[1].result())
    return end


def _chunks(source: Path) -> Iterator[list[bytes]]:
    lines: list[bytes] = []
    num_bytes = 0
    with source.open("rb") as file:
        for line in file:
            lines.append(line)
            num_bytes += len(line)
            # by bytes too: 512 rows of a megabyte each would not fit
            if len(lines) >= ROWS_AT_ONCE or num_bytes >= BYTES_AT_ONCE:
                yield lines
                lines, num_bytes = [], 0
    if lines:
        yield lines
