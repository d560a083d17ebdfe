"""Tell drawn characters from written ones."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

SAMPLE = re.compile(
    r"example|placeholder|changeme|change[_-]me|your|redacted|dummy|insert[_-]|replace[_-]|[_-]here|x{5}|\*{3}|\.{3}|0{10}",
    re.IGNORECASE,
)
"""What manuals write where a key belongs."""

LONG_HEX = re.compile(r"[0-9a-f]{24,}")
ALNUM = re.compile(r"[A-Za-z0-9]+")


def entropy(value: str) -> float:
    """Return the entropy of the characters of `value`, in bits per character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def is_sample(value: str) -> bool:
    """Tell whether a key says itself that it is an example, or counts up as `abcdef` and `123456` do."""
    steps = sum(ord(right) - ord(left) == 1 for left, right in pairwise(value))
    return steps * 3 > len(value) or SAMPLE.search(value) is not None


def num_switches(value: str) -> int:
    """Count neighbours of another class: capital, small letter, digit. Separators interrupt and do not count.

    `customer_order_2024` has none; of drawn letters and digits six in ten neighbours differ, of hexadecimal ones five.
    """
    switches = 0
    for piece in ALNUM.findall(value):
        classes = [(char.isdigit(), char.isupper()) for char in piece]
        switches += sum(left != right for left, right in pairwise(classes))
    return switches


def is_drawn(value: str, *, min_entropy: float = 2.8) -> bool:
    """Tell whether a run of characters is drawn: many different ones, in an order that no name has.

    Args:
        value: 16 characters or more.
        min_entropy: bits per character; 32 drawn hexadecimal digits have 3.0 to 3.9.
    """
    if is_sample(value) or entropy(value) < min_entropy:
        return False
    # Capitals alone (base32) and hexadecimal digits are no words: their entropy is enough.
    return value.isupper() or LONG_HEX.fullmatch(value) is not None or num_switches(value) * 8 >= len(value)
