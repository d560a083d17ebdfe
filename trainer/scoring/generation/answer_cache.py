"""Keep answers on disk as they come, so that an interrupted evaluation resumes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import orjson

from trainer.scoring.question import Answer


class AnswerStore:
    """A JSONL file of answers by key; the last answer of a key counts.

    The file's name must tell all that answers depend on besides the key: model, adapter, decoding. A line that a crash
    cut off does not count, and its prompt is asked again.

    Args:
        path: The file; made with the first answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        self.file: BinaryIO | None = None
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        self.cut_off = bool(lines[-1])
        """The file ends inside a line, which the next answer must not continue."""
        for line in lines:
            if (entry := _read(line)) is not None:
                self.answers[entry[0]] = entry[1]

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: str) -> Answer | None:
        """Return the answer kept under a key, or None."""
        return self.answers.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; it is in the file when this returns."""
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("ab")
        line = orjson.dumps({"key": key, **asdict(answer)}, option=orjson.OPT_APPEND_NEWLINE)
        # half a line of a crash gets its own line, which `_read` refuses
        self.file.write(b"\n" + line if self.cut_off else line)
        self.file.flush()
        self.cut_off = False
        self.answers[key] = answer

    def close(self) -> None:
        """Close the file; a later `put` opens it again."""
        if self.file is not None:
            self.file.close()
            self.file = None


def _read(line: bytes) -> tuple[str, Answer] | None:
    """Return key and answer of a line, or None where it is empty or damaged."""
    try:
        values = orjson.loads(line)
        calls = tuple(values.pop("tool_calls"))
        return str(values.pop("key")), Answer(**values, tool_calls=calls)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
