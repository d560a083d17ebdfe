"""Parse the code of fenced blocks in the languages of the standard library: Python, JSON and TOML."""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
import warnings

import orjson

BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(python3?|py|json|toml)[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE
)
MAX_CHARS = 20_000
"""Longer blocks are not parsed: Python's parser takes a second for a megabyte, and much memory."""
NO_MODULE = re.compile(
    r"^[ \t]*(?:>>>|\.\.\.|In \[|Traceback \(|\$ |[%!]\w|pip install|python3? )|…|<(?!=)[A-Za-z_ ]+>|\.\.\.[ \t]*$"
    r"|^[ \t]*print[ \t]+[\"'\w]",
    re.MULTILINE,
)
"""Sessions of an interpreter, shells and notebooks, omissions, placeholders, and Python 2."""
JSON_IN_WORDS = re.compile(r"\.\.\.|//|/\*|…|<\w|^\s*#", re.MULTILINE)
"""JSON with omissions or comments is an illustration."""


def code_of(answer: str) -> list[tuple[str, str]]:
    r"""Return (language, code) of the closed blocks in one of the languages.

    Example:
        >>> code_of("Do:\n```python\nx = 1\n```")
        [('python', 'x = 1\n')]
    """
    if "```" not in answer:
        return []
    return [(language.lower(), code) for language, code in BLOCK.findall(answer) if len(code) <= MAX_CHARS]


def is_broken(language: str, code: str) -> bool:
    """Tell whether a block does not parse. Deliberate excerpts are not checked."""
    code = textwrap.dedent(code)
    if not code.strip():
        return False
    match language:
        case "json":
            return not JSON_IN_WORDS.search(code) and not _is_json(code)
        case "toml":
            return "..." not in code and not _is_toml(code)
        case _:
            return not _is_python(code) and not NO_MODULE.search(code)


def _is_json(code: str) -> bool:
    try:
        orjson.loads(code)
    except orjson.JSONDecodeError:
        # JSON lines: one value on each line.
        return "\n{" in code.strip() and all(_is_json(line) for line in code.splitlines() if line.strip())
    return True


def _is_toml(code: str) -> bool:
    try:
        tomllib.loads(code)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _is_python(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `"\d"` warns, and is no fault of the rows
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
