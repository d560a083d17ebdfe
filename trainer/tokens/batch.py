"""Tokenize a file of rows with bounded memory: rows are rendered while earlier ones are tokenized.

`tokenizers` uses all cores for one call (unless TOKENIZERS_PARALLELISM is false) and releases Python's lock, so that a
second thread keeps both busy. Rows keep their order; threads change no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from trainer import exact_json
from trainer.data.records.kinds import Record
from trainer.tokens.chat import Renderer
from trainer.tokens.encode import Piece, Rendered, encode_pairs, encode_rows
from trainer.tokens.store import StoredShape, TokenWriter, segments_of

ROWS_AT_ONCE = 512
BYTES_AT_ONCE = 1 << 20


def coder_of(
    shape: StoredShape, renderer: Renderer
) -> tuple[Callable[[Record], list[Any]], Callable[[Any, Any], list[list[Piece]]]]:
    """Return the function that renders a row of a shape, as one text or more, and the one that encodes such texts."""
    match shape:
        case "single":
            return renderer.render, encode_rows
        case "pair":
            return renderer.render_pair, encode_pairs
        case _:
            assert_never(shape)


@dataclass(frozen=True)
class _Chunk:
    """Rows on their way from text to tokens."""

    lines: list[int]
    """Line of each rendered text; of several where a row has several texts."""
    texts: list[Any]
    encoded: Future[list[list[Piece]]]


def tokenize_file(source: Path, renderer: Renderer, target: Path, shape: StoredShape) -> int:
    """Write the token file of a JSONL file; return its number of rows.

    Raises:
        DataError: A row cannot be rendered, or trains nothing.
    """
    render, encode = coder_of(shape, renderer)
    waiting: _Chunk | None = None
    end = 0
    with TokenWriter(target, segments=segments_of(shape)) as writer, ThreadPoolExecutor(1) as beside:
        for lines in _chunks(source):
            rendered = [render(exact_json.loads(line)) for line in lines]
            texts = [text for some in rendered for text in some]
            numbers = [end + index for index, some in enumerate(rendered) for _ in some]
            end += len(lines)
            # chunk n is tokenized while chunk n + 1 is rendered; one in flight bounds the memory
            chunk = _Chunk(numbers, texts, beside.submit(encode, renderer.tokenizer, texts))
            if waiting:
                _write(writer, waiting)
            waiting = chunk
        if waiting:
            _write(writer, waiting)
    return end


def _write(writer: TokenWriter, chunk: _Chunk) -> None:
    pieces = chunk.encoded.result()
    counts = [len(some) // writer.segments for some in pieces]
    lines = [line for line, count in zip(chunk.lines, counts, strict=True) for _ in range(count)]
    writer.add(lines, [piece for some in pieces for piece in some])
    writer.ways.update(way for text in chunk.texts if isinstance(text, Rendered) for way in text.ways)


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
