"""Where `{% generation %}` marks of a chat template stand in the rendered text.

transformers reports such places only together with ids of its own; printing a character at each mark gives them for any
text, and shows that nothing else was changed.
"""

from __future__ import annotations

import re

Span = tuple[int, int]

GENERATION_MARK = re.compile(r"\{%(?P<left>[-+]?)\s*(?P<tag>(?:end)?generation)\s*(?P<right>[-+]?)%\}")
TEMPLATE_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
PRIVATE_USE = range(0xE000, 0xF900)


def has_marks(template: str) -> bool:
    """Tell whether a template marks what the model writes; a comment that mentions marks does not count."""
    return bool(GENERATION_MARK.search(TEMPLATE_COMMENT.sub("", template)))


def pick_sentinels(text: str) -> tuple[str, str]:
    """Return two private-use characters that the text does not have."""
    free = (chr(code) for code in PRIVATE_USE if chr(code) not in text)
    return next(free), next(free)


def with_sentinels(template: str, sentinels: tuple[str, str]) -> str:
    """Print a sentinel where each generation mark stands; the mark itself stays, for its effect on white space."""

    def replace(match: re.Match[str]) -> str:
        sentinel = sentinels[match["tag"].startswith("end")]
        tag = f"{{% {match['tag']} {match['right']}%}}"
        return f"{{%{match['left']} if true %}}{{{{ '{sentinel}' }}}}{{% endif %}}{tag}"

    return GENERATION_MARK.sub(replace, template)


def find_sentinels(marked: str, sentinels: tuple[str, str]) -> tuple[list[Span], str]:
    """Return the spans between sentinels, as places in the text without them, and that text."""
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
