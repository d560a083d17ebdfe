"""Cache token files by content: the same rows, template and tokenizer are tokenized once, for all runs and recipes.

An entry is one file, `KEY-SHA256.safetensors`: the key is the hash of all inputs of tokenizing, the second hash is that
of the file itself, so that a damaged entry is detected and replaced. Runs share entries as hard links where the file
system allows it. A cache that cannot be written is no error: it only saves time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import orjson

from trainer.tokens.chat import Renderer

PACKAGES = ("jinja2", "tokenizers", "transformers")
SHA_LENGTH = 64


@dataclass(frozen=True)
class TokenCache:
    """A folder of token files; the oldest are removed beyond `limit_bytes`, and 0 turns it off."""

    folder: Path
    limit_bytes: int

    def fetch(self, key: str, target: Path) -> bool:
        """Copy an undamaged entry to `target`; tell whether there was one."""
        for entry in self.folder.glob(f"{key}-*.safetensors") if self.limit_bytes else ():
            try:
                _link(entry, target)
                # hash what this run will read: another process may replace the entry in between
                if entry.stem[-SHA_LENGTH:] == file_sha256(target):
                    return True
                entry.unlink(missing_ok=True)
            except OSError:
                pass  # removed or unreadable by now: the rows are tokenized
            target.unlink(missing_ok=True)
        return False

    def publish(self, key: str, source: Path) -> None:
        """Add a file, then remove the oldest entries beyond the limit."""
        if source.stat().st_size > self.limit_bytes:
            return
        staged = self.folder / f"{key}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _link(source, staged)
            staged.replace(self.folder / f"{key}-{file_sha256(source)}.safetensors")
            self._remove_oldest()
        except OSError:
            pass  # a full or read-only disk: the run has its own file

    def _remove_oldest(self) -> None:
        entries = [(path.stat(), path) for path in self.folder.iterdir() if path.suffix in (".safetensors", ".tmp")]
        entries.sort(key=lambda entry: (entry[0].st_mtime_ns, entry[1].name))
        excess = sum(stat.st_size for stat, _ in entries) - self.limit_bytes
        for stat, path in entries:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= stat.st_size


def cache_key(renderer: Renderer, rows_sha256: str, *, today: date) -> str:
    """Return the hash of all inputs of tokenizing a file: its rows, the tokenizer, settings and this code.

    Limits such as `pack.max_length` are applied later. With a template that prints the date, rows are tokenized once a
    day.
    """
    tokenizer = renderer.tokenizer
    template = orjson.dumps(tokenizer.chat_template, option=orjson.OPT_SORT_KEYS, default=str).decode()
    parts = {
        "rows": rows_sha256,
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "class": type(tokenizer).__name__,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
        "template": template,
        "template_kwargs": renderer.template_kwargs,
        "loss_on": renderer.loss_on,
        "loss_on_reasoning": renderer.loss_on_reasoning,
        "packages": {name: version(name) for name in PACKAGES},
        "code": _code_sha256(),
        "day": today.isoformat() if "strftime_now" in template else None,
    }
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _code_sha256() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file, or a copy on another file system."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
