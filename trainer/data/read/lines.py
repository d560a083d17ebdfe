"""Read lines of a file, compressed or not, in bounded memory."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import zstandard

from trainer.data.read.files import JSON_SUFFIXES, TEXT_TABLE_SUFFIXES, kind_of_file
from trainer.data.read.raw_row import MAX_ROW_BYTES
from trainer.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BOM = b"\xef\xbb\xbf"
WIDE_BOMS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order mark -> encoding, the longer marks first; Excel's "Unicode text" is UTF-16."""
NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Control characters that no text has, in any encoding of one byte a letter."""
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BZIP_MAGIC, XZ_MAGIC = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), b"\xfd7zXZ\x00"
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, lzma.LZMAError)
BUFFER_BYTES = 2**20
ZSTD_INPUT_BYTES = 1024
"""One block of 4 bytes may unfold to 128 KiB: this bounds what a hostile file unfolds to at once to 32 MiB."""
SHOWN_BYTES = 200


class Line(NamedTuple):
    """One physical line."""

    number: int
    """From 1."""
    content: bytes
    """With its line end; only the opening of a line that is too long."""
    is_cut: bool = False


class GzipMembers(io.RawIOBase):
    """Bytes of a gzip file, given as soon as they are unpacked: `GzipFile` keeps what came before damage to itself."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self.file.readinto1(buffer)


class ZstdFrames(io.RawIOBase):
    """Bytes of a zstd file; unlike zstandard's own reader it tells a file that ends too early from a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.frame: zstandard.ZstdDecompressionObj | None = None
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self.ready and (packed := self.file.read(ZSTD_INPUT_BYTES)):
            self.ready = memoryview(self._unpacked(packed))
        if not self.ready and self.frame is not None:
            raise EOFError("zstd data ends early")
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self.ready))
        view[:size], self.ready = self.ready[:size], self.ready[size:]
        return size

    def _unpacked(self, packed: bytes) -> bytes:
        parts = []
        while packed:
            self.frame = self.frame or zstandard.ZstdDecompressor().decompressobj()
            parts.append(self.frame.decompress(packed))
            packed = self.frame.unused_data if self.frame.eof else b""
            self.frame = None if self.frame.eof else self.frame
        return b"".join(parts)


class LineFeeds(io.RawIOBase):
    """Bytes of a stream whose lines end in a lone carriage return, as old spreadsheets write them, in line feeds."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        part = self.stream.read1(len(view))
        view[: len(part)] = part.replace(b"\r", b"\n")
        return len(part)


class Recoded(io.RawIOBase):
    """UTF-8 bytes of a stream in another encoding, which its byte order mark names."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self.stream, self.decoder = stream, codecs.getincrementaldecoder(encoding)()
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self.ready and (part := self.stream.read1(BUFFER_BYTES)):
            # A half of a surrogate pair stays what it is, so that the row is rejected by name.
            self.ready = memoryview(self.decoder.decode(part).encode("utf-8", "surrogatepass"))
        if not self.ready:
            self.decoder.decode(b"", final=True)
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self.ready))
        view[:size], self.ready = self.ready[:size], self.ready[size:]
        return size


@contextmanager
def open_unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file at its first character, as UTF-8.

    How it is packed is told by its first bytes, UTF-16 and UTF-32 by their byte order mark; any such mark is passed.
    JSON is UTF-8 by its standard (RFC 8259), spreadsheets and texts may be any of them.

    Raises:
        DataError: it cannot be read, or holds no text.
    """
    try:
        with path.open("rb") as file:
            stream = _unpack(file)
            opening = stream.peek(4)[:4]
            wide = next((name for mark, name in WIDE_BOMS.items() if opening.startswith(mark)), None)
            if wide and kind_of_file(path) not in JSON_SUFFIXES:
                stream = io.BufferedReader(Recoded(stream, wide), BUFFER_BYTES)
            elif wide or b"\x00" in opening:
                hint = _hint((wide or "utf-16").upper())
                raise DataError(f"{path}:1: not UTF-8: UTF-16, UTF-32 or no text at all", hint=hint)
            elif opening.startswith(BOM):
                stream.read(len(BOM))
            if kind_of_file(path) in TEXT_TABLE_SUFFIXES and _ends_in_returns(stream.peek(BUFFER_BYTES)):
                stream = io.BufferedReader(LineFeeds(stream), BUFFER_BYTES)
            yield stream
    except DAMAGED as error:
        raise DataError(f"{path}: damaged or cut short: {error}", hint="bring the file again") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not {error.encoding}, though its first bytes say so", hint="bring the file again"
        ) from error
    except OSError as error:
        if error.errno is None:  # bz2's word for damage
            raise DataError(f"{path}: damaged or cut short: {error}", hint="bring the file again") from error
        raise DataError(f"{path}: {error.strerror or error}", hint="make the file readable") from error


def _ends_in_returns(opening: bytes) -> bool:
    """Tell whether the lines of a text end in a carriage return alone; a last one may have its line feed to come."""
    return b"\r" in opening[:-1] and b"\n" not in opening


def _unpack(file: io.BufferedReader) -> io.BufferedReader:
    magic = file.peek(10)
    if magic.startswith(GZIP_MAGIC):
        return io.BufferedReader(GzipMembers(file), BUFFER_BYTES)
    if magic.startswith(ZSTD_MAGIC):
        return io.BufferedReader(ZstdFrames(file), BUFFER_BYTES)
    if BZIP_MAGIC.match(magic):
        return io.BufferedReader(bz2.BZ2File(file), BUFFER_BYTES)
    if magic.startswith(XZ_MAGIC):
        return io.BufferedReader(lzma.LZMAFile(file), BUFFER_BYTES)
    return file


def read_lines(path: Path, *, longest: int = MAX_ROW_BYTES) -> Iterator[Line]:
    """Read the lines of a file; one of `longest` bytes or more comes cut, and its rest is passed over.

    Raises:
        DataError: the file cannot be read or unpacked; the message carries the line.
    """
    number = 0
    with open_unpacked(path) as stream:
        try:
            while content := stream.readline(longest):
                number += 1
                is_cut = len(content) == longest and not content.endswith(b"\n")
                if is_cut:
                    _pass_rest(stream)
                yield Line(number, content[:SHOWN_BYTES] if is_cut else content, is_cut)
        except DAMAGED as error:
            raise DataError(
                f"{path}:{number + 1}: damaged or cut short: {error}", hint="bring the file again: this copy is broken"
            ) from error


def _pass_rest(stream: io.BufferedReader) -> None:
    while (part := stream.readline(BUFFER_BYTES)) and not part.endswith(b"\n"):
        pass


def decode(path: Path, line: int, text: bytes) -> str:
    """Decode a line.

    Raises:
        DataError: it is not UTF-8; the message carries the place of the byte.
    """
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        byte = f"(byte 0x{text[error.start]:02x} at column {error.start + 1})"
        if NOT_TEXT.search(text):
            raise DataError(
                f"{path}:{line}: no text but binary data {byte}", hint="give JSON, JSON lines, CSV or Parquet"
            ) from None
        raise DataError(f"{path}:{line}: not UTF-8 {byte}", hint=_hint("CP1252")) from None


def _hint(encoding: str) -> str:
    return f"convert the file, for example: iconv -f {encoding} -t UTF-8"
