"""Hash texts as sets of shingles, many texts at once: near duplicates are measured on these sets.

Which shingle fits depends on the text. One edited word spoils 2 word pairs of a long text but most word pairs of a
short one, so short texts are compared by 5 characters; a script without spaces has no words to speak of, so it is
compared by 3 characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
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
ASCII_WORDS = "".join(NOT_WORD.sub(" ", chr(code)).lower() for code in range(128)).encode().ljust(256)
"""For `bytes.translate`: letters in lower case, space for what stands between words."""
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
    if text.isascii():
        return b" ".join(text.encode().translate(ASCII_WORDS).split()).decode()
    return NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


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
        Pairs of words of two texts: {to be, be or, or not} and {to be}.

        >>> shingle(["to be or not", "to be"], Shingle.WORDS_2).offsets
        array([0, 3, 4])
    """
    units, lengths = _characters(texts)  # flat: one number a character, and characters of each text
    if kind is Shingle.WORDS_2:
        units, lengths = _words(units, lengths)
    return _windows(units, lengths, {Shingle.CHARACTERS_3: 3, Shingle.CHARACTERS_5: 5, Shingle.WORDS_2: 2}[kind])


def word_windows(texts: Sequence[str], num_words: int) -> Sets:
    """Hash every run of `num_words` words; texts with fewer words have none.

    The hash of a run is the sum of its words' hashes, each times a power of one odd number: a difference of two sums
    from the beginning, so that long runs cost no more than short ones.
    """
    units, lengths = _words(*_characters(texts))
    powers, inverse = _powers(int(_STEP), units.size), _powers(pow(int(_STEP), -1, 2**64), units.size)
    # sum of h[i] b^i modulo 2^64; a run from s on is (sums[s + n] - sums[s]) b^-s, the same wherever it stands
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(units * powers, dtype=np.uint64)])
    sizes = np.maximum(lengths - num_words + 1, 0)
    offsets = offsets_of(sizes)
    start = np.repeat(offsets_of(lengths)[:-1] - offsets[:-1], sizes) + np.arange(offsets[-1])
    return Sets(_mix((sums[start + num_words] - sums[start]) * inverse[start]), offsets)


def _powers(base: int, count: int) -> Hashes:
    """Return base^0, base^1, ... modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)


def distinct(values: Hashes) -> Hashes:
    """Return the distinct values, sorted; `np.unique` hashes, which takes four times as long where most differ."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if values.size else values


