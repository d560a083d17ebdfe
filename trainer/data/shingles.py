"""Texts as sets of hashed shingles, for many texts at once: what near duplicates are measured on.

Which shingle fits depends on the text. One edited word spoils 2 word pairs of a long text but most word pairs of a
short one, so short texts are compared by 5 characters; a script without spaces has no words to speak of, so it is
compared by 3 characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Counts = NDArray[np.int64]

LONG_WORDS = 40
"""From here on word pairs tell texts apart; below it one edited word would outweigh all that is shared."""
OVERLAP_WORDS = (32, 48)
"""Between these lengths a text is indexed both ways, so that no pair is missed because its two lengths straddle
`LONG_WORDS`."""
UNSPACED_SHARE = 0.3
"""From this share of Chinese, Japanese, Thai and the like, spaces no longer bound words."""
UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
NOT_WORD = re.compile(r"\W+")
_STEP = np.uint64(0x9E3779B97F4A7C15)


class Shingle(IntEnum):
    """Kinds of shingle."""

    CHARACTERS_3 = 0
    CHARACTERS_5 = 1
    WORDS_2 = 2


class Sets(NamedTuple):
    """Hashed shingles of many texts, one after the other."""

    hashes: Hashes
    """Shingles; the same one may come several times within a text."""
    offsets: Counts
    """Text `i` has `hashes[offsets[i]:offsets[i + 1]]`."""


def normalise_words(text: str) -> str:
    """Fold Unicode form (NFKC) and case, and put one space for everything between words."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return NOT_WORD.sub(" ", folded).strip()


def is_unspaced(text: str) -> bool:
    """Tell whether a normalised text is in a script without spaces between words."""
    if text.isascii():
        return False
    return len(UNSPACED.findall(text)) >= UNSPACED_SHARE * max(len(text) - text.count(" "), 1)


def kinds_for(num_words: int, *, unspaced: bool) -> tuple[Shingle, ...]:
    """Return the kinds under which a text is indexed: one, or two near the length where they change."""
    if unspaced:
        return (Shingle.CHARACTERS_3,)
    low, high = OVERLAP_WORDS
    short = (Shingle.CHARACTERS_5,) if num_words < high else ()
    return short + ((Shingle.WORDS_2,) if num_words >= low else ())


def kind_for_pair(num_words: int, *, unspaced: bool) -> Shingle:
    """Return the kind by which two texts are compared.

    Args:
        num_words: words of the shorter one.
        unspaced: whether either is in a script without spaces.
    """
    if unspaced:
        return Shingle.CHARACTERS_3
    return Shingle.WORDS_2 if num_words >= LONG_WORDS else Shingle.CHARACTERS_5


def shingle(texts: Sequence[str], kind: Shingle) -> Sets:
    """Hash the shingles of normalised texts.

    A text shorter than one shingle is one shingle; an empty text has none.

    Example:
        `"to be or"` by word pairs is the set {to be, be or}.
    """
    units, lengths = _characters(texts)
    if kind is Shingle.WORDS_2:
        units, lengths = _words(units, lengths)
    return _windows(units, lengths, {Shingle.CHARACTERS_3: 3, Shingle.CHARACTERS_5: 5, Shingle.WORDS_2: 2}[kind])


def word_windows(texts: Sequence[str], num_words: int) -> Sets:
    """Hash every run of `num_words` words; texts with fewer words have none."""
    units, lengths = _words(*_characters(texts))
    windows = _windows(units, lengths, num_words)
    long_enough = np.repeat(lengths >= num_words, np.diff(windows.offsets))
    sizes = np.where(lengths >= num_words, np.diff(windows.offsets), 0)
    return Sets(windows.hashes[long_enough], offsets_of(sizes))


