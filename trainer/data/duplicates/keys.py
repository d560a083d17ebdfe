"""Compute digests of normalised rows: two rows with one digest count as the same."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Literal

import orjson

from trainer import exact_json
from trainer.data.character_classes import CAPITALS, DIGITS, SMALL, class_table, classes_of
from trainer.data.records.kinds import TURN_LISTS, Message, Record

ComparedKey = Literal["role", "content", "reasoning_content", "thinking", "tool_calls"]
COMPARED_KEYS: tuple[ComparedKey, ...] = ("role", "content", "reasoning_content", "thinking", "tool_calls")
"""What of a turn is compared; ids, names and weights are not."""


SUPERSCRIPTS = {ord(sign): f"^{digit}" for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
"""For `str.translate`: NFKC alone makes 102 of 10²."""
CASED = re.compile(r"```|[a-z][A-Z]|\b(?:[A-Z]{2}|[A-Z][a-z][A-Z0-9])\b|\n[ \t]+\S|[{};]\s*\n")
"""Signs of code, formulas and units, in which capitals and line breaks decide: `rowCount`, CO, Mb, an indented line."""
CASED_CLASSES = class_table(a=SMALL, A=CAPITALS, d=DIGITS, n="\n", s=" \t", c="{};")


@lru_cache(maxsize=64)  # the keys of one row fold the same few strings again and again
def normalise(text: str) -> str:
    """Fold what people do not see as a difference: Unicode form (NFKC), case and runs of space.

    Example:
        >>> normalise("A  square is 10² m")
        'a square is 10^2 m'
    """
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.translate(SUPERSCRIPTS)).casefold()
    return " ".join(folded.split())


@lru_cache(maxsize=64)
def normalise_exactly(text: str) -> str:
    """Fold as `normalise` does, but leave capitals and lines where they may decide."""
    return "\n".join(map(str.rstrip, text.strip("\n").splitlines())) if _is_cased(text) else normalise(text)


def _is_cased(text: str) -> bool:
    classes = classes_of(text, CASED_CLASSES)
    # one pass over classes of letters first: most texts need no search
    may_be = b"aA" in classes or b"AA" in classes or b"Aad" in classes or b"ns" in classes or "```" in text
    return (may_be or (b"c" in classes and b"n" in classes)) and CASED.search(text) is not None


def content_key(record: Record) -> str:
    """Return the digest of all that a row teaches, the system turn included: it may hold the document asked about."""
    if "text" in record:
        return digest("text", normalise_exactly(record["text"]))
    if "input_ids" in record:
        return digest("ids", dump([record["input_ids"], record.get("labels")]))
    parts = [compared_turns(record[name], system=True) for name in TURN_LISTS if name in record]
    everything = [parts, record.get("tools"), *([record["label"]] if "label" in record else [])]
    return digest("turns", dump(everything, normalise_exactly))


def prompt_keys(record: Record) -> list[str]:
    """Return the digests of every prompt that a row trains an answer to, the last one last.

    A conversation `u1 a1 u2 a2` trains on the prompts `u1` and `u1 a1 u2`. A row without any prompt (text, token
    ids, or an assistant turn alone) is its own prompt.
    """
    if "text" in record:
        return [digest("text", normalise(record["text"]))]
    if "input_ids" in record:
        return [digest("ids", dump(record["input_ids"]))]
    if "prompt" in record:
        return [digest("turns", dump(compared_turns(record["prompt"])))]
    turns = [turn for turn in record["messages"] if turn["role"] != "system"]
    # Each turn is folded once; the prompts are prefixes of one list.
    folded = [dump(turn) for turn in compared_turns(turns)]
    ends = [index for index, turn in enumerate(turns) if turn["role"] == "assistant" and index > 0]
    return [digest("turns", f"[{','.join(folded[:end])}]") for end in ends or [len(folded)]]


def compared_turns(turns: Iterable[Message], *, system: bool = False) -> list[dict[str, object]]:
    """Return what the turns say, without the system turn unless it is asked for."""
    chosen = [turn for turn in turns if system or turn["role"] != "system"]
    return [{key: value for key in COMPARED_KEYS if (value := turn.get(key))} for turn in chosen]


def dump(value: object, fold: Callable[[str], str] = normalise) -> str:
    """Write JSON with sorted keys and every string folded."""
    return exact_json.dumps(_folded(value, fold), option=orjson.OPT_SORT_KEYS).decode()


def _folded(value: object, fold: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return fold(value)
    if isinstance(value, dict):
        return {
            normalise(str(key)): fold(item) if type(item) is str else _folded(item, fold) for key, item in value.items()
        }
    if isinstance(value, exact_json.ExactNumber) and exact_json.is_number(value) and math.isfinite(value):
        # 10.50 and 10.5 are one number, 0.1 and 0.1000000000000000055 are not.
        return float(value) if Decimal(value.text) == Decimal(repr(float(value))) else value
    return [_folded(item, fold) for item in value] if isinstance(value, list) else value


def digest(kind: str, text: str) -> str:
    """Return 32 hex digits; `kind` keeps a text from equalling a conversation."""
    return hashlib.blake2b(f"{kind}\x1f{text}".encode(), digest_size=16).hexdigest()


def number(key: str) -> int:
    """Return the first 64 bits of a digest: among a million rows two collide with probability 3e-8."""
    return int(key[:16], 16)
