"""Repair one text: each step is a function from text to text and leaves code alone."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

import ftfy
from ftfy.badness import is_bad

# What damages code is off: quotes, ligatures, wide characters and entities stay as written. What ftfy would do
# beyond the encoding is done, and counted, by the steps below.
ENCODING = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)
CODE = re.compile(
    r"^[ \t>]*+(`{3,}+|~{3,}+)[^\n]*+\n(?:.*?^[ \t>]*\1[`~]*[ \t]*\r?$|.*\Z)"  # fenced; an open fence lasts to the end
    r"|(?<!`)(`{1,2})(?!`)[^`\n]+\2(?!`)"  # inline
    r"|<(pre|code|script|style)\b.*?(?:</\3>|\Z)",
    re.DOTALL | re.MULTILINE,
)
MAY_BE_BAD = re.compile("[^\x00-\x7f]{2}|[^\x00-\x7fà-ÿ‘’“”–—…]")
"""ftfy finds nothing bad in a text without this: lone small letters with accents, lone typographic signs."""
OF_NO_ENCODING = re.compile("[^\x00-\x7f\u0410-\u044f\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e]")
"""Nor in a text of nothing but ASCII, Russian, Chinese, Japanese and Korean."""
MAX_CACHED_WORD = 40
LINE_ENDS = re.compile(r"\r\n?|[\u0085\u2028\u2029]")
TRAILING_SPACE = re.compile(r"(?<![ \t])[ \t]++(?=\n)")
EMPTY_LINES = re.compile(r"\A(?:[ \t]*+\n)+")
TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
UNSEEN = re.compile("[\ufeff\u2060\u00ad\u200b-\u200d]")
INVISIBLE = re.compile(
    r"[\ufeff\u2060\u00ad]"
    # Thai, Lao, Myanmar and Khmer write no spaces: there a zero-width space tells where a line may break.
    r"|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"
    # Between Latin letters the joiners of Arabic, Indic scripts and emoji mean nothing.
    r"|(?<=[\x00-\x7f])[\u200c\u200d]+(?=[\x00-\x7f]|\Z)"
)

HIDDEN_MARK = re.compile(
    "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u206a-\u206f\ufff9-\ufffb\U000e0000-\U000e01ef]"
)
HIDDEN = re.compile(
    # Flags of England, Scotland and Wales are spelled in tags (https://unicode.org/reports/tr51/#flag-emoji-tag-sequences).
    "(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)"
    "|[\u206a-\u206f\ufff9-\ufffb\U000e0000-\U000e00ff]"
    # These choose a form of the ideograph before them, and spell hidden bytes anywhere else.
    "|(?<![\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd])[\U000e0100-\U000e01ef]"
)
DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
OVERRIDES = re.compile("[\u202d\u202e]([^\u202a-\u202e\n]*)\u202c?")
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")


def outside_code(repair: Callable[[str], str]) -> Callable[[str], str]:
    """Restrict a repair to what is neither a code block nor inline code."""

    def repaired(text: str) -> str:
        if "`" not in text and "~~~" not in text and "<" not in text:
            return repair(text)
        parts, end = [], 0
        for match in CODE.finditer(text):
            parts += [repair(text[end : match.start()]), match[0]]
            end = match.end()
        return "".join([*parts, repair(text[end:])])

    return repaired


def fix_encoding(text: str) -> str:
    """Undo a decoding in the wrong encoding, with ftfy (https://ftfy.readthedocs.io), line by line."""
    return ftfy.fix_text(text, ENCODING) if may_be_bad(text) and is_bad(text) else text


def may_be_bad(text: str) -> bool:
    """Tell whether ftfy has to be asked. Its pattern costs ten times this look at words, most of which come again."""
    if text.isascii() or not MAY_BE_BAD.search(text) or not OF_NO_ENCODING.search(text):
        return False
    return any(not word.isascii() and _may_be_bad_word(word) for word in text.split(" "))


def _may_be_bad_word(word: str) -> bool:
    if word[-1] in "ÃÂ" or len(word) > MAX_CACHED_WORD:  # the only signs that ftfy judges by the word before
        return True
    return _is_bad_word(word)


@lru_cache(1 << 16)
def _is_bad_word(word: str) -> bool:
    return bool(is_bad(f" {word} "))


def compose(text: str) -> str:
    """Return NFC. Never NFKC, which would change what is read: full-width forms, ligatures, superscripts."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def drop_control(text: str) -> str:
    """Remove control characters but line ends and tabs, and the colours of terminals as a whole."""
    if text.isprintable() or not CONTROL.search(text):
        return text
    return CONTROL.sub("", TERMINAL.sub("", text))


def drop_invisible(text: str) -> str:
    """Remove characters that show nothing and join nothing."""
    return INVISIBLE.sub("", text) if not text.isascii() and UNSEEN.search(text) else text


def drop_hidden(text: str) -> str:
    """Remove what only a machine reads: text spelled in tag characters, and controls that turn the direction round.

    Source: Unicode TR 36, 3.1, and CVE-2021-42574. Texts in a script that runs from right to left keep their marks,
    embeddings and isolates, and lose overrides alone: those show letters in another order than a model learns them.
    """
    if text.isascii() or not HIDDEN_MARK.search(text):
        return text
    text = HIDDEN.sub(lambda match: match[1] or "", text)
    return OVERRIDES.sub(r"\1", text) if RIGHT_TO_LEFT.search(text) else DIRECTIONS.sub("", text)


def unify_line_ends(text: str) -> str:
    """Make every line end a line feed, in code too: what ends a line is no part of what it says."""
    return text if "\r" not in text and text.isascii() else LINE_ENDS.sub("\n", text)


def drop_trailing_space(text: str) -> str:
    """Remove spaces before line ends."""
    return TRAILING_SPACE.sub("", text) if " \n" in text or "\t\n" in text else text


def drop_outer_space(text: str) -> str:
    """Remove empty lines before what a turn says, whose first indentation stays, and all space after it."""
    text = text.rstrip(" \t\n")
    return EMPTY_LINES.sub("", text) if text[:1].isspace() else text


WORD = re.compile(r"[a-z]+")
MARKUP_WORDS = frozenset(
    WORD.findall(
        "html xhtml xml xpath css markup markdown java javascript typescript js jsx tsx php svg rss dom json yaml "
        "webpage tag tags entity entities escape escapes escaped escaping unescape encode encodes encoded encoding "
        "decode decoded decoding sanitize sanitise regex code function script scripts"
    )
)
LOOKS_LIKE_CODE = re.compile(
    r"[`{}]|=>|==|[;{][ \t]*$|\w\([\"']|[\"'](?:&#?\w+;|<[^<>]*>)[\"']|</(?!(?:p|div|span|font|center)>)\w"
    r"|^[ \t]*+(?:import|from|def|class|return|#include|const|let|var|SELECT|INSERT|UPDATE|CREATE)\b.*[(;:=*]",
    re.MULTILINE,
)
RESIDUE = re.compile(r"&(?:#\d{2,6}|#[xX][0-9a-fA-F]{2,5}|[A-Za-z]{2,8});|<br\s*/?>|</?(?:p|div|span|font|center)\b")
ENTITY = re.compile(
    r"&(?:#\d{2,6}|#[xX][0-9a-fA-F]{2,5}|amp|quot|apos|nbsp|[lr][sd]quo|[mn]dash|hellip|bull|middot|copy|reg|trade"
    r"|euro|pound|deg|times|macr|[lr]aquo|[A-Za-z](?:acute|grave|uml|circ|tilde|cedil|ring)|szlig|[ao]elig|oslash);"
    r"|&lt;(?=[\s\d])|(?<=\s)&gt;"
)
BREAK = re.compile(r"(?<![ \t])[ \t]*+<br\s*/?>[ \t]*\n?", re.IGNORECASE)
BLOCK_END = re.compile(r"(?<![ \t])[ \t]*+</(?:p|div)>[ \t]*\n*", re.IGNORECASE)
TAG = re.compile(r"<(?:p|div|span|font|center)(?:\s[^<>]*)?>|</(?:span|font|center)>", re.IGNORECASE)


def has_residue(text: str) -> bool:
    """Tell whether a text holds an entity, or a tag that a web page leaves behind."""
    return ("&" in text or "<" in text) and RESIDUE.search(text) is not None


def may_hold_markup(texts: list[str]) -> bool:
    """Tell whether entities and tags may be what a row is about: any sign of code or of talk about markup."""
    return any(
        not MARKUP_WORDS.isdisjoint(WORD.findall(text.lower())) or LOOKS_LIKE_CODE.search(text) for text in texts
    )


def drop_html(text: str) -> str:
    """Turn entities and tags left over from a web page into the characters and line ends they stand for.

    Only for texts that cannot be about markup (`may_hold_markup`). `&lt;` becomes `<` only where no tag can arise.
    """
    if not has_residue(text):
        return text
    # An entity may hide another: `&amp;amp;`. Each round makes the text shorter.
    while (unescaped := ENTITY.sub(_character, text)) != text:
        text = unescaped
    return TAG.sub("", BLOCK_END.sub("\n\n", BREAK.sub("\n", text)))


def _character(match: re.Match[str]) -> str:
    character = html.unescape(match[0])
    # Markup signs given by number could open a tag, and control characters would have to be removed again.
    if len(character) != 1 or (character in "<>`" and match[0].startswith("&#")) or not character.isprintable():
        return " " if character == "\xa0" else match[0]
    return character
