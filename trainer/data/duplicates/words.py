"""Cut texts into words, and tell those that can decide something from those that hold a sentence together.

Text in prose is compared word by word. Code and JSON are compared line by line and value by value, because there every
sign counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from itertools import chain, repeat
from typing import NamedTuple

import orjson

from trainer import exact_json
from trainer.data.duplicates.alternatives import CONTRACTIONS, GLUE, UNMARKED
from trainer.data.duplicates.keys import SUPERSCRIPTS
from trainer.data.duplicates.shingles import UNSPACED


class Kind(IntEnum):
    """What a token is."""

    GLUE = 0
    WORD = 1
    NAME = 2
    """Begins with a capital letter inside a sentence."""
    CHARACTER = 3
    """Of a script that writes no spaces."""
    VALUE = 4
    """Number, code, address, operator, single letter, line of code: no part of it is without weight."""


class Token(NamedTuple):
    """A word as it is compared."""

    key: str
    kind: Kind


Tokens = tuple[Token, ...]

FENCE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)", re.DOTALL)
CODE_SIGN = re.compile(r"[{};:=()\[\]>]")
"""What any line of code has that is not indented: most lines have none of it, and this is found fast."""
CODE_LINE = re.compile(
    r"(?: {2,}|\t)\s*\S|.*[{};]\s*$|\s*(?:def|class|for|while|if|elif|else|return|import|function|const|let|var|"
    r"public|private|#include)\b.*[():={}\[\]]|\s*[\w.]+\(.*\)\s*$|\s*[\w.\[\]]+\s*(?:[-+*/%&|^]?=|=>|->)\s*\S"
)
PROSE = re.compile(r"(?:[^\W\d_]{2,} ){3}[^\W\d_]{2,}")
"""Four words in a row: a sentence, whatever signs stand in it."""
MISSING_SPACE = re.compile(
    r"(?<=[^\W\d_][a-zß-ÿ])[.?!](?=[A-Z])|(?<=[^\W\d_]{2})[,;?!](?=[^\W\d_]{2})|(?<=\s)[.?!,;](?=I\b|[A-Z][a-z])"
)
"""Where a sentence or clause ends and no space follows."""
MAY_MISS_SPACE = re.compile(r"[.?!,;][^\W\d_]")
"""In every text where a space is missing; it begins with one class, which is fast."""
PLAIN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
LOOSE_END = re.compile(r"(?<=[^\W\d_]{2})[-/]+$")
"""A hyphen or slash after a word: `top- up`."""
JOINT = "\ue000"
"""Stands for the space between words that are quoted together."""
QUOTE = r"[\"'“”„«»‘’`]"
QUOTED = re.compile(rf"[(\[]*{QUOTE}+([\w{JOINT}]+)[.,;:?!]*{QUOTE}+[)\].,;:?!]*")
"""A word in quotation marks is spoken of: the word `to` is another one than `for`."""
QUOTED_WORDS = re.compile(rf"(?<!\w){QUOTE}\w+(?: \w+){{1,2}}{QUOTE}(?!\w)")
MAY_QUOTE = re.compile(rf"(?<!\w){QUOTE}\w")
EMOTICON = re.compile(r"[:;=]['-]?[()\[\]DPp/|]+")
TERM = re.compile(r"\d|^\W*[^\W\d_]\W*$")
"""A number or a single letter: a hyphen beside it is a minus sign."""
OPENING, CLOSING = "\"'([{<“”„«»‘’¿¡…–—", "\"')]}>.,;:?!“”„«»‘’…–—"
CLOSED_SENTENCE = ".?!:"
UNSPACED_SIGNS = re.compile(r"[、。，！？：；「」『』（）・…\s]")
MAX_CASED = 2
"""Up to so many letters, capitals tell words apart: US and us, CO and Co, MB and Mb."""


# A row is compared with several others. `fold` has no default: the cache would hold a text twice.
@lru_cache(maxsize=4096)
def tokens_of(text: str, *, fold: bool) -> Tokens:
    """Cut a text into tokens.

    Args:
        text: as it stands in the row.
        fold: ignore capitals, for texts of which one is written in capitals throughout.

    Example:
        >>> [(token.key, token.kind.name) for token in tokens_of("Why can't Bonn pay 5%?", fold=False)]
        [('why', 'WORD'), ('can', 'GLUE'), ('not', 'WORD'), ('bonn', 'NAME'), ('pay', 'WORD'), ('5%', 'VALUE')]
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(SUPERSCRIPTS)).replace("\u2019", "'")
    value = _json_value(text)
    if value is not None:
        return (Token(value, Kind.VALUE),)
    if "```" not in text and "~~~" not in text:
        return tuple(_lines(text, fold=fold))
    tokens: list[Token] = []
    start = 0
    for fence in FENCE.finditer(text):
        tokens += _lines(text[start : fence.start()], fold=fold)
        tokens += _code(fence.group())
        start = fence.end()
    return tuple([*tokens, *_lines(text[start:], fold=fold)])


def _json_value(text: str) -> str | None:
    """Return an object or list in one spelling; None for any other text."""
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        return None
    try:
        return exact_json.dumps(exact_json.loads(stripped), option=orjson.OPT_SORT_KEYS).decode()
    except (ValueError, TypeError, RecursionError):
        return None