def offsets_of(sizes: Counts) -> Counts:
    """Return where each of consecutive runs begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _characters(texts: Sequence[str]) -> tuple[Hashes, Counts]:
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    return codes.astype(np.uint64), lengths


def _words(codes: Hashes, lengths: Counts) -> tuple[Hashes, Counts]:
    """Return one hash for each word, and the number of words of each text; words are split by single spaces."""
    if not codes.size:
        return codes, np.zeros_like(lengths)
    text_of = np.repeat(np.arange(lengths.size), lengths)
    is_letter = codes != ord(" ")
    starts = is_letter & np.concatenate([[True], ~is_letter[:-1] | (text_of[1:] != text_of[:-1])])
    first = np.flatnonzero(starts)
    letters = np.flatnonzero(is_letter)
    word_of = np.cumsum(starts)[letters] - 1
    place = (letters - first[word_of]).astype(np.uint64)
    mixed = _mix(codes[letters] + place * _STEP)
    sums = np.add.reduceat(mixed, np.searchsorted(word_of, np.arange(first.size))) if first.size else mixed
    return _mix(sums), np.bincount(text_of[first], minlength=lengths.size).astype(np.int64)


def _windows(units: Hashes, lengths: Counts, width: int) -> Sets:
    """Hash each run of `width` units that lies within one text; a text of fewer units is one run."""
    sizes = np.where(lengths > 0, np.maximum(lengths - width + 1, 1), 0)
    offsets, begins = offsets_of(sizes), offsets_of(lengths)[:-1]
    text_of = np.repeat(np.arange(lengths.size), sizes)
    start = begins[text_of] + np.arange(offsets[-1]) - offsets[text_of]
    hashes = np.zeros(start.size, np.uint64)
    padded = np.concatenate([units, np.zeros(width, np.uint64)])
    left = lengths[text_of] - (start - begins[text_of])
    for place in range(width):
        unit = np.where(place < left, padded[start + place] + np.uint64(1), np.uint64(0))
        hashes = _mix(hashes * _STEP + unit)
    return Sets(hashes, offsets)


def _mix(values: Hashes) -> Hashes:
    """Scatter the bits of 64-bit integers.

    Source: finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def similarities(left: Sets, right: Sets) -> NDArray[np.float64]:
    """Return the exact Jaccard similarity of text `i` of both sides; 1 where both are empty."""
    num = left.offsets.size - 1
    lefts, rights = _tagged(left), _tagged(right)
    shared = np.bincount(_owner(np.intersect1d(lefts[0], rights[0], assume_unique=True), *lefts), minlength=num)
    sizes = np.bincount(lefts[1], minlength=num) + np.bincount(rights[1], minlength=num)
    union = sizes - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


def pair_similarities(sets: Sets, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exact Jaccard similarity of pairs of texts; 1 where both are empty.

    Args:
        sets: shingles of texts.
        pairs: (pairs, 2) indices into `sets`.
    """
    num_texts = sets.offsets.size - 1
    shift = np.uint64(64 - max(num_texts - 1, 1).bit_length())
    owner = np.repeat(np.arange(num_texts, dtype=np.uint64), np.diff(sets.offsets))
    # The text's number before what is left of the hash: of few thousand texts at least 50 bits.
    members = np.unique((owner << shift) | (sets.hashes >> (np.uint64(64) - shift)))
    sizes = np.bincount((members >> shift).astype(np.int64), minlength=num_texts)
    left, right = pairs.T
    place = np.repeat(offsets_of(sizes)[left] - offsets_of(sizes[left])[:-1], sizes[left])
    wanted = members[place + np.arange(place.size)] & ((np.uint64(1) << shift) - np.uint64(1))
    wanted |= np.repeat(right.astype(np.uint64), sizes[left]) << shift
    found = np.minimum(np.searchsorted(members, wanted), max(members.size - 1, 0))
    shared = np.bincount(np.repeat(np.arange(len(pairs)), sizes[left])[members[found] == wanted], minlength=len(pairs))
    union = sizes[left] + sizes[right] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


def _tagged(sets: Sets) -> tuple[Hashes, Counts]:
    """Return the distinct (text, shingle) pairs as sorted hashes, and the text of each."""
    owner = np.repeat(np.arange(sets.offsets.size - 1), np.diff(sets.offsets))
    tagged, first = np.unique(_mix(sets.hashes ^ _mix(owner.astype(np.uint64) * _STEP)), return_index=True)
    return tagged, owner[first]


def _owner(found: Hashes, tagged: Hashes, owner: Counts) -> Counts:
    return owner[np.searchsorted(tagged, found)]


def united(left: Sets, right: Sets) -> Sets:
    """Join the shingles of text `i` of both."""
    sizes = np.diff(left.offsets) + np.diff(right.offsets)
    offsets = offsets_of(sizes)
    hashes = np.empty(offsets[-1], np.uint64)
    for sets, begin in ((left, offsets[:-1]), (right, offsets[:-1] + np.diff(left.offsets))):
        lengths = np.diff(sets.offsets)
        hashes[np.repeat(begin - sets.offsets[:-1], lengths) + np.arange(sets.hashes.size)] = sets.hashes
    return Sets(hashes, offsets)
