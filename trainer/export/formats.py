"""Bind each export format to the functions that write, reopen and judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from trainer.export.compress.compressor import Compressed, check_compressor
from trainer.export.gguf.reopen import open_gguf
from trainer.export.gguf.write import check_gguf
from trainer.export.reopen import Opened, open_adapter, open_whole
from trainer.export.request import Export, Request
from trainer.export.write import Writer, WrittenExport
from trainer.recipe.export import Format

Precision = Literal["exact", "rounded", "quantised"]
"""Which limits of `export.verify` hold: of float32, of 16 bits or of fewer."""


@dataclass(frozen=True)
class _Reopened:
    open: Callable[[Request, Export], Opened]
    """Opens the folder again, in a fresh process."""
    precision: Callable[[str], Precision]
    """Takes the type of its weights."""
    holds_tokenizer: bool
    """Its files hold tokenizer and template themselves."""
    is_replayed: bool
    """Every tensor is computed again and compared bit by bit."""


@dataclass(frozen=True)
class FromTraining(_Reopened):
    """A format that is written from what training left."""

    write: Callable[[Writer], list[WrittenExport]]


@dataclass(frozen=True)
class FromMerged(_Reopened):
    """A format that is made from merged weights."""

    write: Callable[[Writer, WrittenExport], list[WrittenExport]]
    check: Callable[[Writer], None]
    """Looks whether this machine can write it, before anything is written."""


def format_of(name: Format) -> FromTraining | FromMerged:
    """Return what writes, reopens and judges a format."""
    match name:
        case "adapter":
            return ADAPTER
        case "merged":
            return MERGED
        case "gguf":
            return GGUF
        case "bnb4":
            return BNB4
        case "fp8" | "awq" | "gptq":
            return _compressed(name)
        case _:
            assert_never(name)


def _open_adapter(request: Request, export: Export) -> Opened:
    trained = Path(request.trained)
    return open_adapter(Path(export.folder), section=request.section, cache=request.cache, trained=trained)


def _open_whole(_: Request, export: Export) -> Opened:
    return open_whole(Path(export.folder))


def _open_gguf(request: Request, export: Export) -> Opened:
    folder, quantisation = Path(export.folder), export.name.removeprefix("gguf/")
    return open_gguf(folder, quantisation, request.token_prompts, stop_id=request.stop_id, template=request.template)


ADAPTER = FromTraining(
    open=_open_adapter, precision=lambda _: "exact", holds_tokenizer=False, is_replayed=False, write=Writer.adapter
)
MERGED = FromTraining(
    open=_open_whole,
    precision=lambda dtype: "exact" if dtype == "float32" else "rounded",
    holds_tokenizer=False,
    is_replayed=True,
    write=Writer.merged,
)
GGUF = FromMerged(
    open=_open_gguf,
    precision=lambda dtype: "rounded" if dtype in ("f16", "bf16", "f32") else "quantised",
    holds_tokenizer=True,
    is_replayed=False,
    write=Writer.gguf,
    check=lambda writer: check_gguf(writer.recipe.export.gguf),
)
BNB4 = FromMerged(
    open=_open_whole,
    precision=lambda _: "quantised",
    holds_tokenizer=False,
    is_replayed=False,
    write=Writer.bnb4,
    check=lambda _: None,
)


def _compressed(name: Compressed) -> FromMerged:
    return FromMerged(
        open=_open_whole,
        precision=lambda _: "quantised",
        holds_tokenizer=False,
        is_replayed=False,
        write=lambda writer, merged: writer.compressed(name, merged),
        check=lambda writer: check_compressor(name, writer.recipe.export.compress.python, writer.base),
    )