def _code(text: str) -> Iterator[Token]:
    for line in text.splitlines():
        if line.strip():
            yield Token(line.rstrip(), Kind.VALUE)


def _lines(text: str, *, fold: bool) -> list[Token]:
    tokens: list[Token] = []
    for line in text.splitlines():
        may_be_code = line.startswith((" ", "\t")) or CODE_SIGN.search(line)
        if may_be_code and not PROSE.search(line) and CODE_LINE.match(line):
            tokens += _code(line)
            continue
        chunks = _chunks(line)
        starts_sentence = [True, *[chunk[-1] in CLOSED_SENTENCE for chunk in chunks]]
        tokens += chain.from_iterable(map(_cut, chunks, starts_sentence, repeat(fold)))
    return tokens


def _chunks(line: str) -> list[str]:
    """Return what stands between spaces, and between a sentence or clause and the next; no hyphens that are dashes."""
    if MAY_MISS_SPACE.search(line):
        line = MISSING_SPACE.sub(r"\g<0> ", line)
    if " " in line and MAY_QUOTE.search(line):
        line = QUOTED_WORDS.sub(lambda match: match[0].replace(" ", JOINT), line)
    chunks = line.split()
    if "-" not in chunks:
        return chunks
    # the chunk and both of its neighbours
    is_sign = [any(map(TERM.search, chunks[max(index - 1, 0) : index + 2])) for index in range(len(chunks))]
    return [chunk for chunk, keep in zip(chunks, is_sign, strict=True) if keep or chunk != "-"]


@lru_cache(maxsize=65536)  # rows are made of the same words again and again
def _cut(chunk: str, starts_sentence: bool, fold: bool) -> Tokens:
    """Return the tokens of what stands between spaces."""
    if not chunk.isascii() and UNSPACED.search(chunk):
        return tuple(_unspaced(chunk, fold=fold))
    bare = LOOSE_END.sub("", _bare(chunk))
    if EMOTICON.fullmatch(chunk):
        return (Token(chunk, Kind.WORD),)
    if not bare:
        return ()
    quoted = QUOTED.fullmatch(chunk)
    if quoted:
        bare = quoted[1]
        return (Token(bare.casefold() if fold else bare, Kind.VALUE),)
    if not PLAIN.fullmatch(bare) or ("-" in bare and any(part.isupper() for part in bare.split("-"))):
        return (Token(bare.casefold() if fold else bare, Kind.VALUE),)
    parts = (_word(part, starts_sentence=starts_sentence, fold=fold) for part in bare.split("-"))
    return tuple(chain.from_iterable(parts))


def _bare(chunk: str) -> str:
    """Return a chunk without the punctuation around it; `-5`, `!x`, `5!` and operators stay whole."""
    bare = chunk.lstrip(OPENING)
    stripped = bare.rstrip(CLOSING)
    if not stripped:  # signs alone: punctuation, or an operator such as `<` or `>=`
        return chunk if chunk.strip("<>=") != chunk else ""
    is_factorial = bare[len(stripped) :].startswith("!") and (stripped[-1].isdigit() or len(stripped) == 1)
    return stripped + "!" if is_factorial else stripped


def _unspaced(chunk: str, *, fold: bool) -> Iterator[Token]:
    """Yield each character of a script without spaces, and the other words in between."""
    word = ""
    for letter in UNSPACED_SIGNS.sub(" ", chunk):
        if UNSPACED.match(letter) or letter == " ":
            if word:
                yield from _cut(word, True, fold)
            word = ""
            if letter != " ":
                yield Token(letter, Kind.CHARACTER)
        else:
            word += letter
    if word:
        yield from _cut(word, True, fold)


def _word(word: str, *, starts_sentence: bool, fold: bool) -> Iterator[Token]:
    folded = word.casefold()
    if "'" in folded:
        yield from _contracted(folded)
    elif folded in UNMARKED:
        yield from _negated(UNMARKED[folded])
    elif folded == "cannot":
        yield from _negated("can")
    elif not fold and _case_decides(word):
        yield Token(word, Kind.VALUE)
    elif folded in GLUE:
        yield Token(folded, Kind.GLUE)
    elif len(folded) == 1:
        yield Token(folded if fold else word, Kind.VALUE)
    else:
        # a capital at the start of a sentence tells nothing
        is_name = not fold and not starts_sentence and word[0].isupper()
        yield Token(folded, Kind.NAME if is_name else Kind.WORD)


def _case_decides(word: str) -> bool:
    """Tell identifiers and short signs: camelCase, NaCl, US, CO."""
    if word[1:].islower() or word.islower() or len(word) == 1:
        return False
    return not word.isupper() or len(word) <= MAX_CASED


def _contracted(word: str) -> Iterator[Token]:
    """Yield the words that an apostrophe joins: `don't` is do not, `it's` is it is."""
    if word.endswith("n't"):
        stem = {"ca": "can", "wo": "will", "sha": "shall"}.get(word[:-3], word[:-3])
        yield from _negated(stem)
        return
    stem, _, ending = word.rpartition("'")
    for part in (stem.replace("'", ""), CONTRACTIONS.get(ending, ending)):
        yield Token(part, Kind.GLUE if part in GLUE else Kind.WORD)


def _negated(stem: str) -> Iterator[Token]:
    yield Token(stem, Kind.GLUE if stem in GLUE else Kind.WORD)
    yield Token("not", Kind.WORD)
