"""Check sums that stand alone in an answer: two numbers, one operator, and their result."""

from __future__ import annotations

import re
from decimal import Decimal, DivisionByZero, InvalidOperation

NUMBER = r"[$€£]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[$€£]?\d{1,15}(?:\.\d{1,9})?"
SUM = re.compile(
    # Not the end of a longer expression, of `3x`, of a mixed number (`1 1/2`, `1 and 1/2`) or of a time of day,
    r"(?<![\w.,:)\]}^+*/×÷=%$€£\\−-])(?<![+*/×÷=^(x−-] )(?<!\d )(?<!\) )(?<!\d and )"
    rf"({NUMBER})( ?[+*/×÷−-] ?| x |(?<=\d)x(?=\d))({NUMBER}) ?= ?([-−]?(?:{NUMBER}))"
    # nor the beginning of one: no units of another size, no remainders, no mixed numbers.
    r"(?![\w%°^!:]|[.,]\d| ?[-+*/×÷−(^]| x | \d| ?(?:mod|r|rem|cents?|thousand|million|billion|hundred|dozen|and a)\b)"
)
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
    if any(len(number) > 1 and number[0] == "0" and number[1].isdigit() for number in (left, right, stated)):
        return False  # a time or a code
    one, other, result = (_value(text) for text in (left, right, stated))
    try:
        exact = _computed(one, operator.strip(), other)
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