def offsets_of(sizes: Counts) -> Counts:
    """Return where each of consecutive runs begins, and where the last one ends: of sizes 2, 0, 3, [0, 2, 2, 5]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _characters(texts: Sequence[str]) -> tuple[Hashes, Counts]:
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    return codes.astype(np.uint64), lengths


def _words(codes: Hashes, lengths: Counts) -> tuple[Hashes, Counts]:
    """Return one hash for each word, and the number of words of each text; words are split by single spaces."""
    if not codes.size:
        return codes, np.zeros_like(lengths)
    is_letter = codes != ord(" ")
    starts = is_letter.copy()
    starts[1:] &= ~is_letter[:-1]
    begins = offsets_of(lengths)[:-1][lengths > 0]
    # the first character of a text begins a word, whatever the text before ends with
    starts[begins] = is_letter[begins]
    first, letters = np.flatnonzero(starts), np.flatnonzero(is_letter)
    if not first.size:
        return codes[:0], np.zeros_like(lengths)
    nth = np.cumsum(is_letter)[first] - 1  # index of each word's first letter among all letters
    index_in_word = letters - np.repeat(first, np.diff(nth, append=letters.size))
    # the place in the word counts, so that `on` and `no` differ; a sum then makes a word of its letters
    mixed = _mix(codes[letters] + index_in_word.astype(np.uint64) * _STEP)
    counted = offsets_of(starts)
    ends = offsets_of(lengths)
    return _mix(np.add.reduceat(mixed, nth)), counted[ends[1:]] - counted[ends[:-1]]


def _windows(units: Hashes, lengths: Counts, width: int) -> Sets:
    """Hash each run of `width` units that lies within one text; a text of fewer units is one run."""
    sizes = np.where(lengths > 0, np.maximum(lengths - width + 1, 1), 0)
    offsets, begins = offsets_of(sizes), offsets_of(lengths)[:-1]
    # 0 stands for no unit, in runs of short texts
    shifted = np.concatenate([units, np.zeros(width, np.uint64)]) + np.uint64(1)
    # Runs from every place, those that reach into the next text too, which are then left out.
    runs = _fold(shifted[shift : shift + units.size] for shift in range(width))
    start = np.repeat(begins - offsets[:-1], sizes) + np.arange(offsets[-1])
    hashes = runs[start]
    short = np.flatnonzero((lengths > 0) & (lengths < width))
    inside = np.arange(width) < lengths[short, None]
    padded = np.where(inside, shifted[begins[short, None] + np.arange(width)], np.uint64(0))
    hashes[offsets[short]] = _fold(iter(padded.T))
    return Sets(hashes, offsets)


def _fold(columns: Iterator[Hashes]) -> Hashes:
    """Hash rows of a table that is given column by column."""
    hashes = _mix(next(columns))
    for column in columns:
        hashes *= _STEP
        hashes += column
        hashes = _mix(hashes)
    return hashes


def _mix(values: Hashes) -> Hashes:
    """Scatter the bits of 64-bit integers.

    Source: finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    """
    spare = values >> np.uint64(30)
    mixed = values ^ spare
    for factor, shift in ((0xBF58476D1CE4E5B9, 27), (0x94D049BB133111EB, 31)):
        mixed *= np.uint64(factor)
        np.right_shift(mixed, np.uint64(shift), out=spare)
        mixed ^= spare
    return mixed


def similarities(left: Sets, right: Sets) -> NDArray[np.float64]:
    """Return (texts,): the exact Jaccard similarity of text `i` of both sides; 1 where both are empty."""
    num_texts = left.offsets.size - 1
    offsets = np.concatenate([left.offsets, right.offsets[1:] + left.offsets[-1]])
    both = Sets(np.concatenate([left.hashes, right.hashes]), offsets)
    return pair_similarities(both, np.arange(num_texts)[:, None] + np.array([0, num_texts]))


def pair_similarities(sets: Sets, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (pairs,): the exact Jaccard similarity of pairs of texts; 1 where both are empty.

    |A and B| / |A or B|, where |A and B| are the shingles of A that are found among the sorted shingles of B.

    Args:
        sets: shingles of texts.
        pairs: (pairs, 2) indices into `sets`.

    Example:
        {to be, be or} and {to be, be not} share one of three pairs of words.

        >>> sets = shingle(["to be or", "to be not"], Shingle.WORDS_2)
        >>> pair_similarities(sets, np.array([[0, 1], [0, 0]])).round(2)
        array([0.33, 1.  ])
    """
    num_texts = sets.offsets.size - 1
    shift = np.uint64(64 - max(num_texts - 1, 1).bit_length())
    owner = np.repeat(np.arange(num_texts, dtype=np.uint64), np.diff(sets.offsets))
    # The text's number before what is left of the hash: of few thousand texts at least 50 bits.
    members = distinct((owner << shift) | (sets.hashes >> (np.uint64(64) - shift)))
    sizes = np.bincount((members >> shift).astype(np.int64), minlength=num_texts)  # |A| of each text
    left, right = pairs.T
    # for each pair the members of its left text, one after another
    start = np.repeat(offsets_of(sizes)[left] - offsets_of(sizes[left])[:-1], sizes[left])
    sought = members[start + np.arange(start.size)] & ((np.uint64(1) << shift) - np.uint64(1))
    # the same hashes under the number of the right text: found where both texts have them
    sought |= np.repeat(right.astype(np.uint64), sizes[left]) << shift
    index = np.minimum(np.searchsorted(members, sought), max(members.size - 1, 0))
    shared = np.bincount(np.repeat(np.arange(len(pairs)), sizes[left])[members[index] == sought], minlength=len(pairs))
    union = sizes[left] + sizes[right] - shared  # |A or B| = |A| + |B| - |A and B|
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


def united(left: Sets, right: Sets) -> Sets:
    """Join the shingles of text `i` of both.

    Example:
        >>> united(Sets(np.array([1, 2], np.uint64), np.array([0, 1, 2])),
        ...        Sets(np.array([8, 9], np.uint64), np.array([0, 0, 2])))
        Sets(hashes=array([1, 2, 8, 9], dtype=uint64), offsets=array([0, 1, 4]))
    """
    sizes = np.diff(left.offsets) + np.diff(right.offsets)
    offsets = offsets_of(sizes)
    hashes = np.empty(offsets[-1], np.uint64)
    for sets, begin in ((left, offsets[:-1]), (right, offsets[:-1] + np.diff(left.offsets))):
        lengths = np.diff(sets.offsets)
        hashes[np.repeat(begin - sets.offsets[:-1], lengths) + np.arange(sets.hashes.size)] = sets.hashes
    return Sets(hashes, offsets)
