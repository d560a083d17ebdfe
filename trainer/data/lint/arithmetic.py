"""Check sums that stand alone in an answer: two numbers, one operator, and their result."""

from __future__ import annotations

import re
from decimal import Decimal, DivisionByZero, InvalidOperation

NUMBER = r"[-−]?[$€£]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-−]?[$€£]?\d{1,15}(?:\.\d{1,9})?"
SUM = re.compile(
    rf"(?<![\w.,)\]}}^+*/×÷=%$€£\\-])(?<![+*/×÷=^(−-] )(?<![+*/×÷=^(−-])({NUMBER}) ?([-+*/×÷−x]) ?({NUMBER})"
    rf" ?= ?({NUMBER})(?![\w.,]*\d|[%^!°])(?! ?[-+*/×÷−(^]| ?x ?\d| ?mod\b| ?\(mod| ?r(?:em)?\.? ?\d)",
)
"""Not a part of a longer expression, no percentages, no remainders."""
OTHER_NUMBERS = re.compile(
    r"\b(?:binary|octal|hexa?decimal|base|mod(?:ulo|ular)?|puzzles?|riddles?|patterns?|clock|wrong|incorrect)\b"
)


def has_wrong_sum(prompt: str, answer: str) -> bool:
    """Tell a sum whose result is wrong, to the digits that are written; other bases and puzzles are left alone."""
    if "=" not in answer:
        return False
    wrong = [match for match in SUM.finditer(answer) if _is_wrong(*match.groups())]
    if not wrong or OTHER_NUMBERS.search(prompt.lower()) or OTHER_NUMBERS.search(answer.lower()):
        return False
    return any(match[0] not in prompt for match in wrong)


def _is_wrong(left: str, operator: str, right: str, stated: str) -> bool:
    one, other, result = (_value(text) for text in (left, right, stated))
    try:
        exact = _computed(one, operator, other)
    except (DivisionByZero, InvalidOperation):
        return False
    # Half a unit is rounding, up to a whole one is cutting off.
    return abs(exact - result) >= Decimal(1).scaleb(int(result.as_tuple().exponent))


def _value(text: str) -> Decimal:
    return Decimal(re.sub("[$€£,]", "", text).replace("−", "-"))


def _computed(one: Decimal, operator: str, other: Decimal) -> Decimal:
    match operator:
        case "+":
            return one + other
        case "-" | "−":
            return one - other
        case "*" | "×" | "x":
            return one * other
        case _:
            return one / other
