"""Extract the texts of a row that are compared with other rows, and its keys."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

from trainer.data.duplicates.jaccard import ComparableText
from trainer.data.duplicates.keys import content_key, digest, dump, normalise, number, prompt_keys
from trainer.data.duplicates.shingles import normalise_words
from trainer.data.records.kinds import Message, Record


class RowKeys(NamedTuple):
    """Digests of one row, 64 bits each; 0 stands for nothing."""

    content: int
    """All that the row teaches."""
    prompts: tuple[int, ...]
    """Every prompt that it trains an answer to, the last one last."""
    answer: int
    """The last answer, normalised."""
    reply: int
    """The last answer, letter by letter."""
    context: int
    """System turn, results of tools, and tools."""


class RowTexts(NamedTuple):
    """Texts of one row, as they are written."""

    prompt: str
    """See `prompt_text`."""
    answer: str
    """See `answer_text`."""
    context: str
    """System turn, results of tools, tools and label."""


def texts_of_row(record: Record) -> RowTexts:
    """Return the texts of a canonical row."""
    return RowTexts(prompt_text(record), answer_text(record), _context_text(record))


def keys_of(record: Record, texts: RowTexts) -> RowKeys:
    """Return the digests of a canonical row."""
    _, answer, context = texts
    return RowKeys(
        content=number(content_key(record)),
        prompts=tuple(number(key) for key in prompt_keys(record)),
        answer=number(digest("answer", normalise(answer))) if answer else 0,
        reply=number(digest("reply", reply_text(record))) if "text" not in record and "input_ids" not in record else 0,
        context=number(digest("context", normalise(context))) if context else 0,
    )


def comparable_of(record: Record, texts: RowTexts) -> ComparableText:
    """Return the texts by which a row is compared with others; results of tools count as context."""
    prompt = " ".join(_turn_text(turn) for turn in prompt_turns(record) if turn["role"] in ("user", "assistant"))
    return ComparableText(*map(normalise_words, (prompt, texts.answer, texts.context)))


OPENING_WORDS = (8, 16, 32)
"""Lengths at which openings of prompts are compared, to tell templates. Eight words of a question that a person asks
recur in fewer than ten of ten thousand."""


def openings_of(comparable: ComparableText) -> list[int]:
    """Return digests of the first 8, 16 and 32 words of a prompt; 0 for one that has no more words than that."""
    words = comparable.prompt.split(" ", OPENING_WORDS[-1])
    return [
        zlib.crc32(" ".join(words[:count]).encode()) | 1 << 32 if len(words) > count else 0 for count in OPENING_WORDS
    ]


def without_opening(comparable: ComparableText, num_words: int) -> ComparableText:
    """Leave out the first words of the prompt."""
    return comparable._replace(prompt=comparable.prompt.split(" ", num_words)[num_words]) if num_words else comparable


def pack_texts(comparable: ComparableText) -> bytes:
    """Return the texts on one line; normalised texts hold no control characters."""
    return "\t".join(comparable).encode() + b"\n"


def unpack_texts(line: bytes) -> ComparableText:
    """Undo `pack_texts`."""
    return ComparableText(*line[:-1].decode().split("\t"))


def prompt_turns(record: Record) -> Sequence[Message]:
    """Return the turns before the last answer."""
    if "messages" in record:
        return record["messages"][: _last_answer(record)]
    return record.get("prompt", [])


def answer_turns(record: Record) -> Sequence[Message]:
    """Return the turns of the last answer, of a pair those of both answers."""
    if "messages" in record:
        return record["messages"][_last_answer(record) :]
    return [*record.get("completion", ()), *record.get("chosen", ()), *record.get("rejected", ())]


def _last_answer(record: Record) -> int:
    turns = record["messages"]
    for index in range(len(turns) - 1, -1, -1):
        if turns[index]["role"] == "assistant":
            return index
    return len(turns)


def answer_text(record: Record) -> str:
    """Return what the last answer says, tool calls included; of a pair both answers; of a text the text."""
    if "text" in record:
        return record["text"]
    return "\n".join(_turn_text(turn) for turn in answer_turns(record) if turn["role"] != "tool")


def prompt_text(record: Record) -> str:
    """Return what is asked: every turn before the last answer but the system turn."""
    return "\n".join(_turn_text(turn) for turn in prompt_turns(record) if turn["role"] != "system")


def reply_text(record: Record) -> str:
    """Return the content of the final answer, of a pair the chosen one."""
    turns = record.get("messages") or record.get("chosen") or record.get("completion")
    return turns[-1]["content"].strip() if turns else ""


def _context_text(record: Record) -> str:
    turns = (*prompt_turns(record), *answer_turns(record))
    texts = [turn["content"] for turn in turns if turn["role"] in ("system", "tool")]
    if record.get("tools"):
        texts.append(dump(record["tools"]))
    if "label" in record:  # the same answer judged good and bad is no copy
        texts.append(f"label {record['label']}")
    return "\n".join(texts)


def _turn_text(turn: Message) -> str:
    calls = turn.get("tool_calls")
    return f"{turn['content']} {dump(calls)}" if calls else turn["content"]


def num_turns(record: Record) -> int:
    """Count the turns of a row, without the system turn; of a pair, the prompt's and the chosen answer's."""
    turns = record["messages"] if "messages" in record else [*record.get("prompt", ()), *_last(record)]
    return sum(turn["role"] != "system" for turn in turns)


def _last(record: Record) -> Sequence[Message]:
    return record.get("chosen") or record.get("completion") or ()
