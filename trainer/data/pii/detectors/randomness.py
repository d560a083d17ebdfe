"""Tell random characters from words and names."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

SAMPLE = re.compile(
    r"example|placeholder|changeme|change[_-]me|your|redacted|dummy|insert[_-]|replace[_-]|[_-]here|x{5}|\*{3}|\.{3}|0{10}",
    re.IGNORECASE,
)
"""What manuals write in place of a key."""

LONG_HEX = re.compile(r"[0-9a-f]{24,}")
ALNUM = re.compile(r"[A-Za-z0-9]+")


def entropy(value: str) -> float:
    """Return Shannon's entropy of the characters, in bits per character: -sum(p * log2 p).

    Example:
        >>> entropy("abab"), entropy("abcd")
        (1.0, 2.0)
    """
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def is_sample(value: str) -> bool:
    """Tell an example by a word in it (`your`, `example`) or by characters in order (`abcdef`, `123456`)."""
    steps = sum(ord(right) - ord(left) == 1 for left, right in pairwise(value))
    return steps * 3 > len(value) or SAMPLE.search(value) is not None


def num_switches(value: str) -> int:
    """Count neighbours of different classes (capital, small letter, digit) inside runs of letters and digits.

    60 % of the neighbours differ in random letters and digits, 50 % in hexadecimal digits.

    Example:
        >>> num_switches("customer_order_2024"), num_switches("aB3x")
        (0, 3)
    """
    switches = 0
    for piece in ALNUM.findall(value):
        classes = [(char.isdigit(), char.isupper()) for char in piece]
        switches += sum(left != right for left, right in pairwise(classes))
    return switches


def is_drawn(value: str, *, min_entropy: float = 2.8) -> bool:
    """Tell whether characters are random: many different ones, in an order unlike a name's.

    Args:
        value: 16 characters or more.
        min_entropy: bits per character; 32 random hexadecimal digits have 3.0 to 3.9.
    """
    if is_sample(value) or entropy(value) < min_entropy:
        return False
    # Capitals alone (base32) and hexadecimal digits are no words: entropy is enough.
    return value.isupper() or LONG_HEX.fullmatch(value) is not None or num_switches(value) * 8 >= len(value)
