"""Weigh what differs between two rows: nothing that decides, other words, or values, names and negations.

The weight is told from the rows as they are written, not from normalised text: `a + b` and `a - b`, 3.5 and 35, US and
us are the same once punctuation and capitals are gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from enum import IntEnum
from itertools import product
from typing import NamedTuple

from trainer.data.clean.strings import length_shared
from trainer.data.duplicates.alternatives import ADVERBS, ALTERNATIVES, ENGLISH, INTERCHANGEABLE, NEGATIONS
from trainer.data.duplicates.keys import dump
from trainer.data.duplicates.spelling import are_kin, may_be_typo
from trainer.data.duplicates.texts import answer_turns, prompt_turns
from trainer.data.duplicates.words import Kind, Token, Tokens, tokens_of
from trainer.data.records.kinds import Message, Record

EDITED_SHARE = 0.1
ENGLISH_SHARE = 0.15


class Weight(IntEnum):
    """What differs between two texts, from nothing to what decides."""

    NONE = 0
    """Stop words, punctuation, case, space, typing errors."""
    WORDS = 1
    """Other words, of which no list knows that they decide."""
    ONE_SIDED = 2
    """A value or name that only one text has, with none in its place."""
    KIN = 3
    """Another word that looks like the opposite: legal and illegal, employer and employee."""
    FOREIGN = 4
    """Another word of a language whose negations and opposites no list knows well."""
    VALUES = 5
    """Another number, code, name, negation, opposite, order or line of code."""


Exchange = tuple[Token, Token]
Texts = tuple[tuple[str, ...], tuple[str, ...], str]
VALUE_KINDS = {Kind.NAME, Kind.VALUE}


class Typo(NamedTuple):
    """Two spellings that may be one word: the rows' other words tell."""

    left: str
    right: str
    is_name: bool = False


class Difference(NamedTuple):
    """What differs between two texts."""

    weight: Weight
    forgiven: Weight
    """The weight if `typos` are typing errors."""
    typos: tuple[Typo, ...]
    """One exchange may come several times."""
    is_slot: bool
    """Word by word the same, but for words that stand in place of others."""
    is_edit: bool = False
    """A slot, and no more words are exchanged than `EDITED_SHARE` of them."""

    def unforgiven(self) -> Difference:
        """Take no spelling for a typing error."""
        return self._replace(forgiven=self.weight, typos=())


DIFFERENT = Difference(Weight.VALUES, Weight.VALUES, (), is_slot=False)
SAME = Difference(Weight.NONE, Weight.NONE, (), is_slot=False)


def texts_of(record: Record) -> Texts:
    """Return the texts of the prompt's turns and of the answer's, and the context, as they are written."""
    turns = [turn for turn in prompt_turns(record) if turn["role"] in ("user", "assistant")]
    answers = [turn for turn in answer_turns(record) if turn["role"] != "tool"]
    answer = (record["text"],) if "text" in record else tuple(map(_written, answers))
    return tuple(map(_written, turns)), answer, _context(record)


def _written(turn: Message) -> str:
    calls = dump(turn["tool_calls"], str) if turn.get("tool_calls") else ""
    parts = (turn.get("reasoning_content"), turn.get("thinking"), turn["content"], calls)
    return "\n".join(str(part) for part in parts if part)


def _context(record: Record) -> str:
    turns = (*prompt_turns(record), *answer_turns(record))
    texts = [turn["content"] for turn in turns if turn["role"] in ("system", "tool")]
    more = {key: value for key in ("tools", "label") if (value := record.get(key)) is not None}
    return "\n".join([*texts, dump(more, str)] if more else texts)


def without_space(texts: Sequence[str]) -> list[str]:
    """Return texts with single spaces."""
    return [" ".join(text.split()) for text in texts]


def weigh_letters(left: Sequence[str], right: Sequence[str]) -> Difference:
    """Weigh turns of which every letter and sign decides, only space does not."""
    return SAME if without_space(left) == without_space(right) else DIFFERENT


def weigh_turns(left: Sequence[str], right: Sequence[str], *, exactly: bool = False, align: bool = False) -> Difference:
    """Weigh what differs between the turns of two rows.

    Args:
        left: texts.
        right: texts.
        exactly: take no word for glue, as in short answers.
        align: let a value decide only against a value in its place, also where the texts differ in length.
    """
    if left == right:
        return SAME
    if len(left) != len(right):
        return DIFFERENT
    differences = [weigh_texts(*texts, exactly=exactly, align=align) for texts in zip(left, right, strict=True)]
    return Difference(
        max(difference.weight for difference in differences),
        max(difference.forgiven for difference in differences),
        tuple(typo for difference in differences for typo in difference.typos),
        is_slot=all(difference.is_slot or difference is SAME for difference in differences),
        is_edit=all(difference.is_edit or difference is SAME for difference in differences),
    )


