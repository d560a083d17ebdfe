"""Locate `{% generation %}` marks of a chat template in the rendered text.

transformers reports their positions only with token ids of its own. Here the template prints a private character, a
sentinel, at each mark: that gives positions in any text, and shows that the text is otherwise unchanged.
"""

from __future__ import annotations

import re

Span = tuple[int, int]

GENERATION_MARK = re.compile(r"\{%(?P<left>[-+]?)\s*(?P<tag>(?:end)?generation)\s*(?P<right>[-+]?)%\}")
TEMPLATE_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
PRIVATE_USE = range(0xE000, 0xF900)


def has_marks(template: str) -> bool:
    """Tell whether a template marks assistant turns; marks inside comments do not count."""
    return bool(GENERATION_MARK.search(TEMPLATE_COMMENT.sub("", template)))


def pick_sentinels(text: str) -> tuple[str, str]:
    """Return two private-use characters that are not in the text."""
    free = (chr(code) for code in PRIVATE_USE if chr(code) not in text)
    return next(free), next(free)


def with_sentinels(template: str, sentinels: tuple[str, str]) -> str:
    """Print a sentinel at each generation mark; the mark itself stays, for its effect on white space."""

    def replace(match: re.Match[str]) -> str:
        sentinel = sentinels[match["tag"].startswith("end")]
        tag = f"{{% {match['tag']} {match['right']}%}}"
        return f"{{%{match['left']} if true %}}{{{{ '{sentinel}' }}}}{{% endif %}}{tag}"

    return GENERATION_MARK.sub(replace, template)


def find_sentinels(marked: str, sentinels: tuple[str, str]) -> tuple[list[Span], str]:
    """Return the spans between sentinels, as positions in the text without sentinels, and that text.

    Example:
        >>> find_sentinels("Hi #Hello~ bye", ("#", "~"))
        ([(3, 8)], 'Hi Hello bye')
    """
    spans: list[Span] = []
    plain: list[str] = []
    length = start = 0
    for part in re.split(f"([{''.join(sentinels)}])", marked):
        if part == sentinels[0]:
            start = length
        elif part == sentinels[1]:
            spans.append((start, length))
        else:
            plain.append(part)
            length += len(part)
    return spans, "".join(plain)
