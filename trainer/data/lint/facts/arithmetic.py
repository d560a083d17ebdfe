"""Check sums in an answer: two numbers, one operator, and their result."""

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
SPECIAL_NUMBERS = re.compile(
    r"\b(?:binary|octal|hexa?decimal|base|mod(?:ulo|ular)?|puzzles?|riddles?|patterns?|clock|wrong|incorrect)\b"
)


def has_wrong_sum(prompt: str, answer: str) -> bool:
    """Tell whether an answer has a sum with a wrong result. Other bases and puzzles are not checked.

    Example:
        >>> has_wrong_sum("", "114 + 121 = 237"), has_wrong_sum("", "10 / 3 = 3.33")
        (True, False)
    """
    if "=" not in answer:
        return False
    wrong = [match for match in SUM.finditer(answer) if _is_wrong(*match.groups())]
    if not wrong or SPECIAL_NUMBERS.search(prompt.lower()) or SPECIAL_NUMBERS.search(answer.lower()):
        return False
    return any(match[0] not in prompt for match in wrong)


def _is_wrong(left: str, operator: str, right: str, stated: str) -> bool:
    if any(len(number) > 1 and number[0] == "0" and number[1].isdigit() for number in (left, right, stated)):
        return False  # a time or a code
    result = _value(stated)
    try:
        exact = _computed(_value(left), operator.strip(), _value(right))
    except (DivisionByZero, InvalidOperation):
        return False
    # Of the last digit, an error of half a unit is rounding, of less than one unit truncation.
    return abs(exact - result) >= Decimal(1).scaleb(int(result.as_tuple().exponent))


def _value(text: str) -> Decimal:
    return Decimal(re.sub("[$€£,]", "", text).replace("−", "-"))


def _computed(left: Decimal, operator: str, right: Decimal) -> Decimal:
    match operator:
        case "+":
            return left + right
        case "-" | "−":
            return left - right
        case "*" | "×" | "x":
            return left * right
        case _:
            return left / right