def weigh_texts(left: str, right: str, *, exactly: bool = False, align: bool = False) -> Difference:
    """Weigh what differs between two texts.

    Example:
        A stop word has no weight, a number in place of another has the most; a spelling may be a typing error.

        >>> weigh_texts("Boil the eggs.", "Boil eggs").weight.name
        'NONE'
        >>> weigh_texts("Boil 3 eggs", "Boil 4 eggs").weight.name
        'VALUES'
        >>> weigh_texts("How do I receive the mail?", "How do I recieve the mail?").typos
        (Typo(left='receive', right='recieve', is_name=False),)
    """
    if left == right:
        return SAME
    if ("\n" in left.strip()) != ("\n" in right.strip()):  # one has lost its lines: they are no difference between them
        left, right = " ".join(left.split()), " ".join(right.split())
    fold = left.isupper() or right.isupper()
    lefts, rights = tokens_of(left, fold=fold), tokens_of(right, fold=fold)
    if exactly:
        lefts, rights = _without_glue_kind(lefts), _without_glue_kind(rights)
    slips = () if exactly else (*_glue_slips(lefts, rights), *(typo[::-1] for typo in _glue_slips(rights, lefts)))
    if slips:
        lefts, rights = (_left_out(tokens, {typo[n] for typo in slips}) for n, tokens in enumerate((lefts, rights)))
    difference = _weigh_tokens(lefts, rights, may_err=not exactly, align=align)
    if not slips:
        return difference
    typos = (*(Typo(*slip) for slip in slips), *difference.typos)
    return Difference(max(difference.weight, Weight.WORDS), difference.forgiven, typos, is_slot=False)


def _weigh_tokens(lefts: Tokens, rights: Tokens, *, may_err: bool, align: bool) -> Difference:
    # What both begin and end with differs in nothing, and is most of the two.
    cut_lefts, cut_rights = _apart(lefts, rights)
    left_words, right_words = _content(cut_lefts), _content(cut_rights)
    # the same content words: only glue, or spaces inside words, can differ
    if _joined(left_words) == _joined(right_words):
        weight = Weight.NONE if len(left_words) != len(right_words) else _weigh_glue(cut_lefts, cut_rights)
        return Difference(weight, weight, (), is_slot=False)
    exchanged = _exchanged(cut_lefts, cut_rights) or (
        _aligned(lefts, rights) if align else _exchanged(left_words, right_words)
    )
    words = [set(side) for side in _only(left_words, right_words)]
    only = words[0] | words[1]
    # of the whole text: a few words do not tell a language
    is_foreign = bool(only) and _are_foreign(only, lefts)
    weight = _weigh_content(_content(lefts), _content(rights), words, exchanged, is_foreign=is_foreign)
    typos = _typos(left_words, right_words) if may_err and len(left_words) == len(right_words) else ()
    forgiven = _weigh_glue(cut_lefts, cut_rights) if typos else weight
    is_edit = 0 < len(exchanged) <= EDITED_SHARE * len(lefts)
    return Difference(weight, forgiven, typos, is_slot=len(left_words) == len(right_words), is_edit=is_edit)


def _apart(lefts: Tokens, rights: Tokens) -> tuple[Tokens, Tokens]:
    """Leave out the tokens with which both begin, and those with which both end: b c and x of `a b c d` and `a x d`."""
    start = length_shared(lefts, rights)
    lefts, rights = lefts[start:], rights[start:]
    end = length_shared(lefts[::-1], rights[::-1])
    return lefts[: len(lefts) - end], rights[: len(rights) - end]


def _only(lefts: Sequence[Token], rights: Sequence[Token]) -> tuple[Counter[str], Counter[str]]:
    """Count the keys that each side has more often than the other."""
    left, right = (Counter([token.key for token in side]) for side in (lefts, rights))
    return left - right, right - left


def _exchanged(lefts: Sequence[Token], rights: Sequence[Token]) -> list[Exchange]:
    """Return the words that stand in place of others; none where the texts differ in length."""
    if len(lefts) != len(rights):
        return []
    return [pair for pair in zip(lefts, rights, strict=True) if pair[0].key != pair[1].key]


def _aligned(lefts: Tokens, rights: Tokens) -> list[Exchange]:
    """Return the words that stand in place of others in texts of any length."""
    blocks = SequenceMatcher(None, lefts, rights, autojunk=False).get_opcodes()
    return [pair for kind, a, b, c, d in blocks if kind == "replace" for pair in _block(lefts[a:b], rights[c:d])]


def _block(lefts: Tokens, rights: Tokens) -> Iterable[Exchange]:
    return zip(lefts, rights, strict=True) if len(lefts) == len(rights) else product(lefts, rights)


def _glue_slips(lefts: Tokens, rights: Tokens) -> list[tuple[str, str]]:
    """Return words of the left text alone that are glue of the right text alone, misspelt: `teh` for `the`."""
    cut_lefts, cut_rights = _apart(lefts, rights)
    words = {key for key, kind in cut_lefts if kind is Kind.WORD or kind is Kind.NAME}
    if not words or not any(kind is Kind.GLUE for _, kind in cut_rights):
        return []
    words -= {key for key, _ in rights}
    if not words:
        return []
    glue = Counter([key for key, kind in rights if kind is Kind.GLUE])
    glue -= Counter([key for key, kind in lefts if kind is Kind.GLUE])
    return [(word, key) for word in sorted(words) for key in glue if key and may_be_typo(word, key, 2)][: glue.total()]


