"""A file of rows to a token file, with bounded memory: rows are rendered while the ones before them are tokenized.

`tokenizers` uses all cores for one call (unless TOKENIZERS_PARALLELISM is false) and leaves Python free meanwhile, so
one thread beside this one keeps both busy. Rows keep their order; threads change no result.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.data import exact
from trainer.tokens.chat import Renderer
from trainer.tokens.encode import Piece, encode_pairs, encode_rows
from trainer.tokens.store import TokenWriter

ROWS_AT_ONCE = 512
BYTES_AT_ONCE = 1 << 20


def tokenize_file(source: Path, renderer: Renderer, target: Path, *, is_pairs: bool) -> int:
    """Write the token file of a JSONL file; return its number of rows.

    Raises:
        DataError: A row cannot be rendered, or trains nothing.
    """
    render: Any = renderer.render_pair if is_pairs else renderer.render
    encode: Any = encode_pairs if is_pairs else encode_rows
    waiting: tuple[range, Future[list[Piece]]] | None = None
    end = 0
    with TokenWriter(target, segments=3 if is_pairs else 1) as writer, ThreadPoolExecutor(1) as beside:
        for lines in _chunks(source):
            rendered = [render(exact.loads(line)) for line in lines]
            numbers = range(end, end := end + len(lines))
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
            if len(lines) >= ROWS_AT_ONCE or num_bytes >= BYTES_AT_ONCE:
                yield lines
                lines, num_bytes = [], 0
    if lines:
        yield lines
