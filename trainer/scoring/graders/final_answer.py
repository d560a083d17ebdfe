"""Find the part of a text that holds its final answer: in a box, after a mark, or before the closing remarks."""

from __future__ import annotations

import re

MAX_CHARACTERS = 8_000
"""Characters of a text that are read, from its end."""
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_HASHES = re.compile(r"####[ \t]*\n?[ \t]*([^\n]+)")
_TAG = re.compile(r"<answer>([^<]+)(?:</answer>|\Z)", re.IGNORECASE)
_ANNOUNCED = re.compile(
    r"\b(?:answer|result|solution|antwort|ergebnis|lösung|réponse|résultat|respuesta|resultado)\b"
    r"[^\n.:=?]{0,40}?(?:\b(?:is|are|lautet|ist|est|es)\b|[:=])[ \t*_:]*",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\W*(?:note|remark|hint|source|see|check|verif|to (?:check|verify)|proof|p\.? ?s\b|rounded|assum|hope|let me"
    r"|i (?:have )?(?:checked|used|rounded|verified|assumed|double)"
    r"|(?:that|this) (?:took|takes|uses|was|is (?:question|step|from|based))|please|feel free"
    r"|there (?:are|is) (?:\w+ )?other"
    r"|anmerkung|hinweis|probe|remarque|vérif|nota\b|observ)",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"(?<=\s)[(\[][^()\[\]]*[A-Za-z][^()\[\]]*[)\]]")
_SENTENCE = re.compile(r"[^\n;]+?(?:[.!?](?=\s|$)|[\n;]|$)")
_BULLET = re.compile(r"^[-*•]\s+")
_REASON = re.compile(r"\b(?:because|since|weil|denn|parce que|porque)\b", re.IGNORECASE)
_ASIDE = re.compile(r"\s\(|\s[—–]\s|,\s*(?:as|which|who|da|car)\b", re.IGNORECASE)


def boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}`; None where there is none.

    Example:
        >>> boxed(r"so \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    depth = 1
    for index in range(starts[-1], len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[starts[-1] : index]
    return text[starts[-1] :]


def marked(text: str) -> str | None:
    r"""Return the text after the last mark of a final answer; None where there is none.

    Marks are, in this order, `\boxed{...}`, `####`, `<answer>`, and words such as "the answer is".
    """
    text = text[-MAX_CHARACTERS:]
    box = boxed(text)
    if box is not None:
        return box
    for pattern in (_HASHES, _TAG):
        parts = pattern.findall(text)
        if parts:
            return str(parts[-1])
    ends = [match.end() for match in _ANNOUNCED.finditer(text)]
    return text[ends[-1] :].lstrip() if ends else None


def sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text that hold something."""
    return [part for part in map(str.strip, _SENTENCE.findall(text)) if part.strip(" .!?;*_`$")]


def without_remarks(text: str) -> str:
    """Return a text without words in brackets, and without the remarks that close it."""
    parts = sentences(_IN_BRACKETS.sub(" ", text[-MAX_CHARACTERS:]))
    while len(parts) > 1 and _REMARK.match(parts[-1]):
        parts.pop()
    if len(parts) > 1:
        parts = [_BULLET.sub("", part) for part in parts]
    return "\n".join(parts)


def without_reason(sentence: str) -> str:
    """Return a sentence up to where it begins to give reasons."""
    return _up_to(_REASON, sentence)


def without_asides(sentence: str) -> str:
    """Return a sentence up to where it begins to give reasons or goes off at a tangent."""
    return _up_to(_ASIDE, _up_to(_REASON, sentence))


def _up_to(pattern: re.Pattern[str], sentence: str) -> str:
    end = pattern.search(sentence)
    return sentence[: end.start()] if end and sentence[: end.start()].strip() else sentence