def _left_out(tokens: Tokens, keys: set[str]) -> Tokens:
    return tuple(token for token in tokens if token.key not in keys)


def _without_glue_kind(tokens: Tokens) -> Tokens:
    return tuple(Token(token.key, max(token.kind, Kind.WORD)) for token in tokens)


def _content(tokens: Tokens) -> list[Token]:
    return [token for token in tokens if token[1] is not Kind.GLUE]


def _joined(tokens: list[Token]) -> str:
    """Join words without the spaces between them, which may be wrong; values keep their bounds."""
    return "".join(f"\0{token.key}\0" if token.kind == Kind.VALUE else token.key for token in tokens)


def _weigh_glue(lefts: Tokens, rights: Tokens) -> Weight:
    """Compare the glue between words that are the same: it may be missing, but not stand for other glue."""
    weight = Weight.NONE
    for left_gap, right_gap in zip(_glue(lefts), _glue(rights), strict=True):
        if left_gap == right_gap:
            continue
        left, right = left_gap - right_gap, right_gap - left_gap
        if left and right and not (left | right).keys() <= INTERCHANGEABLE:
            is_opposite = _are_alternatives(set(left), set(right))
            weight = max(weight, Weight.VALUES if is_opposite else Weight.WORDS)
    return weight


def _glue(tokens: Tokens) -> list[Counter[str]]:
    """Return the glue before each other token, and that after the last one."""
    gap: Counter[str] = Counter()
    gaps = [gap]
    for token in tokens:
        if token.kind is Kind.GLUE:
            gap[token.key] += 1
        else:
            gap = Counter()
            gaps.append(gap)
    return gaps


def _weigh_content(
    lefts: list[Token], rights: list[Token], words: list[set[str]], exchanged: Sequence[Exchange], *, is_foreign: bool
) -> Weight:
    """Compare all words but glue.

    Args:
        lefts: words of a text.
        rights: words of another one.
        words: those that each has more often than the other.
        exchanged: those that stand in place of others, where the rest is the same.
        is_foreign: each word may be a negation or an opposite.
    """
    if not words[0] and not words[1]:
        is_moved = _is_moved([token.key for token in lefts], [token.key for token in rights])
        return Weight.WORDS if is_moved else Weight.VALUES
    if {word.casefold() for word in words[0]} == {word.casefold() for word in words[1]}:
        return Weight.WORDS
    if (words[0] | words[1]) & NEGATIONS or _are_alternatives(*words):
        return Weight.VALUES
    kinds = [
        {token.kind for token in side if token.key in only} for side, only in zip((lefts, rights), words, strict=True)
    ]
    if any(Kind.CHARACTER in side for side in kinds):
        return Weight.VALUES
    if kinds[0] & kinds[1] & VALUE_KINDS and (not exchanged or any(map(_is_value_for_value, exchanged))):
        return Weight.VALUES
    if is_foreign:
        return Weight.FOREIGN
    has_value = bool((kinds[0] | kinds[1]) & VALUE_KINDS)
    if _hold_kin(*words):
        return Weight.VALUES if has_value else Weight.KIN
    return Weight.ONE_SIDED if has_value else Weight.WORDS


def _is_value_for_value(exchange: Exchange) -> bool:
    return exchange[0].kind == exchange[1].kind and exchange[0].kind in VALUE_KINDS


def _is_moved(left: list[str], right: list[str]) -> bool:
    """Tell whether an adverb has moved, or a clause from the beginning to the end.

    `dog bites man` and `man bites dog` is no move, neither are metres in feet and feet in metres.
    """
    # a rotation: `if it rains, stay` and `stay if it rains`
    if any(left[cut:] + left[:cut] == right for cut in range(1, len(left)) if left[cut] == right[0]):
        return True
    steady = [[word for word in side if word not in ADVERBS and not word.endswith("ly")] for side in (left, right)]
    return steady[0] == steady[1]


def _are_alternatives(left: set[str], right: set[str]) -> bool:
    return any(left & kind and right & kind for kind in ALTERNATIVES)


def _hold_kin(left: set[str], right: set[str]) -> bool:
    return any(are_kin(left_word, right_word) for left_word in left for right_word in right)


def _are_foreign(words: set[str], tokens: Tokens) -> bool:
    """Tell words of a language whose negations and opposites no list knows well."""
    if any(not word.isascii() and any(map(str.isalpha, word)) for word in words):
        return True
    return sum(token.key in ENGLISH for token in tokens) < ENGLISH_SHARE * len(tokens)


def _typos(lefts: Sequence[Token], rights: Sequence[Token]) -> tuple[Typo, ...]:
    """Return the spellings that differ, if each may be a typing error; none where one of them cannot be."""
    typos = []
    for left, right in _exchanged(lefts, rights):
        if max(left.kind, right.kind) > Kind.NAME or not may_be_typo(left.key, right.key):
            return ()
        typos.append(Typo(left.key, right.key, Kind.NAME in (left.kind, right.kind)))
    return tuple(typos)
